// Flash attention forward for one KV block on a software adapter. One workgroup is one subgroup and has no barriers; a
// lane holds ROWS_PER_LANE query rows, keys come one at a time, one element to a lane, and are broadcast from there.
//   q [B, rows_q, H, Dqk]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]   out [B, rows_q, H, Dv]   lse [B, H, rows_q]
// requires: schedule.wgsl, mask.wgsl
enable subgroups;

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const SUBGROUP_SIZE: u32 = 8;
const ROWS_PER_LANE: u32 = 4;
const CHUNK_SIZE: u32 = 4; // divides both head dims
alias Chunk = vec4f; // CHUNK_SIZE elements of k and v: vec4f, vec2f or array<f32, 1>

const LOAD_SIZE: u32 = SUBGROUP_SIZE * CHUNK_SIZE; // elements that the subgroup loads at once
const LOADS_QK: u32 = (HEAD_DIM_QK + LOAD_SIZE - 1) / LOAD_SIZE;
const LOADS_V: u32 = (HEAD_DIM_V + LOAD_SIZE - 1) / LOAD_SIZE;
const RESCALE_THRESHOLD: f32 = 8; // log2 units: p stays below 2^8, and a running maximum moves only a few times a row

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<Chunk>;
@group(0) @binding(2) var<storage, read> v: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let tile = tiles[workgroup.x];
  let head = workgroup.y;
  let batch = workgroup.z;

  // Indexed [d * ROWS_PER_LANE + r]. The loops that fill and drain these arrays end at a head dim that is only known at
  // run time, so they stay loops and the arrays stay in memory: the hot loop, whose indices are constants, then takes
  // them as operands, where a compiler that put each element in a register of its own would spill, and take minutes.
  var q_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var accumulator: array<f32, HEAD_DIM_V * ROWS_PER_LANE>;
  var kv_lane: array<f32, max(LOADS_QK, LOADS_V) * CHUNK_SIZE>; // this lane's share of one key, then of its value
  var row_max: array<f32, ROWS_PER_LANE>;
  var row_sum: array<f32, ROWS_PER_LANE>;
  var query_position: array<u32, ROWS_PER_LANE>;
  for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
    row_max[r] = INITIAL_MAX;
    row_sum[r] = 0.0;
    query_position[r] = tile.position + tile.position_stride * (r * SUBGROUP_SIZE + lane);
  }
  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    let row = min(r * SUBGROUP_SIZE + lane, tile.row_count - 1);
    let offset = query_offset(batch, tile.row + row, head, HEAD_DIM_QK);
    for (var d = 0u; d < params.head_dim_qk; d++) {
      q_rows[d * ROWS_PER_LANE + r] = q[offset + d] * params.softmax_scale_log2;
    }
  }
  for (var i = 0u; i < params.head_dim_v * ROWS_PER_LANE; i++) {
    accumulator[i] = 0.0;
  }

  for (var i = 0u; i < tile.range_count; i++) {
    let range = ranges[tile.first_range + i];
    for (var j = 0u; j < range.count; j++) {
      let k_offset = kv_offset(batch, range.row + j, head, HEAD_DIM_QK) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_QK; load++) {
        let chunk = k[k_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          kv_lane[load * CHUNK_SIZE + c] = chunk[c];
        }
      }
      var score = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let k_element = subgroupShuffle(kv_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE], d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          score[r] += q_rows[d * ROWS_PER_LANE + r] * k_element;
        }
      }
      if (j >= range.full_count) {
        let key_position = range.position + range.position_stride * j;
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          score[r] = select(MASKED_SCORE, score[r], keeps_key(query_position[r], key_position));
        }
      }

      var grows = false;
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        grows = grows || score[r] > row_max[r] + RESCALE_THRESHOLD;
      }
      if (grows) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          let new_max = max(row_max[r], score[r]);
          let correction = exp2(row_max[r] - new_max);
          row_max[r] = new_max;
          row_sum[r] *= correction;
          for (var d = 0u; d < params.head_dim_v; d++) {
            accumulator[d * ROWS_PER_LANE + r] *= correction;
          }
        }
      }
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        score[r] = exp2(score[r] - row_max[r]);
        row_sum[r] += score[r];
      }

      let v_offset = kv_offset(batch, range.row + j, head, HEAD_DIM_V) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_V; load++) {
        let chunk = v[v_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          kv_lane[load * CHUNK_SIZE + c] = chunk[c];
        }
      }
      for (var d = 0u; d < HEAD_DIM_V; d++) { // unroll
        let v_element = subgroupShuffle(kv_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE], d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          accumulator[d * ROWS_PER_LANE + r] += score[r] * v_element;
        }
      }
    }
  }

  for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
    let row = r * SUBGROUP_SIZE + lane;
    if (row < tile.row_count) {
      let seen = row_sum[r] > 0.0;
      let offset = query_offset(batch, tile.row + row, head, HEAD_DIM_V);
      let weight = select(0.0, 1.0 / row_sum[r], seen);
      for (var d = 0u; d < params.head_dim_v; d++) {
        out[offset + d] = accumulator[d * ROWS_PER_LANE + r] * weight;
      }
      lse[lse_index(batch, head, tile.row + row)] = select(MASKED_LSE, (row_max[r] + log2(row_sum[r])) * LN_2, seen);
    }
  }
}

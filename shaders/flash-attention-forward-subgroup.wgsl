// Flash attention forward for one KV block on a software adapter. One workgroup is one subgroup and has no barriers; a
// lane holds ROWS_PER_LANE query rows, keys come one at a time, one element to a lane, and are broadcast from there.
// With SPLITS_KEYS the rows are those of all heads that share a KV head, and the results are partial: see
// split-rows.wgsl.
//   q [B, rows_q, H, Dqk]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]   out [B, rows_q, H, Dv]   lse [B, H, rows_q]
// requires: schedule.wgsl, mask.wgsl, element.wgsl, score.wgsl, dropout.wgsl, online-softmax.wgsl, split-rows.wgsl
enable subgroups;

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const SUBGROUP_SIZE: u32 = 8;
const ROWS_PER_LANE: u32 = 4;
const CHUNK_SIZE: u32 = 4; // elements in a chunk; divides both head dims
alias Chunk = vec4u; // CHUNK_SIZE elements of k and v: vec4u, vec2u or array<u32, 1>

const LOAD_SIZE: u32 = SUBGROUP_SIZE * CHUNK_SIZE; // elements that the subgroup loads at once
const LOADS_QK: u32 = (HEAD_DIM_QK + LOAD_SIZE - 1) / LOAD_SIZE;
const LOADS_V: u32 = (HEAD_DIM_V + LOAD_SIZE - 1) / LOAD_SIZE;
override HAS_DROPOUT: bool = false;
override SPLITS_KEYS: bool = false;
// In log2 units. Weights stay below 2^24, so that sums over a million keys are far from overflow for |v| up to 2^80, and
// rising scores (ALiBi) seldom move a maximum; rounding score - maximum costs 24 * 2^-24 at most.
const RESCALE_THRESHOLD: f32 = 24;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<Chunk>;
@group(0) @binding(2) var<storage, read> v: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let tile = load_tile(workgroup.x);
  let batch = batch_of(tile);
  let num_packed = select(1u, params.group_size, SPLITS_KEYS); // heads of the workgroup
  let kv_head = workgroup.y * num_packed / params.group_size;
  let num_rows = tile.row_count * num_packed;
  let first_row = workgroup.z * SUBGROUP_SIZE * ROWS_PER_LANE;
  if (first_row >= num_rows) {
    return;
  }

  // Indexed [d * ROWS_PER_LANE + r]. The loops that fill and drain these arrays end at a head dim that is only known at
  // run time, so they stay loops and the arrays stay in memory: the hot loop, whose indices are constants, then takes
  // them as operands, where a compiler that put each element in a register of its own would spill, and take minutes.
  var q_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var accumulator: array<f32, HEAD_DIM_V * ROWS_PER_LANE>;
  var kv_lane: array<f32, max(LOADS_QK, LOADS_V) * CHUNK_SIZE>; // this lane's share of one key, then of its value
  var row_max: array<f32, ROWS_PER_LANE>;
  var row_sum: array<f32, ROWS_PER_LANE>;
  var row_largest: array<f32, ROWS_PER_LANE>;
  var query_row: array<u32, ROWS_PER_LANE>; // within the tile; a lane without a row repeats the last one
  var query_head: array<u32, ROWS_PER_LANE>;
  var query_position: array<u32, ROWS_PER_LANE>;
  for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
    let packed_row = min(first_row + r * SUBGROUP_SIZE + lane, num_rows - 1);
    query_row[r] = packed_row / num_packed;
    query_head[r] = workgroup.y * num_packed + packed_row % num_packed;
    query_position[r] = tile.position + tile.position_stride * query_row[r];
    let start = start_row(tile, query_head[r]);
    row_max[r] = start.max;
    row_sum[r] = start.sum;
    row_largest[r] = INITIAL_MAX;
  }
  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    let offset = query_offset(batch, tile.row + query_row[r], query_head[r], HEAD_DIM_QK);
    for (var d = 0u; d < params.head_dim_qk; d++) {
      let at = offset + d;
      q_rows[d * ROWS_PER_LANE + r] = decode_element(q[at / ELEMENTS_PER_WORD], at) * params.score_scale;
    }
  }
  for (var i = 0u; i < params.head_dim_v * ROWS_PER_LANE; i++) {
    accumulator[i] = 0.0;
  }

  for (var i = 0u; i < tile.range_count; i++) {
    let range = load_range(tile.first_range + i);
    for (var j = 0u; j < range.count; j++) {
      let k_offset = kv_offset(batch, range.row + j, kv_head, HEAD_DIM_QK) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_QK; load++) {
        let chunk = k[k_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          kv_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
        }
      }
      let key_position = range.position + range.position_stride * j;
      var term = array<f32, ROWS_PER_LANE>();
      if (HAS_ALIBI || HAS_BIAS) {
        // Before the product: a load is a branch to a software adapter, and one between product and softmax makes its
        // compiler store all sums.
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          let row = tile.row + query_row[r];
          term[r] = score_term(batch, query_head[r], row, query_position[r], tile.offset, key_position);
        }
      }
      var score = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let k_element = subgroupShuffle(kv_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE], d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          score[r] += q_rows[d * ROWS_PER_LANE + r] * k_element;
        }
      }
      if (HAS_SOFTCAP || HAS_ALIBI || HAS_BIAS) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          score[r] = cap_dot(score[r]).value + term[r];
        }
      }
      if (j < range.full_begin || j >= range.full_end) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          score[r] = select(MASKED_SCORE, score[r], keeps_key(query_position[r], tile.offset, key_position));
        }
      }
      if (TRACKS_MAX) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          row_largest[r] = max(row_largest[r], score[r]);
        }
      }

      var growth = 0.0;
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        // The first key of a row sets its maximum: there is nothing yet to rescale.
        row_max[r] = select(row_max[r], max(score[r], INITIAL_MAX), row_max[r] == INITIAL_MAX);
        growth = max(growth, score[r] - row_max[r]);
      }
      if (growth > RESCALE_THRESHOLD) {
        var correction = array<f32, ROWS_PER_LANE>();
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          let new_max = max(row_max[r], score[r]);
          correction[r] = exp2(row_max[r] - new_max);
          row_max[r] = new_max;
          row_sum[r] *= correction[r];
        }
        for (var d = 0u; d < params.head_dim_v; d++) {
          for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
            accumulator[d * ROWS_PER_LANE + r] *= correction[r];
          }
        }
      }
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        score[r] = exp2(score[r] - row_max[r]);
        row_sum[r] += score[r];
      }
      if (HAS_DROPOUT) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          let weights_key = dropout_key(tile.sequence, query_head[r]);
          score[r] *= dropout_factor(weights_key, query_position[r], key_position);
        }
      }

      let v_offset = kv_offset(batch, range.row + j, kv_head, HEAD_DIM_V) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_V; load++) {
        let chunk = v[v_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          kv_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
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
    if (first_row + r * SUBGROUP_SIZE + lane < num_rows) {
      let state = RowState(row_max[r], row_sum[r]);
      var weight = select(0.0, 1.0 / row_sum[r], row_sum[r] > 0.0);
      var offset = query_offset(batch, tile.row + query_row[r], query_head[r], HEAD_DIM_V);
      if (SPLITS_KEYS) {
        let index = split_row_index(workgroup.x, query_head[r], query_row[r]);
        write_split_state(index, state, row_largest[r]);
        weight = 1.0;
        offset = index * HEAD_DIM_V;
      } else {
        write_lse(row_index(batch, query_head[r], tile.row + query_row[r]), state, row_largest[r]);
      }
      for (var d = 0u; d < params.head_dim_v; d++) {
        out[offset + d] = accumulator[d * ROWS_PER_LANE + r] * weight;
      }
    }
  }
}

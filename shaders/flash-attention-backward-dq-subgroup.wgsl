// Flash attention backward, dq, for one KV block on a software adapter. One workgroup is one subgroup and has no
// barriers; a lane holds ROWS_PER_LANE query rows, keys come one at a time, one element to a lane, and are broadcast
// from there.
//   q, dq [B, rows_q, H, Dqk]   dout [B, rows_q, H, Dv]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   row_stats [B, H, rows_q]   bias see score.wgsl
// requires: schedule.wgsl, element.wgsl, score-gradient.wgsl
enable subgroups;

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const SUBGROUP_SIZE: u32 = 8;
const ROWS_PER_LANE: u32 = 4;
const CHUNK_SIZE: u32 = 4; // elements of a Chunk; divides both head dims
alias Chunk = vec4u; // CHUNK_SIZE / ELEMENTS_PER_WORD words of k and v: vec4u, vec2u or array<u32, 1>

const LOAD_SIZE: u32 = SUBGROUP_SIZE * CHUNK_SIZE; // elements that the subgroup loads at once
const LOADS_QK: u32 = (HEAD_DIM_QK + LOAD_SIZE - 1) / LOAD_SIZE;
const LOADS_V: u32 = (HEAD_DIM_V + LOAD_SIZE - 1) / LOAD_SIZE;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<Chunk>;
@group(0) @binding(2) var<storage, read> v: array<Chunk>;
@group(0) @binding(3) var<storage, read> dout: array<u32>;
@group(0) @binding(4) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let tile = load_tile(workgroup.x);
  let head = workgroup.y;
  let batch = batch_of(tile);
  let kv_head = head / params.group_size;
  let scope = pair_scope(tile, batch, head);

  // Indexed [d * ROWS_PER_LANE + r]. The loops that fill and drain these arrays end at a head dim that is only known at
  // run time, so they stay loops and the arrays stay in memory: the hot loop, whose indices are constants, then takes
  // them as operands, where a compiler that put each element in a register of its own would spill, and take minutes.
  var q_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var dout_rows: array<f32, HEAD_DIM_V * ROWS_PER_LANE>;
  var dq_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var k_lane: array<f32, LOADS_QK * CHUNK_SIZE>; // this lane's share of one key
  var v_lane: array<f32, LOADS_V * CHUNK_SIZE>; // and of its value
  var stats: array<vec2f, ROWS_PER_LANE>;
  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    // Lanes past the last row compute it again, and write nothing.
    let row = tile.row + min(r * SUBGROUP_SIZE + lane, tile.row_count - 1);
    let q_offset = query_offset(batch, row, head, HEAD_DIM_QK);
    for (var d = 0u; d < params.head_dim_qk; d++) {
      let at = q_offset + d;
      q_rows[d * ROWS_PER_LANE + r] = decode_element(q[at / ELEMENTS_PER_WORD], at) * params.score_scale;
      dq_rows[d * ROWS_PER_LANE + r] = 0.0;
    }
    let dout_offset = query_offset(batch, row, head, HEAD_DIM_V);
    for (var d = 0u; d < params.head_dim_v; d++) {
      let at = dout_offset + d;
      dout_rows[d * ROWS_PER_LANE + r] = decode_element(dout[at / ELEMENTS_PER_WORD], at);
    }
  }
  for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
    stats[r] = row_stats[row_index(batch, head, tile.row + min(r * SUBGROUP_SIZE + lane, tile.row_count - 1))];
  }

  for (var index = 0u; index < tile.range_count; index++) {
    let range = load_range(tile.first_range + index);
    for (var key = 0u; key < range.count; key++) {
      // Everything that branches comes before the products (`&&` does, `&` does not) but for the mask: a compiler moves
      // the additions of a sum behind the next branch, where it has to spill all that they add.
      let j = range.position + range.position_stride * key;
      let is_full = (key >= range.full_begin) & (key < range.full_end);
      let k_offset = kv_offset(batch, range.row + key, kv_head, HEAD_DIM_QK) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_QK; load++) {
        let chunk = k[k_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          k_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
        }
      }
      let v_offset = kv_offset(batch, range.row + key, kv_head, HEAD_DIM_V) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_V; load++) {
        let chunk = v[v_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          v_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
        }
      }

      var qk = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let share = k_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          qk[r] += q_rows[d * ROWS_PER_LANE + r] * element;
        }
      }
      var dout_v = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_V; d++) { // unroll
        let share = v_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          dout_v[r] += dout_rows[d * ROWS_PER_LANE + r] * element;
        }
      }

      var is_kept = array<bool, ROWS_PER_LANE>();
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        is_kept[r] = true;
      }
      if (!is_full) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          is_kept[r] = keeps_key(tile.position + tile.position_stride * (r * SUBGROUP_SIZE + lane), tile.offset, j);
        }
      }
      var dx = array<f32, ROWS_PER_LANE>();
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        let row = min(r * SUBGROUP_SIZE + lane, tile.row_count - 1);
        let pair = Pair(tile.row + row, tile.position + tile.position_stride * row, j, is_kept[r]);
        dx[r] = pair_gradient(scope, pair, vec2f(qk[r], dout_v[r]), stats[r]).dot;
      }

      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let share = k_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          dq_rows[d * ROWS_PER_LANE + r] += dx[r] * element;
        }
      }
    }
  }

  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    let row = r * SUBGROUP_SIZE + lane;
    if (row < tile.row_count) {
      let offset = query_offset(batch, tile.row + row, head, HEAD_DIM_QK);
      for (var d = 0u; d < params.head_dim_qk; d++) {
        let gradient = params.softmax_scale * dq_rows[d * ROWS_PER_LANE + r];
        if (params.accumulates == 1) {
          dq[offset + d] += gradient;
        }
        if (params.accumulates == 0) {
          dq[offset + d] = gradient;
        }
      }
    }
  }
}

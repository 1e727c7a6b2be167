// Flash attention backward, dk and dv, for one KV block on a software adapter. One workgroup is one subgroup and has no
// barriers; a lane holds ROWS_PER_LANE KV rows. The query rows of every head that shares the KV head come one at a
// time, one element to a lane, and are broadcast from there.
//   q [B, rows_q, H, Dqk]   dout [B, rows_q, H, Dv]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   row_stats [B, H, rows_q]   bias see score.wgsl   dkv: dk [B, rows_kv, Hkv, Dqk], then dv [B, rows_kv, Hkv, Dv]
// requires: schedule.wgsl, element.wgsl, score-gradient.wgsl
enable subgroups;

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const SUBGROUP_SIZE: u32 = 8;
const ROWS_PER_LANE: u32 = 3;
const CHUNK_SIZE: u32 = 4; // elements of a Chunk; divides both head dims
alias Chunk = vec4u; // CHUNK_SIZE / ELEMENTS_PER_WORD words of q and dout: vec4u, vec2u or array<u32, 1>

const LOAD_SIZE: u32 = SUBGROUP_SIZE * CHUNK_SIZE; // elements that the subgroup loads at once
const LOADS_QK: u32 = (HEAD_DIM_QK + LOAD_SIZE - 1) / LOAD_SIZE;
const LOADS_V: u32 = (HEAD_DIM_V + LOAD_SIZE - 1) / LOAD_SIZE;

@group(0) @binding(0) var<storage, read> q: array<Chunk>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<Chunk>;
@group(0) @binding(4) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> dkv: array<f32>;

fn write_gradient(at: u32, gradient: f32) {
  if (params.accumulates == 1) {
    dkv[at] += gradient;
  }
  if (params.accumulates == 0) {
    dkv[at] = gradient;
  }
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let tile = load_tile(workgroup.x);
  let kv_head = workgroup.y;
  let batch = batch_of(tile);

  // Indexed [d * ROWS_PER_LANE + r]. The loops that fill and drain these arrays end at a head dim that is only known at
  // run time, so that the arrays stay in memory: see flash-attention-backward-dq-subgroup.wgsl.
  var k_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var v_rows: array<f32, HEAD_DIM_V * ROWS_PER_LANE>;
  var dk_rows: array<f32, HEAD_DIM_QK * ROWS_PER_LANE>;
  var dv_rows: array<f32, HEAD_DIM_V * ROWS_PER_LANE>;
  var q_lane: array<f32, LOADS_QK * CHUNK_SIZE>; // this lane's share of one query
  var dout_lane: array<f32, LOADS_V * CHUNK_SIZE>; // and of its dout
  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    // Lanes past the last row compute it again, and write nothing.
    let row = tile.row + min(r * SUBGROUP_SIZE + lane, tile.row_count - 1);
    let k_offset = kv_offset(batch, row, kv_head, HEAD_DIM_QK);
    for (var d = 0u; d < params.head_dim_qk; d++) {
      let at = k_offset + d;
      k_rows[d * ROWS_PER_LANE + r] = decode_element(k[at / ELEMENTS_PER_WORD], at) * params.score_scale;
      dk_rows[d * ROWS_PER_LANE + r] = 0.0;
    }
    let v_offset = kv_offset(batch, row, kv_head, HEAD_DIM_V);
    for (var d = 0u; d < params.head_dim_v; d++) {
      let at = v_offset + d;
      v_rows[d * ROWS_PER_LANE + r] = decode_element(v[at / ELEMENTS_PER_WORD], at);
      dv_rows[d * ROWS_PER_LANE + r] = 0.0;
    }
  }

  for (var step = 0u; step < params.group_size * tile.range_count; step++) {
    let head = kv_head * params.group_size + step / tile.range_count;
    let range = load_range(tile.first_range + step % tile.range_count);
    let scope = pair_scope(tile, batch, head);
    for (var query = 0u; query < range.count; query++) {
      // Everything that branches, loads among it, comes before the products: see
      // flash-attention-backward-dq-subgroup.wgsl.
      let row = range.row + query;
      let i = range.position + range.position_stride * query;
      let is_full = (query >= range.full_begin) & (query < range.full_end);
      let stats = row_stats[row_index(batch, head, row)];
      let q_offset = query_offset(batch, row, head, HEAD_DIM_QK) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_QK; load++) {
        let chunk = q[q_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          q_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
        }
      }
      let dout_offset = query_offset(batch, row, head, HEAD_DIM_V) / CHUNK_SIZE + lane;
      for (var load = 0u; load < LOADS_V; load++) {
        let chunk = dout[dout_offset + load * SUBGROUP_SIZE];
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          dout_lane[load * CHUNK_SIZE + c] = decode_element(chunk[c / ELEMENTS_PER_WORD], c);
        }
      }

      var qk = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let share = q_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          qk[r] += k_rows[d * ROWS_PER_LANE + r] * element;
        }
      }
      var dout_v = array<f32, ROWS_PER_LANE>();
      for (var d = 0u; d < HEAD_DIM_V; d++) { // unroll
        let share = dout_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          dout_v[r] += v_rows[d * ROWS_PER_LANE + r] * element;
        }
      }

      var is_kept = array<bool, ROWS_PER_LANE>();
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        is_kept[r] = true;
      }
      if (!is_full) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          is_kept[r] = keeps_key(i, tile.offset, tile.position + tile.position_stride * (r * SUBGROUP_SIZE + lane));
        }
      }
      var weight = array<f32, ROWS_PER_LANE>();
      var dx = array<f32, ROWS_PER_LANE>();
      for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
        let j = tile.position + tile.position_stride * min(r * SUBGROUP_SIZE + lane, tile.row_count - 1);
        let pair = Pair(row, i, j, is_kept[r]);
        let gradient = pair_gradient(scope, pair, vec2f(qk[r], dout_v[r]), stats);
        weight[r] = gradient.weight;
        dx[r] = gradient.dot;
      }

      for (var d = 0u; d < HEAD_DIM_V; d++) { // unroll
        let share = dout_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          dv_rows[d * ROWS_PER_LANE + r] += weight[r] * element;
        }
      }
      for (var d = 0u; d < HEAD_DIM_QK; d++) { // unroll
        let share = q_lane[d / LOAD_SIZE * CHUNK_SIZE + d % CHUNK_SIZE];
        let element = subgroupShuffle(share, d / CHUNK_SIZE % SUBGROUP_SIZE);
        for (var r = 0u; r < ROWS_PER_LANE; r++) { // unroll
          dk_rows[d * ROWS_PER_LANE + r] += dx[r] * element;
        }
      }
    }
  }

  let dv_begin = kv_offset(params.batch, 0, 0, HEAD_DIM_QK);
  for (var r = 0u; r < ROWS_PER_LANE; r++) {
    let row = r * SUBGROUP_SIZE + lane;
    if (row < tile.row_count) {
      let dk_offset = kv_offset(batch, tile.row + row, kv_head, HEAD_DIM_QK);
      for (var d = 0u; d < params.head_dim_qk; d++) {
        // q carries no scale here, and k carries score_scale: dx is the gradient of the scaled product.
        write_gradient(dk_offset + d, params.softmax_scale * dk_rows[d * ROWS_PER_LANE + r]);
      }
      let dv_offset = dv_begin + kv_offset(batch, tile.row + row, kv_head, HEAD_DIM_V);
      for (var d = 0u; d < params.head_dim_v; d++) {
        write_gradient(dv_offset + d, dv_rows[d * ROWS_PER_LANE + r]);
      }
    }
  }
}

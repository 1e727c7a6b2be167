// What the backward kernels need of each query row besides q and dout: lse in log2 units, and delta = Σ_d dout * out,
// the term that the softmax's derivative has in common for all keys of a row (FlashAttention-2, arXiv 2307.08691,
// §3.1.2).
//   out, dout [B, rows_q, H, Dv], out in f32   lse [B, H, rows_q]   row_stats [B, H, rows_q] of (lse * log2(e), delta)
// One invocation to a row: this reads O(S * D) where the kernels behind it compute O(S² * D).
// requires: schedule.wgsl, element.wgsl

@group(0) @binding(0) var<storage, read> out: array<f32>;
@group(0) @binding(1) var<storage, read> dout: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> row_stats: array<vec2f>;

const WORKGROUP_SIZE: u32 = 32;
// In place of lse in a row without a key: exp2(score - UNSEEN_LSE) is 0 for every score, masked or not.
const UNSEEN_LSE: f32 = 1e30;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let head = workgroup.y;
  let batch = batch_of(tile);
  for (var row = invocation; row < tile.row_count; row += WORKGROUP_SIZE) {
    let offset = query_offset(batch, tile.row + row, head, params.head_dim_v);
    var delta = 0.0;
    for (var d = 0u; d < params.head_dim_v; d++) {
      let at = offset + d;
      delta += decode_element(dout[at / ELEMENTS_PER_WORD], at) * out[at];
    }
    let index = row_index(batch, head, tile.row + row);
    // Half of MASKED_LSE, because a sink of -Infinity leaves a row without a key at its own finite stand-in.
    let is_unseen = lse[index] <= 0.5 * MASKED_LSE;
    row_stats[index] = select(vec2f(lse[index] * LOG2_E, delta), vec2f(UNSEEN_LSE, 0.0), is_unseen);
  }
}

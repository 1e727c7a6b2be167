// Merges the partial results of splits of the keys, in the order of the splits: one workgroup for the rows of one tile
// of one head. The ranges of a tile [first_range, first_range + range_count) are its splits. The sink is added here.
//   split_out, split_state as split-rows.wgsl says   out [B, rows_q, H, Dv]   lse [B, H, rows_q], twice with max logit
// requires: schedule.wgsl, mask.wgsl, online-softmax.wgsl, split-rows.wgsl

override WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> split_out: array<f32>;
@group(0) @binding(1) var<storage, read> split_state: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let batch = batch_of(tile);
  let head = workgroup.y;
  let stride = params.num_heads * SPLIT_ROWS; // rows of a split
  for (var row = 0u; row < tile.row_count; row++) {
    let first = split_row_index(tile.first_range, head, row);
    let end = first + tile.range_count * stride;
    let start = start_row(tile, head);
    var state = start;
    var largest = INITIAL_MAX;
    for (var split = first; split < end; split += stride) {
      state.max = max(state.max, split_state[split].x);
      largest = max(largest, split_state[split].z);
    }
    state.sum = start.sum * exp2(start.max - state.max);
    for (var split = first; split < end; split += stride) {
      state.sum += split_state[split].y * exp2(split_state[split].x - state.max);
    }
    let weight = select(0.0, 1.0 / state.sum, state.sum > 0.0);
    let offset = query_offset(batch, tile.row + row, head, params.head_dim_v);
    for (var d = invocation; d < params.head_dim_v; d += WORKGROUP_SIZE) {
      var sum = 0.0;
      for (var split = first; split < end; split += stride) {
        sum += split_out[split * params.head_dim_v + d] * exp2(split_state[split].x - state.max);
      }
      out[offset + d] = sum * weight;
    }
    if (invocation == 0) {
      write_lse(row_index(batch, head, tile.row + row), state, largest);
    }
  }
}

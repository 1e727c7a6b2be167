// The gradient of the sinks' logits: dsink_h = -Σ exp(sink_h - lse_i) * delta_i over the query rows i of all tiles. A
// sink is a key with the value 0, so its dP is 0 and its dS = P * (0 - delta). A row that saw no key has delta 0.
//   row_stats [B, H, rows_q] of (lse * log2(e), delta)   dsink [H]
// One workgroup to a head; every invocation sums some of the rows of each tile, then halves of the workgroup are added.
// Workgroup memory: 512 B.
// requires: schedule.wgsl

@group(0) @binding(0) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> dsink: array<f32>;

const WORKGROUP_SIZE: u32 = 128;

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let head = workgroup.x;
  let sink = heads.sink[head / 4][head % 4];
  var sum = 0.0;
  for (var index = 0u; index < params.first_range_word / TILE_WORDS; index++) {
    let tile = load_tile(index);
    // Padding has no sink.
    if (tile.position_stride > 0) {
      for (var row = invocation; row < tile.row_count; row += WORKGROUP_SIZE) {
        let stats = row_stats[row_index(batch_of(tile), head, tile.row + row)];
        sum -= exp2(sink - stats.x) * stats.y;
      }
    }
  }
  sums[invocation] = sum;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (invocation < half) {
      sums[invocation] += sums[invocation + half];
    }
  }
  if (invocation == 0) {
    dsink[head] = sums[0];
  }
}

// Adds to the gradients of a tile's rows: the product of a matrix of weights in workgroup memory with the other rows.
// An invocation owns ROWS rows and every COLUMNS-th element of their gradients. Begins and ends with a barrier.
// Workgroup memory: 8192 B of weights, or 4096 B with 32 rows, besides the stage of tile-products.wgsl.
// requires: schedule.wgsl, tile-products.wgsl

// Elements of a gradient of an invocation, in each of its rows.
const ELEMENTS: u32 = (max(HEAD_DIM_QK, HEAD_DIM_V) + COLUMNS - 1) / COLUMNS;

var<workgroup> weights: array<f32, TILE_OTHERS * TILE_ROWS>; // [other][row]

// accumulator [element][row] += weights · rows of q or k (is_qk), or of dout or v.
fn accumulate_rows(
  accumulator: ptr<private, array<f32, ROWS * ELEMENTS>>,
  is_qk: bool,
  block: TileBlock,
  invocation: u32,
) {
  let head_dim = select(HEAD_DIM_V, HEAD_DIM_QK, is_qk);
  let stage_rows = min(TILE_OTHERS, STAGE_SIZE / head_dim); // other rows on the stage [other][d] at a time
  let first_row = invocation / COLUMNS * ROWS;
  let column = invocation % COLUMNS;
  for (var base = 0u; base < block.other_count; base += stage_rows) {
    let staged = min(stage_rows, block.other_count - base);
    for (var i = invocation; i < staged * head_dim; i += WORKGROUP_SIZE) {
      let row = block.other_row + base + i / head_dim;
      stage[i] = load_element(!OWNS_KEYS, is_qk, block, row, i % head_dim);
    }
    workgroupBarrier();
    for (var other = 0u; other < staged; other++) {
      var row_weights = array<f32, ROWS>();
      for (var r = 0u; r < ROWS; r++) {
        row_weights[r] = weights[(base + other) * TILE_ROWS + first_row + r];
      }
      for (var e = 0u; e < ELEMENTS; e++) {
        // Past the last column this reads some other element of the stage, and the sum is never written.
        let element = stage[min(other * head_dim + e * COLUMNS + column, STAGE_SIZE - 1)];
        for (var r = 0u; r < ROWS; r++) {
          (*accumulator)[e * ROWS + r] += row_weights[r] * element;
        }
      }
    }
    workgroupBarrier();
  }
}

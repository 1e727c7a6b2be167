// The products q·k and dout·v of TILE_ROWS rows of one side with up to TILE_OTHERS rows of the other, register-blocked,
// in workgroup memory: an invocation has ROWS neighbouring rows and every COLUMNS-th other row. Ends with a barrier.
// Workgroup memory: `stage`, STAGE_SIZE elements: 6144 B, or 4096 B with 32 rows. A kernel that requires this module
// binds q, k, v and dout as array<u32>, and declares HEAD_DIM_QK, HEAD_DIM_V, ROWS, COLUMNS, and OWNS_KEYS: whether the
// rows of its tiles are keys (and the others queries), or the other way round.
// requires: schedule.wgsl, element.wgsl

const ROW_GROUPS: u32 = 16; // invocations that lie above one another in a tile
const TILE_ROWS: u32 = ROW_GROUPS * ROWS;
const TILE_OTHERS: u32 = 32;
const OTHERS: u32 = TILE_OTHERS / COLUMNS; // other rows of an invocation
const WORKGROUP_SIZE: u32 = ROW_GROUPS * COLUMNS;
const STAGE_DIMS: u32 = 16; // elements of each row on the stage at a time
const STAGE_SIZE: u32 = (TILE_ROWS + TILE_OTHERS) * STAGE_DIMS;

// Rows are the fast index of the halves of the stage, so that neighbours never share a bank.
var<workgroup> stage: array<f32, STAGE_SIZE>; // [d][row], then [d][other]

// Rows of both sides that meet, all of one batch entry.
struct TileBlock {
  batch: u32,
  head: u32, // of the queries
  row: u32,
  row_count: u32,
  other_row: u32,
  other_count: u32,
}

// Element `d` of a row of q or k (is_qk), or of dout or v.
fn load_element(is_key: bool, is_qk: bool, block: TileBlock, row: u32, d: u32) -> f32 {
  let head_dim = select(HEAD_DIM_V, HEAD_DIM_QK, is_qk);
  if (is_key) {
    let at = kv_offset(block.batch, row, block.head / params.group_size, head_dim) + d;
    if (is_qk) {
      return decode_element(k[at / ELEMENTS_PER_WORD], at);
    }
    return decode_element(v[at / ELEMENTS_PER_WORD], at);
  }
  let at = query_offset(block.batch, row, block.head, head_dim) + d;
  if (is_qk) {
    return decode_element(q[at / ELEMENTS_PER_WORD], at);
  }
  return decode_element(dout[at / ELEMENTS_PER_WORD], at);
}

// Indexed [o * ROWS + r]; 0 where there is no such row or other row.
fn multiply_rows(is_qk: bool, block: TileBlock, invocation: u32) -> array<f32, OTHERS * ROWS> {
  let head_dim = select(HEAD_DIM_V, HEAD_DIM_QK, is_qk);
  let first_row = invocation / COLUMNS * ROWS;
  let column = invocation % COLUMNS;
  var sums = array<f32, OTHERS * ROWS>();
  for (var base = 0u; base < head_dim; base += STAGE_DIMS) {
    let num_dims = min(STAGE_DIMS, head_dim - base);
    for (var i = invocation; i < STAGE_SIZE; i += WORKGROUP_SIZE) {
      let d = i % STAGE_DIMS;
      let index = i / STAGE_DIMS;
      var element = 0.0;
      if (index < TILE_ROWS) {
        if (index < block.row_count && d < num_dims) {
          element = load_element(OWNS_KEYS, is_qk, block, block.row + index, base + d);
        }
        stage[d * TILE_ROWS + index] = element;
      } else {
        let other = index - TILE_ROWS;
        if (other < block.other_count && d < num_dims) {
          element = load_element(!OWNS_KEYS, is_qk, block, block.other_row + other, base + d);
        }
        stage[TILE_ROWS * STAGE_DIMS + d * TILE_OTHERS + other] = element;
      }
    }
    workgroupBarrier();
    for (var d = 0u; d < num_dims; d++) {
      var elements = array<f32, ROWS>();
      for (var r = 0u; r < ROWS; r++) {
        elements[r] = stage[d * TILE_ROWS + first_row + r];
      }
      for (var o = 0u; o < OTHERS; o++) {
        let element = stage[TILE_ROWS * STAGE_DIMS + d * TILE_OTHERS + o * COLUMNS + column];
        for (var r = 0u; r < ROWS; r++) {
          sums[o * ROWS + r] += elements[r] * element;
        }
      }
    }
    workgroupBarrier();
  }
  return sums;
}

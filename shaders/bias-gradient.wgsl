// The gradient of the additive bias for one KV block: dS, summed over the batch entries and heads that share a bias, in
// a fixed order. One workgroup has TILE_ROWS query rows of one head of the bias, and goes through all tiles of these
// rows.
//   q [B, rows_q, H, Dqk]   dout [B, rows_q, H, Dv]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   row_stats [B, H, rows_q]   bias, dbias [1 or B, 1 or H, rows_q, Skv], in which pairs of the block are added to
// Workgroup memory: 6144 B: see tile-products.wgsl.
// requires: schedule.wgsl, score-gradient.wgsl, tile-products.wgsl

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;

const COLUMNS: u32 = 8; // invocations that share a row
const ROWS: u32 = 4; // rows of an invocation
const OWNS_KEYS: bool = false;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<u32>;
@group(0) @binding(4) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;

var<private> sums: array<f32, OTHERS * ROWS>; // [other][row]: over heads

// Adds dS of the block's pairs to `sums`. `key` is the first of the block's keys in its range.
fn add_gradients(tile: Tile, range: Range, key: u32, block: TileBlock, invocation: u32) {
  let scope = pair_scope(tile, block.batch, block.head);
  var qk = multiply_rows(true, block, invocation);
  var dout_v = multiply_rows(false, block, invocation);
  for (var r = 0u; r < ROWS; r++) {
    let row = min(invocation / COLUMNS * ROWS + r, tile.row_count - 1);
    let i = tile.position + tile.position_stride * row;
    let stats = row_stats[row_index(block.batch, block.head, tile.row + row)];
    for (var o = 0u; o < OTHERS; o++) {
      let other = min(key + o * COLUMNS + invocation % COLUMNS, range.count - 1);
      let j = range.position + range.position_stride * other;
      let is_full = other >= range.full_begin && other < range.full_end;
      let pair = Pair(tile.row + row, i, j, is_full || keeps_key(i, tile.offset, j));
      let products = vec2f(params.score_scale * qk[o * ROWS + r], dout_v[o * ROWS + r]);
      sums[o * ROWS + r] += pair_gradient(scope, pair, products, stats).score;
    }
  }
}

// Adds the gradients of one tile, for `num_heads` heads from `first_head`.
fn add_tile(tile: Tile, first_head: u32, num_heads: u32, invocation: u32) {
  let batch = batch_of(tile);
  for (var index = 0u; index < tile.range_count; index++) {
    let range = load_range(tile.first_range + index);
    for (var key = 0u; key < range.count; key += TILE_OTHERS) {
      let num_keys = min(TILE_OTHERS, range.count - key);
      sums = array<f32, OTHERS * ROWS>();
      for (var head = first_head; head < first_head + num_heads; head++) {
        let block = TileBlock(batch, head, tile.row, tile.row_count, range.row + key, num_keys);
        add_gradients(tile, range, key, block, invocation);
      }
      for (var o = 0u; o < OTHERS; o++) {
        let other = o * COLUMNS + invocation % COLUMNS;
        let j = range.position + range.position_stride * (key + other);
        for (var r = 0u; r < ROWS; r++) {
          let row = invocation / COLUMNS * ROWS + r;
          if (other < num_keys && row < tile.row_count) {
            dbias[bias_index(batch, first_head, tile.row + row, j)] += sums[o * ROWS + r];
          }
        }
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = load_tile(workgroup.x).row;
  let num_heads = select(1u, params.num_heads, params.bias_head_stride == 0);
  // Batch entries may share these rows of the bias. Their tiles begin at the same rows, as far as an entry is long, and the
  // first tile in the list does the work of all of them. One loop for both cases: inlined twice, compilers take twice as long.
  let is_shared = params.bias_batch_stride == 0 && params.batch > 1;
  let first = select(workgroup.x, 0u, is_shared);
  let end = select(workgroup.x + 1, params.first_range_word / TILE_WORDS, is_shared);
  for (var index = first; index < end; index++) {
    let tile = load_tile(index);
    if (tile.position_stride > 0 && tile.row == row) {
      if (index < workgroup.x) {
        return;
      }
      add_tile(tile, workgroup.y, num_heads, invocation);
      storageBarrier();
    }
  }
}

// Flash attention backward, dq, for one KV block (FlashAttention-2, Dao 2023, arXiv 2307.08691, §3.1.2). One workgroup
// computes TILE_ROWS query rows of one head, 32 keys at a time: two register-blocked products give dx, which goes
// through workgroup memory to the third, with k.
//   q, dq [B, rows_q, H, Dqk]   dout [B, rows_q, H, Dv]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   row_stats [B, H, rows_q]   bias see score.wgsl
// Workgroup memory: 14336 B, or 8192 B with 32 rows: see the two tile modules.
// requires: schedule.wgsl, score-gradient.wgsl, tile-products.wgsl, tile-accumulation.wgsl

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
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;

var<private> dq_rows: array<f32, ROWS * ELEMENTS>; // [element][row]
var<private> stats: array<vec2f, ROWS>;

// dx of the block's pairs, as weights. `key` is the first of the block's keys in its range.
fn compute_weights(tile: Tile, scope: PairScope, range: Range, key: u32, block: TileBlock, invocation: u32) {
  var qk = multiply_rows(true, block, invocation);
  var dout_v = multiply_rows(false, block, invocation);
  for (var o = 0u; o < OTHERS; o++) {
    let other = o * COLUMNS + invocation % COLUMNS;
    let j = range.position + range.position_stride * (key + other);
    let is_full = key + other >= range.full_begin && key + other < range.full_end;
    for (var r = 0u; r < ROWS; r++) {
      let index = invocation / COLUMNS * ROWS + r;
      let row = min(index, tile.row_count - 1);
      let i = tile.position + tile.position_stride * row;
      let pair = Pair(tile.row + row, i, j, is_full || keeps_key(i, tile.offset, j));
      let products = vec2f(params.score_scale * qk[o * ROWS + r], dout_v[o * ROWS + r]);
      weights[other * TILE_ROWS + index] = pair_gradient(scope, pair, products, stats[r]).dot;
    }
  }
}

fn write_rows(tile: Tile, batch: u32, head: u32, invocation: u32) {
  for (var r = 0u; r < ROWS; r++) {
    let row = invocation / COLUMNS * ROWS + r;
    if (row < tile.row_count) {
      let offset = query_offset(batch, tile.row + row, head, HEAD_DIM_QK);
      for (var d = invocation % COLUMNS; d < HEAD_DIM_QK; d += COLUMNS) {
        let gradient = params.softmax_scale * dq_rows[d / COLUMNS * ROWS + r];
        if (params.accumulates == 1) {
          dq[offset + d] += gradient;
        } else {
          dq[offset + d] = gradient;
        }
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let head = workgroup.y;
  let batch = batch_of(tile);
  let scope = pair_scope(tile, batch, head);
  for (var r = 0u; r < ROWS; r++) {
    let row = min(invocation / COLUMNS * ROWS + r, tile.row_count - 1);
    stats[r] = row_stats[row_index(batch, head, tile.row + row)];
  }
  for (var index = 0u; index < tile.range_count; index++) {
    let range = load_range(tile.first_range + index);
    for (var key = 0u; key < range.count; key += TILE_OTHERS) {
      let num_keys = min(TILE_OTHERS, range.count - key);
      let block = TileBlock(batch, head, tile.row, tile.row_count, range.row + key, num_keys);
      compute_weights(tile, scope, range, key, block, invocation);
      workgroupBarrier();
      accumulate_rows(&dq_rows, true, block, invocation);
    }
  }
  write_rows(tile, batch, head, invocation);
}

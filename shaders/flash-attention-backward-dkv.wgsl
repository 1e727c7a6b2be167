// Flash attention backward, dk and dv, for one KV block (FlashAttention-2, Dao 2023, arXiv 2307.08691, §3.1.2). One
// workgroup computes TILE_ROWS rows of one KV head over all query heads that share it, in their order, 32 query rows at
// a time: two register-blocked products give the weights of dv and dk, which go through workgroup memory, one after the
// other.
//   q [B, rows_q, H, Dqk]   dout [B, rows_q, H, Dv]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   row_stats [B, H, rows_q]   bias see score.wgsl   dkv: dk [B, rows_kv, Hkv, Dqk], then dv [B, rows_kv, Hkv, Dv]
// Workgroup memory: 14336 B, or 8192 B with 32 rows: see the two tile modules.
// requires: schedule.wgsl, score-gradient.wgsl, tile-products.wgsl, tile-accumulation.wgsl

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const COLUMNS: u32 = 8; // invocations that share a row
const ROWS: u32 = 4; // rows of an invocation

const OWNS_KEYS: bool = true;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<u32>;
@group(0) @binding(4) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> dkv: array<f32>;

var<private> dk_rows: array<f32, ROWS * ELEMENTS>; // [element][row]
var<private> dv_rows: array<f32, ROWS * ELEMENTS>;

// Writes an invocation's values [other][row] as weights.
fn store_weights(values: array<f32, OTHERS * ROWS>, invocation: u32) {
  var copy = values;
  for (var o = 0u; o < OTHERS; o++) {
    let other = o * COLUMNS + invocation % COLUMNS;
    for (var r = 0u; r < ROWS; r++) {
      weights[other * TILE_ROWS + invocation / COLUMNS * ROWS + r] = copy[o * ROWS + r];
    }
  }
}

// Adds the gradients from the block's queries. `query` is the first of them in its range.
fn accumulate_block(tile: Tile, scope: PairScope, range: Range, query: u32, block: TileBlock, invocation: u32) {
  var qk = multiply_rows(true, block, invocation);
  var dout_v = multiply_rows(false, block, invocation);
  for (var o = 0u; o < OTHERS; o++) {
    let other = min(query + o * COLUMNS + invocation % COLUMNS, range.count - 1);
    let i = range.position + range.position_stride * other;
    let is_full = other >= range.full_begin && other < range.full_end;
    let stats = row_stats[row_index(block.batch, block.head, range.row + other)];
    for (var r = 0u; r < ROWS; r++) {
      let row = min(invocation / COLUMNS * ROWS + r, tile.row_count - 1);
      let j = tile.position + tile.position_stride * row;
      let pair = Pair(range.row + other, i, j, is_full || keeps_key(i, tile.offset, j));
      let products = vec2f(params.score_scale * qk[o * ROWS + r], dout_v[o * ROWS + r]);
      let gradient = pair_gradient(scope, pair, products, stats);
      dout_v[o * ROWS + r] = gradient.weight;
      qk[o * ROWS + r] = gradient.dot;
    }
  }
  store_weights(dout_v, invocation);
  workgroupBarrier();
  accumulate_rows(&dv_rows, false, block, invocation);
  store_weights(qk, invocation);
  workgroupBarrier();
  accumulate_rows(&dk_rows, true, block, invocation);
}

fn write_gradient(at: u32, gradient: f32) {
  if (params.accumulates == 1) {
    dkv[at] += gradient;
  } else {
    dkv[at] = gradient;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let kv_head = workgroup.y;
  let batch = batch_of(tile);
  for (var step = 0u; step < params.group_size * tile.range_count; step++) {
    let head = kv_head * params.group_size + step / tile.range_count;
    let range = load_range(tile.first_range + step % tile.range_count);
    let scope = pair_scope(tile, batch, head);
    for (var query = 0u; query < range.count; query += TILE_OTHERS) {
      let num_queries = min(TILE_OTHERS, range.count - query);
      let block = TileBlock(batch, head, tile.row, tile.row_count, range.row + query, num_queries);
      accumulate_block(tile, scope, range, query, block, invocation);
    }
  }

  let dv_begin = kv_offset(params.batch, 0, 0, HEAD_DIM_QK);
  for (var r = 0u; r < ROWS; r++) {
    let row = invocation / COLUMNS * ROWS + r;
    if (row < tile.row_count) {
      let dk_offset = kv_offset(batch, tile.row + row, kv_head, HEAD_DIM_QK);
      for (var d = invocation % COLUMNS; d < HEAD_DIM_QK; d += COLUMNS) {
        write_gradient(dk_offset + d, params.softmax_scale * dk_rows[d / COLUMNS * ROWS + r]);
      }
      let dv_offset = dv_begin + kv_offset(batch, tile.row + row, kv_head, HEAD_DIM_V);
      for (var d = invocation % COLUMNS; d < HEAD_DIM_V; d += COLUMNS) {
        write_gradient(dv_offset + d, dv_rows[d / COLUMNS * ROWS + r]);
      }
    }
  }
}

// The work of one ring step, as src/attention/schedule.ts lists it and src/gpu/prepared-block.ts encodes it: field for
// field the same order. Group 1 of every kernel that walks tiles; group 0 holds the tensors.

// Up to TILE_ROWS consecutive rows of one sequence: of queries, or of keys for the kernel of dK and dV. Row i is local row
// `row + i`, at position `position + position_stride * i` of the sequence. It meets the ranges
// [first_range, first_range + range_count) of the other side. A stride of 0 marks padding: rows of no sequence.
struct Tile {
  sequence: u32, // its number in the call: what dropout is keyed by
  row: u32,
  row_count: u32,
  position: u32,
  position_stride: u32,
  offset: i32, // query i is compared with keys as if it stood at i + offset
  first_range: u32,
  range_count: u32,
}

// Consecutive rows of the other side. Row j is local row `row + j`, at position `position + position_stride * j`. Rows
// [full_begin, full_end) meet every row of the tile; those before and after need a look at the mask.
struct Range {
  row: u32,
  position: u32,
  position_stride: u32,
  count: u32,
  full_begin: u32,
  full_end: u32,
}

struct Params {
  first_range_word: u32, // where the ranges begin in `schedule`
  is_packed: u32, // 1: all sequences lie in batch entry 0; 0: sequence s is batch entry s
  batch: u32,
  num_heads: u32,
  num_kv_heads: u32,
  group_size: u32, // num_heads / num_kv_heads: query heads that share one KV head
  rows_q: u32, // local rows of q, out, lse and dq
  rows_kv: u32, // local rows of k, v, dk and dv
  head_dim_qk: u32, // the same as the kernel's HEAD_DIM_QK and HEAD_DIM_V, but unknown to its compiler
  head_dim_v: u32,
  window_left: i32, // query position p (offset included) keeps keys from p - window_left to p + window_right
  window_right: i32,
  counts_sink: u32, // 1: this step adds the sink to each row; a ring's first step does
  accumulates: u32, // 1: gradients are added to what is there; 0: they replace it
  score_scale: f32, // score_from_dot() takes score_scale * q·k
  score_factor: f32, // softcap * log2(e) with a softcap, else unused
  softmax_scale: f32, // dq = softmax_scale * Σ dx·k, dk = softmax_scale * Σ dx·q
  bias_batch_stride: u32, // elements of the bias from one batch entry, head and query row to the next; 0 where it is broadcast
  bias_head_stride: u32,
  bias_row_stride: u32,
  dropout_threshold: u32, // a weight is dropped when its random word is below
  dropout_scale: f32, // 1 / (1 - dropout)
  seed_low: u32,
  seed_high: u32,
}

const MAX_HEADS: u32 = 1024;

// Per query head, in log2 units, four heads to a vector: how a uniform buffer holds an array of f32.
struct Heads {
  slope: array<vec4f, MAX_HEADS / 4>, // ALiBi's slope * log2(e)
  sink: array<vec4f, MAX_HEADS / 4>, // the sink's logit * log2(e)
}

@group(1) @binding(0) var<storage, read> schedule: array<u32>; // tiles, then ranges
@group(1) @binding(1) var<uniform> params: Params;
@group(1) @binding(2) var<uniform> heads: Heads;

const TILE_WORDS: u32 = 8;
const RANGE_WORDS: u32 = 6;
const LN_2: f32 = 0.6931471805599453;
const LOG2_E: f32 = 1.4426950408889634;
const MASKED_LSE: f32 = -1e30; // finite stand-in for -inf in lse: a row that saw no key

fn load_tile(index: u32) -> Tile {
  let at = index * TILE_WORDS;
  return Tile(
    schedule[at],
    schedule[at + 1],
    schedule[at + 2],
    schedule[at + 3],
    schedule[at + 4],
    bitcast<i32>(schedule[at + 5]),
    schedule[at + 6],
    schedule[at + 7],
  );
}

fn load_range(index: u32) -> Range {
  let at = params.first_range_word + index * RANGE_WORDS;
  return Range(
    schedule[at],
    schedule[at + 1],
    schedule[at + 2],
    schedule[at + 3],
    schedule[at + 4],
    schedule[at + 5],
  );
}

// The batch entry that holds a tile's rows.
fn batch_of(tile: Tile) -> u32 {
  return select(tile.sequence, 0u, params.is_packed == 1);
}

// Elements of q, out and dq [B, rows_q, H, D] before row `row`, and of k, v, dk and dv [B, rows_kv, Hkv, D].
fn query_offset(batch: u32, row: u32, head: u32, head_dim: u32) -> u32 {
  return ((batch * params.rows_q + row) * params.num_heads + head) * head_dim;
}

fn kv_offset(batch: u32, row: u32, kv_head: u32, head_dim: u32) -> u32 {
  return ((batch * params.rows_kv + row) * params.num_kv_heads + kv_head) * head_dim;
}

// Element of lse [B, H, rows_q] and of what else there is per query row.
fn row_index(batch: u32, head: u32, row: u32) -> u32 {
  return (batch * params.num_heads + head) * params.rows_q + row;
}

// The sink's logit of a head in log2 units.
fn sink_of(head: u32) -> f32 {
  return heads.sink[head / 4][head % 4];
}

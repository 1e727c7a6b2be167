// The work of one ring step, as src/attention/schedule.ts lists it and src/gpu/prepared-block.ts encodes it: field for
// field the same order. Group 1 of every kernel that walks tiles; group 0 holds the tensors.

// Up to TILE_ROWS consecutive query rows of one segment. Row i is local row `row + i`, at global position
// `position + position_stride * i`; it meets the ranges [first_range, first_range + range_count).
struct QueryTile {
  row: u32,
  row_count: u32,
  position: u32,
  position_stride: u32,
  first_range: u32,
  range_count: u32,
}

// Consecutive KV rows of one segment. Key j is local row `row + j`, at global position `position + position_stride * j`.
// Every row of the tile sees keys [0, full_count); keys [full_count, count) need a look at the mask.
struct KvRange {
  row: u32,
  position: u32,
  position_stride: u32,
  full_count: u32,
  count: u32,
}

struct Params {
  num_heads: u32,
  num_kv_heads: u32,
  group_size: u32, // num_heads / num_kv_heads: query heads that share one KV head
  rows_q: u32, // local rows of q, out and lse
  rows_kv: u32, // local rows of k and v
  softmax_scale_log2: f32, // softmaxScale * log2(e), so that exp2 does the work of exp
  head_dim_qk: u32, // the same as the kernel's HEAD_DIM_QK and HEAD_DIM_V, but unknown to its compiler
  head_dim_v: u32,
}

@group(1) @binding(0) var<storage, read> tiles: array<QueryTile>;
@group(1) @binding(1) var<storage, read> ranges: array<KvRange>;
@group(1) @binding(2) var<uniform> params: Params;

const LN_2: f32 = 0.6931471805599453;
const MASKED_LSE: f32 = -1e30; // finite stand-in for -inf in lse: a row that saw no key

// Elements of q and out [B, rows_q, H, D] before row `row`, and of k and v [B, rows_kv, Hkv, D].
fn query_offset(batch: u32, row: u32, head: u32, head_dim: u32) -> u32 {
  return ((batch * params.rows_q + row) * params.num_heads + head) * head_dim;
}

fn kv_offset(batch: u32, row: u32, head: u32, head_dim: u32) -> u32 {
  return ((batch * params.rows_kv + row) * params.num_kv_heads + head / params.group_size) * head_dim;
}

// Element of lse [B, H, rows_q].
fn lse_index(batch: u32, head: u32, row: u32) -> u32 {
  return (batch * params.num_heads + head) * params.rows_q + row;
}

// Attention of few query rows against many keys, by splits of the keys (flash-decoding, Dao et al. 2023): one workgroup
// computes one split for one KV head. Its rows are query rows times the heads that share the KV head, four at a time:
// the lanes of a vec4f. Each invocation scores KEYS keys, then owns chunks of v for every KEY_GROUPS-th key of the
// tile.
//   q [B, rows_q, H, Dqk]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]
//   out and lse as split-rows.wgsl says
// Workgroup memory: 16 B · (Dqk + WORKGROUP_SIZE · (KEYS + CHUNK_SIZE)): at most 14336 B, with KEYS 2 and CHUNK_SIZE 8.
// requires: schedule.wgsl, mask.wgsl, element.wgsl, score.wgsl, dropout.wgsl, split-rows.wgsl, packed-rows.wgsl

// Set by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const WORKGROUP_SIZE: u32 = 64;
const KEYS: u32 = 2; // keys of an invocation at a time
const CHUNK_SIZE: u32 = 4; // elements in a chunk; divides both head dims
alias Chunk = vec4u; // CHUNK_SIZE elements of k and v: vec4u, vec2u or array<u32, 1>

const TILE_KEYS: u32 = WORKGROUP_SIZE * KEYS;
const CHUNKS_V: u32 = HEAD_DIM_V / CHUNK_SIZE;
const COLUMNS: u32 = min(CHUNKS_V, WORKGROUP_SIZE); // invocations that share the value of a key
const KEY_GROUPS: u32 = WORKGROUP_SIZE / COLUMNS;
const SLOTS: u32 = (CHUNKS_V + COLUMNS - 1) / COLUMNS; // chunks of v of an invocation

override HAS_DROPOUT: bool = false;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<Chunk>;
@group(0) @binding(2) var<storage, read> v: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

var<workgroup> q_rows: array<vec4f, HEAD_DIM_QK>;
var<workgroup> weights: array<vec4f, TILE_KEYS>;
var<workgroup> shares: array<vec4f, WORKGROUP_SIZE * CHUNK_SIZE>; // values of each invocation, to be reduced

fn load_query(rows: Rows, invocation: u32) {
  for (var d = invocation; d < HEAD_DIM_QK; d += WORKGROUP_SIZE) {
    var elements = vec4f();
    for (var r = 0u; r < ROWS; r++) { // unroll
      let at = query_offset(rows.batch, rows.tile.row + rows.row[r], rows.head[r], HEAD_DIM_QK) + d;
      elements[r] = decode_element(q[at / ELEMENTS_PER_WORD], at) * params.score_scale;
    }
    q_rows[d] = elements;
  }
  workgroupBarrier();
}

// Scores of one key, `index` in the range, from its product with the rows.
fn score_rows(rows: Rows, range: Range, index: u32, dots: vec4f) -> vec4f {
  var scores = dots;
  let j = range.position + range.position_stride * index;
  let is_full = index >= range.full_begin && index < range.full_end;
  for (var r = 0u; r < ROWS; r++) { // unroll
    let row = rows.tile.row + rows.row[r];
    if (HAS_SOFTCAP || HAS_ALIBI || HAS_BIAS) {
      scores[r] = score_from_dot(scores[r], rows.batch, rows.head[r], row, rows.position[r], rows.tile.offset, j).value;
    }
    if (index >= range.count || (!is_full && !keeps_key(rows.position[r], rows.tile.offset, j))) {
      scores[r] = MASKED_SCORE;
    }
  }
  return scores;
}

fn dropout_rows(rows: Rows, range: Range, index: u32) -> vec4f {
  let j = range.position + range.position_stride * index;
  var factors = vec4f();
  for (var r = 0u; r < ROWS; r++) { // unroll
    factors[r] = dropout_factor(dropout_key(rows.tile.sequence, rows.head[r]), rows.position[r], j);
  }
  return factors;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let rows = place_rows(workgroup);
  if (rows.num_rows == 0) {
    return;
  }
  load_query(rows, invocation);
  let column = invocation % COLUMNS;
  let key_group = invocation / COLUMNS;
  // Bounds that are only known at run time keep loops loops: unrolled, some compilers take many seconds over them.
  let num_chunks = params.head_dim_qk / CHUNK_SIZE;
  let num_shares = WORKGROUP_SIZE * min(params.num_heads, 1);
  var accumulator: array<vec4f, SLOTS * CHUNK_SIZE>;
  var row_max = vec4f(INITIAL_MAX);
  var row_sum = vec4f(); // of the keys that this invocation scored

  for (var i = 0u; i < rows.tile.range_count; i++) {
    let range = load_range(rows.tile.first_range + i);
    for (var base = 0u; base < range.count; base += TILE_KEYS) {
      var scores = array<vec4f, KEYS>();
      var k_chunks = array<u32, KEYS>(); // where the chunks of a key begin
      for (var j = 0u; j < KEYS; j++) { // unroll
        let index = min(base + j * WORKGROUP_SIZE + invocation, range.count - 1);
        k_chunks[j] = kv_offset(rows.batch, range.row + index, rows.kv_head, HEAD_DIM_QK) / CHUNK_SIZE;
      }
      for (var chunk_index = 0u; chunk_index < num_chunks; chunk_index++) {
        var q_chunk = array<vec4f, CHUNK_SIZE>();
        for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
          q_chunk[c] = q_rows[chunk_index * CHUNK_SIZE + c];
        }
        for (var j = 0u; j < KEYS; j++) { // unroll
          let chunk = k[k_chunks[j] + chunk_index];
          for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
            scores[j] += q_chunk[c] * decode_element(chunk[c / ELEMENTS_PER_WORD], c);
          }
        }
      }

      var new_max = row_max;
      for (var j = 0u; j < KEYS; j++) { // unroll
        scores[j] = score_rows(rows, range, base + j * WORKGROUP_SIZE + invocation, scores[j]);
        new_max = max(new_max, scores[j]);
      }
      // Once all have written their share, all have also read the weights of the tile before.
      shares[invocation] = new_max;
      workgroupBarrier();
      for (var other = 0u; other < num_shares; other++) {
        new_max = max(new_max, shares[other]);
      }
      let correction = exp2(row_max - new_max);
      row_max = new_max;
      row_sum *= correction;
      for (var j = 0u; j < KEYS; j++) { // unroll
        let key = j * WORKGROUP_SIZE + invocation;
        var weight = exp2(scores[j] - new_max);
        row_sum += weight;
        if (HAS_DROPOUT) {
          weight *= dropout_rows(rows, range, base + key);
        }
        weights[key] = weight;
      }
      workgroupBarrier();

      for (var e = 0u; e < SLOTS * CHUNK_SIZE; e++) {
        accumulator[e] *= correction;
      }
      // An invocation of no group takes no key.
      let num_keys = select(0u, min(TILE_KEYS, range.count - base), key_group < KEY_GROUPS);
      for (var key = key_group; key < num_keys; key += KEY_GROUPS) {
        let weight = weights[key];
        let v_chunk = kv_offset(rows.batch, range.row + base + key, rows.kv_head, HEAD_DIM_V) / CHUNK_SIZE;
        for (var slot = 0u; slot < SLOTS; slot++) {
          let chunk = v[v_chunk + min(slot * COLUMNS + column, CHUNKS_V - 1)];
          for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
            accumulator[slot * CHUNK_SIZE + c] += weight * decode_element(chunk[c / ELEMENTS_PER_WORD], c);
          }
        }
      }
    }
  }

  workgroupBarrier();
  shares[invocation] = row_sum;
  workgroupBarrier();
  row_sum = vec4f();
  for (var other = 0u; other < num_shares; other++) {
    row_sum += shares[other];
  }
  for (var slot = 0u; slot < SLOTS; slot++) {
    workgroupBarrier();
    for (var c = 0u; c < CHUNK_SIZE; c++) { // unroll
      shares[c * WORKGROUP_SIZE + invocation] = accumulator[slot * CHUNK_SIZE + c];
    }
    workgroupBarrier();
    let chunk_index = slot * COLUMNS + column;
    if (key_group == 0 && chunk_index < CHUNKS_V) {
      for (var c = 0u; c < CHUNK_SIZE; c++) {
        var sum = vec4f();
        for (var group = 0u; group < min(KEY_GROUPS, num_shares); group++) {
          sum += shares[c * WORKGROUP_SIZE + group * COLUMNS + column];
        }
        for (var r = 0u; r < rows.num_rows; r++) {
          let row = split_row_index(workgroup.x, rows.head[r], rows.row[r]);
          out[row * HEAD_DIM_V + chunk_index * CHUNK_SIZE + c] = sum[r];
        }
      }
    }
  }
  if (invocation < rows.num_rows) {
    let row = split_row_index(workgroup.x, rows.head[invocation], rows.row[invocation]);
    write_split_state(row, RowState(row_max[invocation], row_sum[invocation]), row_max[invocation]);
  }
}

// Flash attention forward for one KV block (Dao et al. 2022, arXiv 2205.14135), with no optional feature.
// One workgroup computes TILE_ROWS query rows of one (batch, head), TILE_KEYS keys at a time, in three phases: scores by
// a register-blocked product of chunks of q and k; the online softmax, one invocation to a row; and the product with v,
// in which an invocation owns ROWS rows and every COLUMNS-th element of out.
//   q [B, rows_q, H, Dqk]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]   out [B, rows_q, H, Dv]   lse [B, H, rows_q]
// Workgroup memory: 8192 B of scores, 6144 B of stage, 768 B of row state: 15104 B for every head dim.
// requires: schedule.wgsl, mask.wgsl

// Specialised per pipeline by src/gpu/specialize.ts; the values here are defaults.
const HEAD_DIM_QK: u32 = 64;
const HEAD_DIM_V: u32 = 64;
const COLUMNS: u32 = 8; // invocations that share a row: 8, or 16 for head dims above 128

const TILE_ROWS: u32 = 64;
const TILE_KEYS: u32 = 32;
const ROWS: u32 = 4; // rows of an invocation
const KEYS: u32 = TILE_KEYS / COLUMNS; // keys of an invocation in the first phase
const ELEMENTS: u32 = (HEAD_DIM_V + COLUMNS - 1) / COLUMNS; // elements of out of an invocation, in each of its rows
const WORKGROUP_SIZE: u32 = TILE_ROWS / ROWS * COLUMNS;
const STAGE_DIMS: u32 = 16; // elements of q and k on the stage at a time
const STAGE_SIZE: u32 = (TILE_ROWS + TILE_KEYS) * STAGE_DIMS;
const STAGE_KEYS: u32 = min(TILE_KEYS, STAGE_SIZE / HEAD_DIM_V); // rows of v on the stage at a time

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;

// Rows are the fast index of `scores`, and of the halves of `stage` that hold q and k: neighbours never share a bank.
var<workgroup> scores: array<f32, TILE_KEYS * TILE_ROWS>; // [key][row]; weights after the softmax
var<workgroup> stage: array<f32, STAGE_SIZE>; // q [d][row] and k [d][key], then v [key][d]
var<workgroup> row_max: array<f32, TILE_ROWS>;
var<workgroup> row_sum: array<f32, TILE_ROWS>;
var<workgroup> row_correction: array<f32, TILE_ROWS>;

var<private> accumulator: array<f32, ROWS * ELEMENTS>; // [element][row]

// scores[key][row] = softmax_scale * log2(e) * q·k for the first `num_keys` of TILE_KEYS keys from local row `first_key`.
fn compute_scores(tile: QueryTile, batch: u32, head: u32, first_key: u32, num_keys: u32, invocation: u32) {
  let first_row = invocation / COLUMNS * ROWS;
  let column = invocation % COLUMNS;
  var sums = array<f32, KEYS * ROWS>();
  for (var base = 0u; base < HEAD_DIM_QK; base += STAGE_DIMS) {
    let num_dims = min(STAGE_DIMS, HEAD_DIM_QK - base);
    for (var i = invocation; i < STAGE_SIZE; i += WORKGROUP_SIZE) {
      let d = i % STAGE_DIMS;
      let index = i / STAGE_DIMS;
      var element = 0.0;
      if (index < TILE_ROWS) {
        if (index < tile.row_count && d < num_dims) {
          element = q[query_offset(batch, tile.row + index, head, HEAD_DIM_QK) + base + d] * params.softmax_scale_log2;
        }
        stage[d * TILE_ROWS + index] = element;
      } else {
        let key = index - TILE_ROWS;
        if (key < num_keys && d < num_dims) {
          element = k[kv_offset(batch, first_key + key, head, HEAD_DIM_QK) + base + d];
        }
        stage[TILE_ROWS * STAGE_DIMS + d * TILE_KEYS + key] = element;
      }
    }
    workgroupBarrier();
    for (var d = 0u; d < num_dims; d++) {
      var q_elements = array<f32, ROWS>();
      for (var r = 0u; r < ROWS; r++) {
        q_elements[r] = stage[d * TILE_ROWS + first_row + r];
      }
      for (var j = 0u; j < KEYS; j++) {
        let k_element = stage[TILE_ROWS * STAGE_DIMS + d * TILE_KEYS + j * COLUMNS + column];
        for (var r = 0u; r < ROWS; r++) {
          sums[j * ROWS + r] += q_elements[r] * k_element;
        }
      }
    }
    workgroupBarrier();
  }
  for (var j = 0u; j < KEYS; j++) {
    for (var r = 0u; r < ROWS; r++) {
      scores[(j * COLUMNS + column) * TILE_ROWS + first_row + r] = sums[j * ROWS + r];
    }
  }
  workgroupBarrier();
}

// Turns the scores of one row into weights exp2(score - row_max) and updates its maximum, sum and correction.
// `key` counts within the range: keys before range.full_count need no mask.
fn update_softmax(tile: QueryTile, range: KvRange, key: u32, num_keys: u32, row: u32) {
  let query_position = tile.position + tile.position_stride * row;
  let old_max = row_max[row];
  var new_max = old_max;
  for (var j = 0u; j < num_keys; j++) {
    let key_position = range.position + range.position_stride * (key + j);
    let index = j * TILE_ROWS + row;
    if (key + j >= range.full_count && !keeps_key(query_position, key_position)) {
      scores[index] = MASKED_SCORE;
    }
    new_max = max(new_max, scores[index]);
  }
  var sum = 0.0;
  for (var j = 0u; j < num_keys; j++) {
    let index = j * TILE_ROWS + row;
    let weight = exp2(scores[index] - new_max);
    scores[index] = weight;
    sum += weight;
  }
  let correction = exp2(old_max - new_max);
  row_max[row] = new_max;
  row_sum[row] = row_sum[row] * correction + sum;
  row_correction[row] = correction;
}

// accumulator = correction * accumulator + weights · v, for `num_keys` keys from local row `first_key`.
fn accumulate_values(batch: u32, head: u32, first_key: u32, num_keys: u32, invocation: u32) {
  let first_row = invocation / COLUMNS * ROWS;
  let column = invocation % COLUMNS;
  for (var r = 0u; r < ROWS; r++) {
    let correction = row_correction[first_row + r];
    for (var e = 0u; e < ELEMENTS; e++) {
      accumulator[e * ROWS + r] *= correction;
    }
  }
  for (var base = 0u; base < num_keys; base += STAGE_KEYS) {
    let staged = min(STAGE_KEYS, num_keys - base);
    for (var i = invocation; i < staged * HEAD_DIM_V; i += WORKGROUP_SIZE) {
      stage[i] = v[kv_offset(batch, first_key + base + i / HEAD_DIM_V, head, HEAD_DIM_V) + i % HEAD_DIM_V];
    }
    workgroupBarrier();
    for (var j = 0u; j < staged; j++) {
      var weights = array<f32, ROWS>();
      for (var r = 0u; r < ROWS; r++) {
        weights[r] = scores[(base + j) * TILE_ROWS + first_row + r];
      }
      for (var e = 0u; e < ELEMENTS; e++) {
        // Past the last column this reads some other element of the stage, and the sum is never written.
        let v_element = stage[min(j * HEAD_DIM_V + e * COLUMNS + column, STAGE_SIZE - 1)];
        for (var r = 0u; r < ROWS; r++) {
          accumulator[e * ROWS + r] += weights[r] * v_element;
        }
      }
    }
    workgroupBarrier();
  }
}

fn write_rows(tile: QueryTile, batch: u32, head: u32, invocation: u32) {
  let column = invocation % COLUMNS;
  for (var r = 0u; r < ROWS; r++) {
    let row = invocation / COLUMNS * ROWS + r;
    if (row < tile.row_count) {
      let seen = row_sum[row] > 0.0;
      let weight = select(0.0, 1.0 / row_sum[row], seen);
      let offset = query_offset(batch, tile.row + row, head, HEAD_DIM_V);
      for (var e = 0u; e < ELEMENTS; e++) {
        let d = e * COLUMNS + column;
        if (d < HEAD_DIM_V) {
          out[offset + d] = accumulator[e * ROWS + r] * weight;
        }
      }
      if (column == 0) {
        lse[lse_index(batch, head, tile.row + row)] = select(MASKED_LSE, (row_max[row] + log2(row_sum[row])) * LN_2, seen);
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = tiles[workgroup.x];
  let head = workgroup.y;
  let batch = workgroup.z;
  if (invocation < TILE_ROWS) {
    row_max[invocation] = INITIAL_MAX;
    row_sum[invocation] = 0.0;
  }
  for (var i = 0u; i < tile.range_count; i++) {
    let range = ranges[tile.first_range + i];
    for (var key = 0u; key < range.count; key += TILE_KEYS) {
      let num_keys = min(TILE_KEYS, range.count - key);
      compute_scores(tile, batch, head, range.row + key, num_keys, invocation);
      if (invocation < TILE_ROWS) {
        update_softmax(tile, range, key, num_keys, invocation);
      }
      workgroupBarrier();
      accumulate_values(batch, head, range.row + key, num_keys, invocation);
    }
  }
  workgroupBarrier();
  write_rows(tile, batch, head, invocation);
}

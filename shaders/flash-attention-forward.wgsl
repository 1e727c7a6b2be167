// Flash attention forward for one KV block (Dao et al. 2022, arXiv 2205.14135). One workgroup computes TILE_ROWS query
// rows of one head, TILE_KEYS keys at a time, in three phases: scores by a register-blocked product of chunks of q and
// k; the online softmax, one invocation to a row; the product with v: an invocation owns ROWS rows, every COLUMNS-th
// element of out.
//   q [B, rows_q, H, Dqk]   k [B, rows_kv, Hkv, Dqk]   v [B, rows_kv, Hkv, Dv]   out [B, rows_q, H, Dv]   lse [B, H, rows_q]
// Workgroup memory: 8192 B of scores, 6144 B of stage, 768 B of row state: 15104 B for every head dim.
// requires: schedule.wgsl, mask.wgsl, element.wgsl, score.wgsl, dropout.wgsl, online-softmax.wgsl

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
override HAS_DROPOUT: bool = false;

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

// Rows are the fast index of `scores`, and of the halves of `stage` that hold q and k: neighbours never share a bank.
var<workgroup> scores: array<f32, TILE_KEYS * TILE_ROWS>; // [key][row]; weights after the softmax
var<workgroup> stage: array<f32, STAGE_SIZE>; // q [d][row] and k [d][key], then v [key][d]
var<workgroup> row_state: array<RowState, TILE_ROWS>;
var<workgroup> row_correction: array<f32, TILE_ROWS>;

var<private> accumulator: array<f32, ROWS * ELEMENTS>; // [element][row]
var<private> largest: f32 = INITIAL_MAX; // the largest score of row `invocation`

struct Place { tile: Tile, batch: u32, head: u32, kv_head: u32 } // of the workgroup

// scores[key][row] = score_scale * q·k for the first `num_keys` of TILE_KEYS keys from local row `first_key`.
fn compute_scores(place: Place, first_key: u32, num_keys: u32, invocation: u32) {
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
        if (index < place.tile.row_count && d < num_dims) {
          let at = query_offset(place.batch, place.tile.row + index, place.head, HEAD_DIM_QK) + base + d;
          element = decode_element(q[at / ELEMENTS_PER_WORD], at) * params.score_scale;
        }
        stage[d * TILE_ROWS + index] = element;
      } else {
        let key = index - TILE_ROWS;
        if (key < num_keys && d < num_dims) {
          let at = kv_offset(place.batch, first_key + key, place.kv_head, HEAD_DIM_QK) + base + d;
          element = decode_element(k[at / ELEMENTS_PER_WORD], at);
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
  for (var i = 0u; i < KEYS * ROWS; i++) {
    scores[(i / ROWS * COLUMNS + column) * TILE_ROWS + first_row + i % ROWS] = sums[i];
  }
  workgroupBarrier();
}

// Turns the scores of one row into weights exp2(score - row_max) and updates its maximum, sum and correction.
// `key` counts within the range.
fn update_softmax(place: Place, range: Range, key: u32, num_keys: u32, row: u32) {
  let tile = place.tile;
  let i = tile.position + tile.position_stride * row;
  let weights_key = dropout_key(tile.sequence, place.head);
  let old = row_state[row];
  var new_max = old.max;
  for (var j = 0u; j < num_keys; j++) {
    let index = j * TILE_ROWS + row;
    let key_position = range.position + range.position_stride * (key + j);
    let is_full = key + j >= range.full_begin && key + j < range.full_end;
    if (HAS_SOFTCAP || HAS_ALIBI || HAS_BIAS) {
      scores[index] =
        score_from_dot(scores[index], place.batch, place.head, tile.row + row, i, tile.offset, key_position).value;
    }
    if (!is_full && !keeps_key(i, tile.offset, key_position)) {
      scores[index] = MASKED_SCORE;
    }
    new_max = max(new_max, scores[index]);
    largest = max(largest, scores[index]);
  }
  var sum = 0.0;
  for (var j = 0u; j < num_keys; j++) {
    let index = j * TILE_ROWS + row;
    var weight = exp2(scores[index] - new_max);
    sum += weight;
    if (HAS_DROPOUT) {
      weight *= dropout_factor(weights_key, i, range.position + range.position_stride * (key + j));
    }
    scores[index] = weight;
  }
  row_correction[row] = exp2(old.max - new_max);
  row_state[row] = RowState(new_max, old.sum * row_correction[row] + sum);
}

// accumulator = correction * accumulator + weights · v, for `num_keys` keys from local row `first_key`.
fn accumulate_values(place: Place, first_key: u32, num_keys: u32, invocation: u32) {
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
      let at = kv_offset(place.batch, first_key + base + i / HEAD_DIM_V, place.kv_head, HEAD_DIM_V) + i % HEAD_DIM_V;
      stage[i] = decode_element(v[at / ELEMENTS_PER_WORD], at);
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

fn write_rows(place: Place, invocation: u32) {
  for (var r = 0u; r < ROWS; r++) {
    let row = invocation / COLUMNS * ROWS + r;
    if (row < place.tile.row_count) {
      let sum = row_state[row].sum;
      let weight = select(0.0, 1.0 / sum, sum > 0.0);
      let offset = query_offset(place.batch, place.tile.row + row, place.head, HEAD_DIM_V);
      for (var d = invocation % COLUMNS; d < HEAD_DIM_V; d += COLUMNS) {
        out[offset + d] = accumulator[d / COLUMNS * ROWS + r] * weight;
      }
    }
  }
  if (invocation < place.tile.row_count) {
    let index = row_index(place.batch, place.head, place.tile.row + invocation);
    write_lse(index, row_state[invocation], largest);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let place = Place(tile, batch_of(tile), workgroup.y, workgroup.y / params.group_size);
  if (invocation < TILE_ROWS) {
    row_state[invocation] = start_row(tile, place.head);
  }
  for (var i = 0u; i < tile.range_count; i++) {
    let range = load_range(tile.first_range + i);
    for (var key = 0u; key < range.count; key += TILE_KEYS) {
      let num_keys = min(TILE_KEYS, range.count - key);
      compute_scores(place, range.row + key, num_keys, invocation);
      if (invocation < TILE_ROWS) {
        update_softmax(place, range, key, num_keys, invocation);
      }
      workgroupBarrier();
      accumulate_values(place, range.row + key, num_keys, invocation);
    }
  }
  workgroupBarrier();
  write_rows(place, invocation);
}

// From the product of q and k to the score of the softmax, in log2 units, and back for gradients: soft cap, ALiBi and
// bias. What a call does not use is switched off by an override and compiled away.
//   score = softcap(softmax_scale * q·k) + bias - slope * |i + offset - j|,   softcap(x) = c * tanh(x / c)
// requires: schedule.wgsl, mask.wgsl

override HAS_SOFTCAP: bool = false;
override HAS_ALIBI: bool = false;
override HAS_BIAS: bool = false;

// A kernel that requires this module binds the bias [1 or B, 1 or H, rows_q, Skv] as `bias: array<f32>`; rows are local,
// keys are positions. Without a bias any buffer will do.

const MASKED_BIAS: f32 = -1e30; // a bias at or below removes the key

// tanh to two units in the last place: the built-in one is off by 1e-5 on some adapters. No branch: one between the products
// and the softmax would cost a software adapter more than both sides.
fn precise_tanh(x: f32) -> f32 {
  let a = abs(x);
  // x + x * P(x²) for small x, where the quotient below would cancel (the minimax polynomial of Cephes' tanhf).
  let z = min(x * x, 1.0);
  let p = ((((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z - 3.33332819422e-1) * z;
  // Beyond 9 the result rounds to 1, and exp2 stays far from overflow.
  let e = exp2(2.0 * LOG2_E * min(a, 9.5));
  return select(sign(x) * (1.0 - 2.0 / (e + 1.0)), x + x * p, a < 0.625);
}

// A score and the derivative of the score (in natural units) by x = softmax_scale * q·k.
struct Score {
  value: f32,
  slope: f32,
}

// `scaled_dot` is score_scale * q·k, where score_scale is softmax_scale * log2(e), or softmax_scale / c with a soft cap.
// `row` is the local query row, i and j are positions in the sequence.
fn score_from_dot(scaled_dot: f32, batch: u32, head: u32, row: u32, i: u32, offset: i32, j: u32) -> Score {
  var score = cap_dot(scaled_dot);
  if (HAS_ALIBI || HAS_BIAS) {
    score.value += score_term(batch, head, row, i, offset, j);
  }
  return score;
}

// The part of a score that q·k gives.
fn cap_dot(scaled_dot: f32) -> Score {
  if (HAS_SOFTCAP) {
    let t = precise_tanh(scaled_dot);
    return Score(params.score_factor * t, 1.0 - t * t);
  }
  return Score(scaled_dot, 1.0);
}

// The part of a score that positions give. Next to MASKED_SCORE, of a bias that removes the key, q·k is lost to rounding.
fn score_term(batch: u32, head: u32, row: u32, i: u32, offset: i32, j: u32) -> f32 {
  var term = 0.0;
  if (HAS_ALIBI) {
    let distance = i32(i) + offset - i32(j);
    term -= heads.slope[head / 4][head % 4] * f32(abs(distance));
  }
  if (HAS_BIAS) {
    let b = bias[bias_index(batch, head, row, j)];
    term = select(term + b * LOG2_E, MASKED_SCORE, b <= MASKED_BIAS);
  }
  return term;
}

fn bias_index(batch: u32, head: u32, row: u32, j: u32) -> u32 {
  return batch * params.bias_batch_stride + head * params.bias_head_stride + row * params.bias_row_stride + j;
}

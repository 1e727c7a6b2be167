// The mask of a partial block, and the finite numbers that stand for -inf in the online softmax.
// requires: schedule.wgsl

const MASKED_SCORE: f32 = -2e30; // score of a key that the row may not see: exp2(MASKED_SCORE - INITIAL_MAX) is 0
const INITIAL_MAX: f32 = -1e30; // running maximum of a row that has seen no key: below every real score

// Whether query i of a sequence keeps its key j: every mask type and window is one interval of keys.
fn keeps_key(i: u32, offset: i32, j: u32) -> bool {
  let distance = i32(j) - (i32(i) + offset);
  return distance <= params.window_right && distance >= -params.window_left;
}

// The mask of a partial block, and the finite numbers that stand for -inf in the online softmax.

const MASKED_SCORE: f32 = -2e30; // score of a key that the row may not see: exp2(MASKED_SCORE - INITIAL_MAX) is 0
const INITIAL_MAX: f32 = -1e30; // running maximum of a row that has seen no key: below every real score

// Causal: a row keeps the keys at or before its own position.
fn keeps_key(query_position: u32, key_position: u32) -> bool {
  return key_position <= query_position;
}

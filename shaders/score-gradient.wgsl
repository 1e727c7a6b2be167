// From q·k and dout·v of one query and one key to the gradients that they give (FlashAttention-2, Dao 2023,
// arXiv 2307.08691, §3.1.2), from the final lse of the row alone: no softmax is computed again.
//   P = exp2(score - lse * log2(e))   dS = P * (f * dout·v - delta)   dx = dS * d score / d (softmax_scale * q·k)
// with f = 0 or 1 / (1 - dropout), and delta = Σ_d dout * out.
// requires: schedule.wgsl, mask.wgsl, score.wgsl, dropout.wgsl

override HAS_DROPOUT: bool = false;

// A query and a key: the local row of the query, and the positions of both in their sequence.
struct Pair {
  row: u32,
  i: u32,
  j: u32,
  is_kept: bool,
}

// What all pairs of a tile and a head have in common.
struct PairScope {
  batch: u32,
  head: u32,
  offset: i32,
  dropout_key: vec2u,
}

struct PairGradient {
  weight: f32, // f * P: what dout is multiplied with in dv
  score: f32, // dS
  dot: f32, // dx
}

fn pair_scope(tile: Tile, batch: u32, head: u32) -> PairScope {
  var scope = PairScope(batch, head, tile.offset, vec2u());
  if (HAS_DROPOUT) {
    scope.dropout_key = dropout_key(tile.sequence, head);
  }
  return scope;
}

// `products` is score_scale * q·k and dout·v; `row_stats` what attention-delta.wgsl writes for the query.
fn pair_gradient(scope: PairScope, pair: Pair, products: vec2f, row_stats: vec2f) -> PairGradient {
  let score = score_from_dot(products.x, scope.batch, scope.head, pair.row, pair.i, scope.offset, pair.j);
  let p = exp2(select(MASKED_SCORE, score.value, pair.is_kept) - row_stats.x);
  var factor = 1.0;
  if (HAS_DROPOUT) {
    factor = dropout_factor(scope.dropout_key, pair.i, pair.j);
  }
  let gradient = p * (factor * products.y - row_stats.y);
  return PairGradient(factor * p, gradient, gradient * score.slope);
}

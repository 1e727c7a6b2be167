// The merge of two partial attention results over disjoint keys (Liu et al. 2023, arXiv 2310.01889, §3; the log-sum-exp
// form of ring-flash-attention). Pure; shaders/merge-block.wgsl computes the same in f32.
//
//   lse' = log(exp(lse) + exp(block_lse))
//   out' = exp(lse − lse') · out + exp(block_lse − lse') · block_out
//
// in a form that never exponentiates a positive number: with e = exp(−|lse − block_lse|), the larger side weighs
// 1 / (1 + e) and the smaller e / (1 + e).

/** Stands for −Infinity in an lse that a GPU reads or writes: WGSL may assume that there are no infinities. */
export const MASKED_LSE = -1e30;

/** Whether a row has seen no key yet. */
export function isMasked(lse: number): boolean {
  return lse <= MASKED_LSE / 2;
}

/** The weights of `out` and `blockOut` and the merged lse of one row. A masked side is the identity. */
export function mergeWeights(lse: number, blockLse: number): { weight: number; blockWeight: number; lse: number } {
  if (isMasked(blockLse)) return { weight: 1, blockWeight: 0, lse };
  if (isMasked(lse)) return { weight: 0, blockWeight: 1, lse: blockLse };
  const ratio = Math.exp(-Math.abs(lse - blockLse));
  const larger = 1 / (1 + ratio);
  const smaller = ratio / (1 + ratio);
  const merged = Math.max(lse, blockLse) + Math.log1p(ratio);
  return lse >= blockLse
    ? { weight: larger, blockWeight: smaller, lse: merged }
    : { weight: smaller, blockWeight: larger, lse: merged };
}

// From the product of a query and a key to the score of the softmax, and its derivative; shaders/score.wgsl computes the
// same in f32. Pure.
//   score = softcap(softmaxScale · q·k) + bias − slope_h · |i + o − j|,   softcap(x) = c · tanh(x / c)
import type { AttentionOptions } from './options.ts';

/** A bias at or below this removes its key. */
export const MASKED_BIAS = -1e30;

/** A bias [batch, heads, rows, keys]: batch and heads are those of the call, or 1 where it is broadcast. */
export interface BiasTable {
  data: ArrayLike<number>;
  batch: number;
  heads: number;
  rows: number;
  keys: number;
}

/** What turns q·k into a score. */
export interface ScoreTerms {
  options: Pick<AttentionOptions, 'softmaxScale' | 'softcap'>;
  /** [H] */
  alibiSlopes?: ArrayLike<number> | undefined;
  bias?: BiasTable | undefined;
}

/** Which query meets which key: `row` counts rows of the bias, i and j are positions in the sequence. */
export interface Pair {
  batch: number;
  head: number;
  row: number;
  i: number;
  /** o of the sequence. */
  offset: number;
  j: number;
}

/** A score in natural units, −Infinity when the bias removes the key, and its derivative by q·k. */
export interface Score {
  value: number;
  slope: number;
}

/**
 * The score of a pair whose q·k is `dot`.
 *
 * Soft cap: Gemma 2, arXiv 2408.00118, §2. ALiBi: Press et al. 2021, arXiv 2108.12409, §3, symmetric in the distance.
 */
export function scoreOf({ options, alibiSlopes, bias }: ScoreTerms, dot: number, pair: Pair): Score {
  const { softmaxScale, softcap } = options;
  const scaled = softmaxScale * dot;
  const capped = softcap > 0 ? Math.tanh(scaled / softcap) : 0;
  let value = softcap > 0 ? softcap * capped : scaled;
  const slope = softcap > 0 ? softmaxScale * (1 - capped * capped) : softmaxScale;
  if (alibiSlopes) value -= alibiSlopes[pair.head] * Math.abs(pair.i + pair.offset - pair.j);
  if (bias) {
    const added = bias.data[biasIndex(bias, pair)];
    value = added <= MASKED_BIAS ? -Infinity : value + added;
  }
  return { value, slope };
}

/** Where the bias of a pair lies in its table. */
export function biasIndex(
  { batch, heads, rows, keys }: Omit<BiasTable, 'data'>,
  pair: Pick<Pair, 'batch' | 'head' | 'row' | 'j'>,
): number {
  const plane = (batch === 1 ? 0 : pair.batch) * heads + (heads === 1 ? 0 : pair.head);
  return (plane * rows + pair.row) * keys + pair.j;
}

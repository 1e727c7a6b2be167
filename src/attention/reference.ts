// The reference: attention in f64 with every option, written to be read. Every kernel and every ring is checked against it;
// test/attention/reference-backward.test.ts checks its gradients by finite differences.
import { toFloat32 } from '../tensor/float16.ts';
import { numElements } from '../tensor/tensor.ts';
import type { AttentionCall, AttentionInputs } from './call.ts';
import { keepsWeight } from './dropout.ts';
import { keyInterval } from './mask.ts';
import { type AttentionOptions, validateOptions } from './options.ts';
import { scoreOf, type ScoreTerms } from './score.ts';
import { listSequences, type Sequence, type SequenceLengths } from './sequences.ts';
import { type AttentionShape, validateShape } from './shape.ts';

/** The tensors of a call, row-major, as any arrays of numbers; a packed call has B = 1 and S = T. */
export interface ReferenceInputs {
  /** [B, Sq, H, Dqk] */
  q: ArrayLike<number>;
  /** [B, Skv, Hkv, Dqk] */
  k: ArrayLike<number>;
  /** [B, Skv, Hkv, Dv] */
  v: ArrayLike<number>;
  /** [batch, heads, Sq, Skv], where batch is 1 or B and heads 1 or H. */
  bias?: { data: ArrayLike<number>; batch: number; heads: number } | null | undefined;
  /** [H], with `sink: 'learnable'`. */
  sink?: ArrayLike<number> | undefined;
  /** [H] */
  alibiSlopes?: ArrayLike<number> | undefined;
  /** Null, the default: every batch entry is one sequence of full length. */
  lengths?: SequenceLengths | null | undefined;
}

/**
 * out [B, Sq, H, Dv], lse [B, H, Sq] and maxLogit [H], the largest score of each head, in f64. A row with no key has out 0
 * and lse −Infinity, or lse = sink_h; a row of no sequence has lse −Infinity whatever the sink.
 */
export interface ReferenceResult {
  out: Float64Array;
  lse: Float64Array;
  maxLogit: Float64Array;
}

/** A row of a [B, S, H, D] tensor: batch entry, head, and row of the batch entry. */
export type RowPlace = readonly [b: number, h: number, row: number];

/** The keys that a query row keeps, with their scores; all arrays are as long as the number of keys. */
export interface RowScores {
  /** The number of the sequence that the row is in. */
  sequence: number;
  /** Position of the query in its sequence. */
  i: number;
  /** Positions of the keys in the sequence. */
  keys: number[];
  /** Rows of k and v in the batch entry. */
  kvRows: number[];
  /** In natural units. */
  scores: number[];
  /** Derivatives of the scores by q·k. */
  slopes: number[];
  /** Of the softmax, before dropout. */
  weights: number[];
  lse: number;
  /** Largest score; −Infinity without a key. The sink is not counted. */
  maxLogit: number;
}

/** The tensors of a call that describeCall has accepted, as the reference takes them: decoded from f16 and bf16. */
export function referenceInputs(inputs: AttentionInputs, { bias, lengths }: AttentionCall): ReferenceInputs {
  return {
    q: toFloat32(inputs.q),
    k: toFloat32(inputs.k),
    v: toFloat32(inputs.v),
    bias: inputs.bias && bias ? { data: inputs.bias.data, ...bias } : null,
    sink: inputs.sink?.data,
    alibiSlopes: inputs.alibiSlopes?.data,
    lengths,
  };
}

/** Scores of query row [b, h, row]; null when the row is in no sequence. */
export function scoreRow(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  [b, h, row]: RowPlace,
): RowScores | null {
  const { seqLenQ, numHeads, headDimQk } = shape;
  const sequences = listSequences(shape, options.maskType, inputs.lengths ?? null);
  const sequence = sequences.findIndex((one) => one.batch === b && row >= one.startQ && row < one.startQ + one.lenQ);
  if (sequence < 0) return null;
  const { startQ, startKv, offset } = sequences[sequence];
  const i = row - startQ;
  const terms = scoreTerms(inputs, shape, options);
  const qAt = ((b * seqLenQ + row) * numHeads + h) * headDimQk;
  const keys: RowScores['keys'] = [];
  const kvRows: RowScores['kvRows'] = [];
  const scores: RowScores['scores'] = [];
  const slopes: RowScores['slopes'] = [];
  let maxLogit = -Infinity;
  const [firstKey, endKey] = keptKeys(sequences[sequence], options, i);
  for (let j = firstKey; j < endKey; j++) {
    const kAt = kvIndex(shape, [b, h, startKv + j]) * headDimQk;
    const dot = dotProduct({ data: inputs.q, at: qAt }, { data: inputs.k, at: kAt }, headDimQk);
    const { value, slope } = scoreOf(terms, dot, { batch: b, head: h, row, i, offset, j });
    if (value === -Infinity) continue;
    keys.push(j);
    kvRows.push(startKv + j);
    scores.push(value);
    slopes.push(slope);
    maxLogit = Math.max(maxLogit, value);
  }
  const { weights, lse } = softmax(scores, sinkLogit(inputs, options, h));
  return { sequence, i, keys, kvRows, scores, slopes, weights, lse, maxLogit };
}

/** The keys [first, end) of its sequence that the mask keeps for query i. */
function keptKeys({ lenKv, offset }: Sequence, { maskType, window }: AttentionOptions, i: number): [number, number] {
  const { left, right } = keyInterval(maskType, window);
  return [Math.max(0, i + offset - left), Math.min(lenKv, i + offset + right + 1)];
}

/** exp(score) / (Σ exp(score) + exp(sink)) of every score, and the logarithm of that denominator; nothing overflows. */
export function softmax(scores: readonly number[], sink: number): { weights: number[]; lse: number } {
  const largest = scores.reduce((max, score) => Math.max(max, score), sink);
  if (largest === -Infinity) return { weights: [], lse: -Infinity };
  const exponentials = scores.map((score) => Math.exp(score - largest));
  const sum = exponentials.reduce((total, exponential) => total + exponential, Math.exp(sink - largest));
  return { weights: exponentials.map((exponential) => exponential / sum), lse: largest + Math.log(sum) };
}

/** The logit of a head's sink; −Infinity is none. */
export function sinkLogit({ sink }: ReferenceInputs, options: AttentionOptions, h: number): number {
  if (options.sink === 'none') return -Infinity;
  return options.sink === 'learnable' && sink ? sink[h] : 0;
}

/** What multiplies the weight of query i and key j after the softmax: 1, or with dropout 0 or 1 / (1 − p). */
export function dropoutFactor(options: AttentionOptions, sequence: number, head: number, [i, j]: [number, number]) {
  if (options.dropout === 0) return 1;
  return keepsWeight(options, { sequence, head }, i, j) ? 1 / (1 - options.dropout) : 0;
}

/** What turns q·k of a call into scores. */
export function scoreTerms(
  { alibiSlopes, bias }: ReferenceInputs,
  { seqLenQ, seqLenKv }: AttentionShape,
  options: AttentionOptions,
): ScoreTerms {
  return { options, alibiSlopes, bias: bias ? { ...bias, rows: seqLenQ, keys: seqLenKv } : undefined };
}

/** The row of k or v, seen as [B · Skv · Hkv, D], that query head h meets at row `kvRow` of batch entry b. */
export function kvIndex({ seqLenKv, numHeads, numKvHeads }: AttentionShape, [b, h, kvRow]: RowPlace): number {
  return (b * seqLenKv + kvRow) * numKvHeads + Math.floor(h / (numHeads / numKvHeads));
}

/** `length` consecutive elements from `at`, where the length goes without saying: a row of a tensor. */
export interface Row {
  data: ArrayLike<number>;
  at: number;
}

/** Σ_d a[d] · b[d] of two rows of `length` elements. */
export function dotProduct(a: Row, b: Row, length: number): number {
  let sum = 0;
  for (let d = 0; d < length; d++) sum += a.data[a.at + d] * b.data[b.at + d];
  return sum;
}

/** out [Dv] of a row from its scores (null: a row of no sequence). */
export function outRow(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  { row, place: [b, h] }: { row: RowScores | null; place: RowPlace },
): Float64Array {
  const out = new Float64Array(shape.headDimV);
  if (!row) return out;
  for (const [index, kvRow] of row.kvRows.entries()) {
    const factor = dropoutFactor(options, row.sequence, h, [row.i, row.keys[index]]);
    const weight = factor * row.weights[index];
    const vAt = kvIndex(shape, [b, h, kvRow]) * shape.headDimV;
    for (let d = 0; d < out.length; d++) out[d] += weight * inputs.v[vAt + d];
  }
  return out;
}

/** One row of the reference: out [Dv], lse and largest score of query row [b, h, row] (packed: b = 0, row = token). */
export function referenceRow(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  place: RowPlace,
): { out: Float64Array; lse: number; maxLogit: number } {
  const row = scoreRow(inputs, shape, options, place);
  const out = outRow(inputs, shape, options, { row, place });
  return { out, lse: row?.lse ?? -Infinity, maxLogit: row?.maxLogit ?? -Infinity };
}

/** The whole forward in f64: one step per kept pair and element, some hundred million a second. */
export function referenceForward(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
): ReferenceResult {
  validateShape(shape);
  validateOptions(options);
  const { batch, seqLenQ, numHeads, headDimV } = shape;
  const out = new Float64Array(numElements([batch, seqLenQ, numHeads, headDimV]));
  const lse = new Float64Array(numElements([batch, numHeads, seqLenQ]));
  const maxLogit = new Float64Array(numHeads).fill(-Infinity);
  forEachRow(shape, (b, h, i) => {
    const row = referenceRow(inputs, shape, options, [b, h, i]);
    out.set(row.out, ((b * seqLenQ + i) * numHeads + h) * headDimV);
    lse[(b * numHeads + h) * seqLenQ + i] = row.lse;
    maxLogit[h] = Math.max(maxLogit[h], row.maxLogit);
  });
  return { out, lse, maxLogit };
}

/** Calls `visit` for every row of q. */
export function forEachRow(shape: AttentionShape, visit: (b: number, h: number, row: number) => void): void {
  for (let b = 0; b < shape.batch; b++) {
    for (let h = 0; h < shape.numHeads; h++) {
      for (let row = 0; row < shape.seqLenQ; row++) visit(b, h, row);
    }
  }
}

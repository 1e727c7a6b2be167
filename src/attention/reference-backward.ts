// The reference backward: gradients of attention in f64 with every option, written to be read. Whole, or for one row of q
// or of k and v, so that a few rows of a big case can be checked.
//
//   P = exp(score − lse)   M = 0 or 1 / (1 − p) by dropout   delta_i = Σ_d dout·out
//   dv_j = Σ_i M P dout_i      dS = P (M dout_i·v_j − delta_i)      dq_i = Σ_j dS score' k_j      dk_j = Σ_i dS score' q_i
//   dbias = dS summed over what is broadcast      dsink_h = −Σ_i exp(sink_h − lse_i) delta_i
//
// (FlashAttention-2, Dao 2023, arXiv 2307.08691, §3.1.2; score' is the derivative of the score by q·k.)
import { keyInterval } from './mask.ts';
import type { AttentionOptions } from './options.ts';
import {
  dotProduct,
  dropoutFactor,
  forEachRow,
  kvIndex,
  outRow,
  type ReferenceInputs,
  type Row,
  type RowPlace,
  type RowScores,
  scoreRow,
  scoreTerms,
  sinkLogit,
} from './reference.ts';
import { biasIndex, scoreOf } from './score.ts';
import { listSequences, type Sequence } from './sequences.ts';
import type { AttentionShape } from './shape.ts';

/** Gradients in the shapes of the inputs, f64; dbias with a bias, dsink [H] with `sink: 'learnable'`. */
export interface ReferenceGradients {
  dq: Float64Array;
  dk: Float64Array;
  dv: Float64Array;
  dbias?: Float64Array;
  dsink?: Float64Array;
}

/** Tensors of a call together with the gradient of its out, [B, Sq, H, Dv]. */
export interface BackwardInputs extends ReferenceInputs {
  dout: ArrayLike<number>;
}

/** One row of q and what its gradients are made of; the arrays have an element per kept key. */
interface RowGradients {
  /** [Dqk] */
  dq: Float64Array;
  delta: number;
  lse: number;
  scores: RowScores | null;
  /** Gradients of the scores. */
  dscores: number[];
  /** Weights of the values after dropout. */
  weights: number[];
}

/** The gradients of one query row, and its lse and delta. */
export function referenceQueryGradients(
  inputs: BackwardInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  place: RowPlace,
): RowGradients {
  const { seqLenQ, numHeads, headDimQk, headDimV } = shape;
  const [b, h, queryRow] = place;
  const scores = scoreRow(inputs, shape, options, place);
  const dq = new Float64Array(headDimQk);
  const result: RowGradients = { dq, delta: 0, lse: scores?.lse ?? -Infinity, scores, dscores: [], weights: [] };
  if (!scores) return result;
  const dout = { data: inputs.dout, at: ((b * seqLenQ + queryRow) * numHeads + h) * headDimV };
  const out = outRow(inputs, shape, options, { row: scores, place });
  result.delta = dotProduct({ data: out, at: 0 }, dout, headDimV);
  for (const [index, kvRow] of scores.kvRows.entries()) {
    const kv = kvIndex(shape, [b, h, kvRow]);
    const p = scores.weights[index];
    const factor = dropoutFactor(options, scores.sequence, h, [scores.i, scores.keys[index]]);
    const dp = factor * dotProduct(dout, { data: inputs.v, at: kv * headDimV }, headDimV);
    const dscore = p * (dp - result.delta);
    result.weights.push(factor * p);
    result.dscores.push(dscore);
    addScaled({ target: dq, at: 0 }, dscore * scores.slopes[index], { data: inputs.k, at: kv * headDimQk }, headDimQk);
  }
  return result;
}

/** All gradients of a call, from its tensors and the gradient of out [B, Sq, H, Dv]. */
export function referenceBackward(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  dout: ArrayLike<number>,
): ReferenceGradients {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const { bias } = scoreTerms(inputs, shape, options);
  const dq = new Float64Array(batch * seqLenQ * numHeads * headDimQk);
  const dk = new Float64Array(batch * seqLenKv * numKvHeads * headDimQk);
  const dv = new Float64Array(batch * seqLenKv * numKvHeads * headDimV);
  const dbias = new Float64Array(bias?.data.length ?? 0);
  const dsink = new Float64Array(numHeads);
  forEachRow(shape, (b, h, queryRow) => {
    const row = referenceQueryGradients({ ...inputs, dout }, shape, options, [b, h, queryRow]);
    const query = (b * seqLenQ + queryRow) * numHeads + h;
    dq.set(row.dq, query * headDimQk);
    if (row.lse === -Infinity || !row.scores) return;
    dsink[h] -= Math.exp(sinkLogit(inputs, options, h) - row.lse) * row.delta;
    for (const [index, kvRow] of row.scores.kvRows.entries()) {
      const kv = kvIndex(shape, [b, h, kvRow]);
      const dscore = row.dscores[index];
      const ddot = dscore * row.scores.slopes[index];
      addScaled({ target: dk, at: kv * headDimQk }, ddot, { data: inputs.q, at: query * headDimQk }, headDimQk);
      addScaled({ target: dv, at: kv * headDimV }, row.weights[index], { data: dout, at: query * headDimV }, headDimV);
      if (bias) dbias[biasIndex(bias, { batch: b, head: h, row: queryRow, j: row.scores.keys[index] })] += dscore;
    }
  });
  return { dq, dk, dv, ...(bias ? { dbias } : {}), ...(options.sink === 'learnable' ? { dsink } : {}) };
}

/**
 * The gradients dk [Dqk] and dv [Dv] of one KV row: batch entry b, KV head, row of k and v. `lse` and `delta` [B, H, Sq] are
 * those of the forward, so that the cost is that of the queries which keep the key; {@link rowDeltas} has delta.
 */
export function referenceKeyGradients(
  inputs: BackwardInputs & { lse: ArrayLike<number>; delta: ArrayLike<number> },
  shape: AttentionShape,
  options: AttentionOptions,
  [b, kvHead, kvRow]: RowPlace,
): { dk: Float64Array; dv: Float64Array } {
  const { seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const [dk, dv] = [new Float64Array(headDimQk), new Float64Array(headDimV)];
  const sequences = listSequences(shape, options.maskType, inputs.lengths ?? null);
  const sequence = sequences.findIndex(
    (one) => one.batch === b && kvRow >= one.startKv && kvRow < one.startKv + one.lenKv,
  );
  if (sequence < 0) return { dk, dv };
  const { startQ, startKv, offset } = sequences[sequence];
  const j = kvRow - startKv;
  const terms = scoreTerms(inputs, shape, options);
  const kv = (b * seqLenKv + kvRow) * numKvHeads + kvHead;
  const [firstQuery, endQuery] = keepingQueries(sequences[sequence], options, j);
  for (let member = 0; member < numHeads / numKvHeads; member++) {
    const h = kvHead * (numHeads / numKvHeads) + member;
    for (let i = firstQuery; i < endQuery; i++) {
      const row = startQ + i;
      const query = (b * seqLenQ + row) * numHeads + h;
      const qRow = { data: inputs.q, at: query * headDimQk };
      const dout = { data: inputs.dout, at: query * headDimV };
      const dot = dotProduct(qRow, { data: inputs.k, at: kv * headDimQk }, headDimQk);
      const score = scoreOf(terms, dot, { batch: b, head: h, row, i, offset, j });
      if (score.value === -Infinity) continue;
      const at = (b * numHeads + h) * seqLenQ + row;
      const factor = dropoutFactor(options, sequence, h, [i, j]);
      const p = Math.exp(score.value - inputs.lse[at]);
      const dp = factor * dotProduct(dout, { data: inputs.v, at: kv * headDimV }, headDimV);
      const ddot = p * (dp - inputs.delta[at]) * score.slope;
      addScaled({ target: dk, at: 0 }, ddot, qRow, headDimQk);
      addScaled({ target: dv, at: 0 }, factor * p, dout, headDimV);
    }
  }
  return { dk, dv };
}

/** The queries [first, end) of its sequence that keep key j: i + o − left ≤ j ≤ i + o + right, solved for i. */
function keepingQueries(
  { lenQ, offset }: Sequence,
  { maskType, window }: AttentionOptions,
  j: number,
): [number, number] {
  const { left, right } = keyInterval(maskType, window);
  return [Math.max(0, j - offset - right), Math.min(lenQ, j - offset + left + 1)];
}

/** delta [B, H, Sq] = Σ_d dout · out, both [B, Sq, H, Dv]. */
export function rowDeltas(
  out: ArrayLike<number>,
  dout: ArrayLike<number>,
  shape: Pick<AttentionShape, 'batch' | 'seqLenQ' | 'numHeads' | 'headDimV'>,
): Float64Array {
  const { batch, seqLenQ, numHeads, headDimV } = shape;
  const delta = new Float64Array(batch * numHeads * seqLenQ);
  for (let row = 0; row < batch * seqLenQ * numHeads; row++) {
    const h = row % numHeads;
    const i = Math.floor(row / numHeads) % seqLenQ;
    const b = Math.floor(row / (numHeads * seqLenQ));
    delta[(b * numHeads + h) * seqLenQ + i] = dotProduct(
      { data: out, at: row * headDimV },
      { data: dout, at: row * headDimV },
      headDimV,
    );
  }
  return delta;
}

/** Adds `factor` times a row of `length` elements to another. */
function addScaled(to: { target: Float64Array; at: number }, factor: number, from: Row, length: number): void {
  for (let d = 0; d < length; d++) to.target[to.at + d] += factor * from.data[from.at + d];
}

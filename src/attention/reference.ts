// The reference: attention in f64, written to be read. Every kernel and every ring is checked against it.
import { numElements } from '../tensor/tensor.ts';
import { type AttentionOptions, type AttentionShape, validateOptions, validateShape } from './shape.ts';

/** q [B, Sq, H, Dqk], k [B, Skv, Hkv, Dqk], v [B, Skv, Hkv, Dv], row-major, as any array of numbers. */
export interface ReferenceInputs {
  q: ArrayLike<number>;
  k: ArrayLike<number>;
  v: ArrayLike<number>;
}

/** out [B, Sq, H, Dv] and lse [B, H, Sq] in f64; a row with no key has out 0 and lse −Infinity. */
export interface ReferenceResult {
  out: Float64Array;
  lse: Float64Array;
}

/** One row of the reference: the output vector and the lse of query row `i` of (batch b, head h). */
export function referenceRow(
  { q, k, v }: ReferenceInputs,
  shape: AttentionShape,
  { maskType, softmaxScale }: AttentionOptions,
  [b, h, i]: readonly [number, number, number],
): { out: Float64Array; lse: number } {
  const { seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const kvHead = Math.floor(h / (numHeads / numKvHeads));
  const numKeys = maskType === 'causal' ? Math.min(i + 1, seqLenKv) : seqLenKv;
  const qRow = ((b * seqLenQ + i) * numHeads + h) * headDimQk;
  const out = new Float64Array(headDimV);
  const scores = new Float64Array(numKeys);
  let rowMax = -Infinity;
  for (let j = 0; j < numKeys; j++) {
    const kRow = ((b * seqLenKv + j) * numKvHeads + kvHead) * headDimQk;
    let dot = 0;
    for (let d = 0; d < headDimQk; d++) dot += q[qRow + d] * k[kRow + d];
    scores[j] = softmaxScale * dot;
    rowMax = Math.max(rowMax, scores[j]);
  }
  if (numKeys === 0) return { out, lse: -Infinity };
  let rowSum = 0;
  for (let j = 0; j < numKeys; j++) {
    const weight = Math.exp(scores[j] - rowMax);
    const vRow = ((b * seqLenKv + j) * numKvHeads + kvHead) * headDimV;
    rowSum += weight;
    for (let d = 0; d < headDimV; d++) out[d] += weight * v[vRow + d];
  }
  for (let d = 0; d < headDimV; d++) out[d] /= rowSum;
  return { out, lse: rowMax + Math.log(rowSum) };
}

/** The whole forward in f64: O(B·H·Sq·Skv·D) scalar steps, a few hundred million a second. */
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
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < numHeads; h++) {
      for (let i = 0; i < seqLenQ; i++) {
        const row = referenceRow(inputs, shape, options, [b, h, i]);
        out.set(row.out, ((b * seqLenQ + i) * numHeads + h) * headDimV);
        lse[(b * numHeads + h) * seqLenQ + i] = row.lse;
      }
    }
  }
  return { out, lse };
}

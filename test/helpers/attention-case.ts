// Seeded inputs of one attention call as host tensors, and the comparison of a result with the f64 reference.
import { expect } from 'chai';
import { referenceRow } from '../../src/attention/reference.ts';
import type { AttentionInputs, AttentionOptions, AttentionResult, AttentionShape } from '../../src/attention/shape.ts';
import { f32Tensor } from '../../src/tensor/tensor.ts';
import { seededNormal } from './seeded.ts';
import { TOLERANCE } from './tolerance.ts';

export interface AttentionCase {
  shape: AttentionShape;
  options: AttentionOptions;
  inputs: AttentionInputs;
}

/** A self-attention case (Sq = Skv = seqLen) with N(0, 1) inputs. */
export function createCase(
  {
    seqLen,
    batch = 1,
    numHeads,
    numKvHeads,
    headDim,
  }: { seqLen: number; batch?: number; numHeads: number; numKvHeads: number; headDim: number },
  maskType: 'no_mask' | 'causal',
): AttentionCase {
  const tensor = (heads: number, seed: number) =>
    f32Tensor([batch, seqLen, heads, headDim], seededNormal(batch * seqLen * heads * headDim, seed));
  return {
    shape: { batch, seqLenQ: seqLen, seqLenKv: seqLen, numHeads, numKvHeads, headDimQk: headDim, headDimV: headDim },
    options: { maskType, softmaxScale: 1 / Math.sqrt(headDim) },
    inputs: { q: tensor(numHeads, 1), k: tensor(numKvHeads, 2), v: tensor(numKvHeads, 3) },
  };
}

/** Compares up to `maxRows` evenly spread rows, the first and the last always among them, and fails at the first that is off. */
export function expectReference(
  { shape, options, inputs }: AttentionCase,
  { out, lse }: AttentionResult,
  maxRows = 400,
): void {
  const { batch, seqLenQ, numHeads, headDimV } = shape;
  const data = { q: inputs.q.data, k: inputs.k.data, v: inputs.v.data };
  const numRows = batch * seqLenQ * numHeads;
  const numChecked = Math.min(maxRows, numRows);
  for (let check = 0; check < numChecked; check++) {
    const index = numChecked === 1 ? 0 : Math.round((check * (numRows - 1)) / (numChecked - 1));
    const h = index % numHeads;
    const i = Math.floor(index / numHeads) % seqLenQ;
    const b = Math.floor(index / numHeads / seqLenQ);
    const reference = referenceRow(data, shape, options, [b, h, i]);
    const lseError = Math.abs(lse.data[(b * numHeads + h) * seqLenQ + i] - reference.lse);
    expect(lseError, `lse of row b=${b} h=${h} i=${i}`).to.be.at.most(TOLERANCE.f32.lse.atol);
    for (let d = 0; d < headDimV; d++) {
      const error = Math.abs(out.data[index * headDimV + d] - reference.out[d]);
      expect(error, `out[b=${b}, i=${i}, h=${h}, d=${d}]`).to.be.at.most(TOLERANCE.f32.out.atol);
    }
  }
}

// Compares a result with the f64 reference: every row, or as many spread-out rows as the reference computes in a second
// or two. Pure.
import { MASKED_LSE } from '../src/attention/merge.ts';
import { type ReferenceInputs, referenceRow } from '../src/attention/reference.ts';
import type { AttentionOptions, AttentionShape } from '../src/attention/shape.ts';

/** Largest error of an f32 result with N(0, 1) inputs, S ≤ 4096 and D ≤ 256; derived in test/helpers/tolerance.ts. */
export const FORWARD_TOLERANCE = { out: 5e-6, lse: 1e-5 } as const;

/** Scalar steps of the reference, at a few hundred million a second. */
const REFERENCE_STEPS = 4e8;

export interface Verdict {
  /** Largest |out − reference| over the checked rows; NaN when a checked element is NaN. */
  maxAbsError: number;
  /** Checked elements of out and lse outside {@link FORWARD_TOLERANCE}. */
  wrong: number;
}

/** Checks out [B, Sq, H, Dv] and lse [B, H, Sq] of a forward, in `rows` of [B, H, Sq]; default: those of {@link sampleRows}. */
export function verifyRows(
  inputs: ReferenceInputs,
  result: { out: ArrayLike<number>; lse: ArrayLike<number> },
  shape: AttentionShape,
  options: AttentionOptions,
  rows: readonly number[] = sampleRows(shape),
): Verdict {
  const { seqLenQ, numHeads, headDimV } = shape;
  const verdict: Verdict = { maxAbsError: 0, wrong: 0 };
  for (const row of rows) {
    const i = row % seqLenQ;
    const h = Math.floor(row / seqLenQ) % numHeads;
    const b = Math.floor(row / (seqLenQ * numHeads));
    const expected = referenceRow(inputs, shape, options, [b, h, i]);
    const offset = ((b * seqLenQ + i) * numHeads + h) * headDimV;
    for (let d = 0; d < headDimV; d++) {
      const error = Math.abs(result.out[offset + d] - expected.out[d]);
      if (!(error <= verdict.maxAbsError)) verdict.maxAbsError = error;
      // Written so that NaN counts as wrong.
      if (!(error <= FORWARD_TOLERANCE.out)) verdict.wrong++;
    }
    const expectedLse = Math.max(MASKED_LSE, expected.lse);
    if (!(Math.abs(Math.max(MASKED_LSE, result.lse[row]) - expectedLse) <= FORWARD_TOLERANCE.lse)) verdict.wrong++;
  }
  return verdict;
}

/** Rows of [B, H, Sq] to check: the first, the last, and others evenly between them; all when there is time. */
export function sampleRows({ batch, numHeads, seqLenQ, seqLenKv, headDimQk, headDimV }: AttentionShape): number[] {
  const numRows = batch * numHeads * seqLenQ;
  const affordable = Math.floor(REFERENCE_STEPS / (seqLenKv * (headDimQk + headDimV)));
  const count = Math.min(numRows, Math.max(2, affordable));
  if (count === 1) return [0];
  return Array.from({ length: count }, (_, index) => Math.round((index * (numRows - 1)) / (count - 1)));
}

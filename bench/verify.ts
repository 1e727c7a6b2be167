// Compares a result with the f64 reference: every row, or as many spread-out rows as the reference computes in a second
// or two. Pure.
import type { AttentionCall } from '../src/attention/call.ts';
import { MASKED_LSE } from '../src/attention/merge.ts';
import { type ReferenceInputs, referenceRow } from '../src/attention/reference.ts';
import type { AttentionShape } from '../src/attention/shape.ts';
import type { FloatDType } from '../src/tensor/tensor.ts';
import type { Verdict } from './suite.ts';

/** Largest error of an f32 result with N(0, 1) inputs, S ≤ 4096 and D ≤ 256; derived in test/helpers/tolerance.ts. */
export const FORWARD_TOLERANCE = { out: 5e-6, lse: 1e-5 } as const;

/** Scalar steps of the reference, at a few hundred million a second. */
const REFERENCE_STEPS = 4e8;

/** A result and the rows of [B, H, Sq] in which it is checked; default: those of {@link sampleRows}. */
export interface ForwardResult {
  /** [B, Sq, H, Dv], decoded to f32 when it was stored in 16 bits. */
  out: ArrayLike<number>;
  /** [B, H, Sq] */
  lse: ArrayLike<number>;
  rows?: readonly number[];
}

/**
 * Checks out and lse of a forward. `inputs` are those that the device had: rounded to the storage dtype, so that what is
 * allowed is the error of f32 arithmetic and, in 16 bits, that of rounding out once.
 */
export function verifyRows(
  { shape, options, storage }: AttentionCall,
  inputs: ReferenceInputs,
  { out, lse, rows = sampleRows(shape) }: ForwardResult,
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
      judge(verdict, [out[offset + d], expected.out[d]], storedBudget(expected.out[d], FORWARD_TOLERANCE.out, storage));
    }
    const expectedLse = Math.max(MASKED_LSE, expected.lse);
    if (!(Math.abs(Math.max(MASKED_LSE, lse[row]) - expectedLse) <= FORWARD_TOLERANCE.lse)) verdict.wrong++;
  }
  return verdict;
}

/** Counts an element towards a verdict; one that is NaN is wrong. */
export function judge(verdict: Verdict, [got, expected]: readonly [number, number], allowed: number): void {
  const error = Math.abs(got - expected);
  // Unlike a comparison, Math.max keeps NaN.
  verdict.maxAbsError = Math.max(verdict.maxAbsError, error);
  if (!(error <= allowed)) verdict.wrong++;
}

/** Two verdicts as one. */
export function joinVerdicts(a: Verdict, b: Verdict): Verdict {
  return { maxAbsError: Math.max(a.maxAbsError, b.maxAbsError), wrong: a.wrong + b.wrong };
}

/** Bits behind the leading one, and the exponent of the smallest normal number. */
const FORMATS = { f16: { mantissaBits: 10, minExponent: -14 }, bf16: { mantissaBits: 7, minExponent: -126 } } as const;

/**
 * What a stored element may be off by. The computed value is within `f32Budget` of `expected`, so that it is at most
 * |expected| + f32Budget; rounding to the nearest 16-bit number adds half of its spacing there: 2^(e − mantissa bits − 1) for
 * a number in [2^e, 2^(e+1)).
 */
export function storedBudget(expected: number, f32Budget: number, dtype: FloatDType): number {
  if (dtype === 'f32') return f32Budget;
  const { mantissaBits, minExponent } = FORMATS[dtype];
  const exponent = Math.max(minExponent, Math.floor(Math.log2(Math.abs(expected) + f32Budget)));
  return f32Budget + 2 ** (exponent - mantissaBits - 1);
}

/** Rows of [B, H, Sq] to check: the first, the last, and others evenly between them; all when there is time. */
export function sampleRows({ batch, numHeads, seqLenQ, seqLenKv, headDimQk, headDimV }: AttentionShape): number[] {
  return spreadRows(batch * numHeads * seqLenQ, REFERENCE_STEPS / (seqLenKv * (headDimQk + headDimV)));
}

/** As many of `numRows` rows as are affordable, two at least, evenly spread with the first and the last among them. */
export function spreadRows(numRows: number, affordable: number): number[] {
  const count = Math.min(numRows, Math.max(2, Math.floor(affordable)));
  if (count === 1) return [0];
  return Array.from({ length: count }, (_, index) => Math.round((index * (numRows - 1)) / (count - 1)));
}

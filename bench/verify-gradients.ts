// Compares gradients with the f64 reference in a few spread-out rows of q, and of k and v: what the reference computes in a
// second or two. Pure.
import type { AttentionCall } from '../src/attention/call.ts';
import {
  type BackwardInputs,
  referenceKeyGradients,
  referenceQueryGradients,
  rowDeltas,
} from '../src/attention/reference-backward.ts';
import type { Verdict } from './suite.ts';
import { judge, spreadRows, storedBudget } from './verify.ts';

/** Largest error of an f32 gradient with N(0, 1) inputs, relative to the largest gradient of its tensor. */
export const GRADIENT_TOLERANCE = 2e-5;

/** Scalar steps of the reference for the rows of q, and as many for those of k and v. */
const REFERENCE_STEPS = 2e8;

/** Rows at the front that are always checked. */
const FIRST_ROWS = 8;

/** Gradients, decoded to f32 when they were stored in 16 bits, and what the device's forward left for them, in f32. */
export interface BackwardResult {
  /** [B, Sq, H, Dqk] */
  dq: ArrayLike<number>;
  /** [B, Skv, Hkv, Dqk] */
  dk: ArrayLike<number>;
  /** [B, Skv, Hkv, Dv] */
  dv: ArrayLike<number>;
  /** [B, Sq, H, Dv] */
  out: ArrayLike<number>;
  /** [B, H, Sq] */
  lse: ArrayLike<number>;
}

/** Pairs of a gradient and its reference. */
type Pairs = [got: number, expected: number][];

/**
 * Checks dq, dk and dv. `inputs` are those that the device had, as in {@link verifyRows}. Rows of dq come from the inputs
 * alone; those of dk and dv, which meet every query, from the forward's out and lse as well: check these too.
 */
export function verifyGradients(call: AttentionCall, inputs: BackwardInputs, result: BackwardResult): Verdict {
  const verdict: Verdict = { maxAbsError: 0, wrong: 0 };
  for (const pairs of [pairQueryRows(call, inputs, result), ...pairKeyRows(call, inputs, result)]) {
    const largest = pairs.reduce((max, [, expected]) => Math.max(max, Math.abs(expected)), 0);
    for (const pair of pairs) judge(verdict, pair, storedBudget(pair[1], GRADIENT_TOLERANCE * largest, call.storage));
  }
  return verdict;
}

function pairQueryRows({ shape, options }: AttentionCall, inputs: BackwardInputs, { dq }: BackwardResult): Pairs {
  const { batch, seqLenQ, seqLenKv, numHeads, headDimQk, headDimV } = shape;
  const rows = chooseRows(batch * numHeads * seqLenQ, REFERENCE_STEPS / (2 * seqLenKv * (headDimQk + headDimV)));
  return rows.flatMap((row) => {
    const i = row % seqLenQ;
    const h = Math.floor(row / seqLenQ) % numHeads;
    const b = Math.floor(row / (seqLenQ * numHeads));
    const expected = referenceQueryGradients(inputs, shape, options, [b, h, i]);
    return pairElements(dq, ((b * seqLenQ + i) * numHeads + h) * headDimQk, expected.dq);
  });
}

function pairKeyRows(
  { shape, options }: AttentionCall,
  inputs: BackwardInputs,
  { dk, dv, out, lse }: BackwardResult,
): [dk: Pairs, dv: Pairs] {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const stepsPerRow = (numHeads / numKvHeads) * 2 * seqLenQ * (headDimQk + headDimV);
  const stats = { ...inputs, lse, delta: rowDeltas(out, inputs.dout, shape) };
  const [dkPairs, dvPairs]: [Pairs, Pairs] = [[], []];
  for (const row of chooseRows(batch * numKvHeads * seqLenKv, REFERENCE_STEPS / stepsPerRow)) {
    const j = row % seqLenKv;
    const kvHead = Math.floor(row / seqLenKv) % numKvHeads;
    const b = Math.floor(row / (seqLenKv * numKvHeads));
    const expected = referenceKeyGradients(stats, shape, options, [b, kvHead, j]);
    const place = (b * seqLenKv + j) * numKvHeads + kvHead;
    dkPairs.push(...pairElements(dk, place * headDimQk, expected.dk));
    dvPairs.push(...pairElements(dv, place * headDimV, expected.dv));
  }
  return [dkPairs, dvPairs];
}

/**
 * Rows that are affordable, evenly spread, and the first ones: under a causal mask these have the largest gradients of the
 * tensor, and the tolerance is relative to them.
 */
function chooseRows(numRows: number, affordable: number): number[] {
  const first = Array.from({ length: Math.min(FIRST_ROWS, numRows) }, (_, row) => row);
  return [...new Set([...first, ...spreadRows(numRows, affordable)])];
}

function pairElements(got: ArrayLike<number>, offset: number, expected: Float64Array): Pairs {
  return Array.from(expected, (value, d) => [got[offset + d], value]);
}

// Comparison of results with a reference, by an absolute and a relative budget that is derived and not tuned.
import { AssertionError } from 'chai';

/** |got − expected| ≤ atol + rtol · |expected|. */
export interface Budget {
  atol: number;
  rtol: number;
}

/**
 * Budgets for N(0, 1) inputs, S ≤ 4096 and D ≤ 256: f32 kernels against f64, with ε = 2⁻²⁴ ≈ 6e-8.
 *
 * out: a score is a sum of D products, scaled so that |score| ≲ 6 in log2 units. Its rounding walks √D steps of
 * ε · |partial sum|: at most 16 · 6e-8 · 1 ≈ 1e-6. exp2 adds 2.4e-7, relative. In a row of few keys both meet |v| ≲ 4:
 * 4 · 1.2e-6 ≈ 5e-6. Rows of many keys average the errors away.
 *
 * lse: the error of the scores, and the rounding of a sum of 4096 terms: √4096 · ε ≈ 4e-6, relative in the sum and so
 * absolute in its logarithm; twice that for a sum that grows steadily.
 *
 * Largest errors measured at S 4096, D 64 and 256, both kernels and masks: out 1.8e-6, lse 4.0e-6.
 */
export const TOLERANCE = {
  f32: { out: { atol: 5e-6, rtol: 0 }, lse: { atol: 1e-5, rtol: 0 } },
} as const satisfies Record<string, Record<string, Budget>>;

/** How close a result came. */
export interface Closeness {
  maxError: number;
  /** Largest share of the budget that an element used, in percent. */
  percentOfBudget: number;
  wrong: number;
}

/**
 * Throws an AssertionError unless every element is within the budget; −Infinity only matches −Infinity. The message has
 * the index tuple of the worst element, and how many others are wrong.
 */
export function expectClose(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  budget: Budget,
  shape: readonly number[],
): Closeness {
  if (got.length !== expected.length) {
    throw new AssertionError(`expected ${expected.length} elements, got ${got.length}`);
  }
  let [wrong, worst, worstIndex, maxError] = [0, 0, 0, 0];
  for (let index = 0; index < expected.length; index++) {
    const error = got[index] === expected[index] ? 0 : Math.abs(got[index] - expected[index]);
    const used = error / (budget.atol + budget.rtol * Math.abs(expected[index]));
    // Written so that NaN counts as wrong.
    if (!(used <= 1)) wrong++;
    if (!(used <= worst)) [worst, worstIndex] = [used, index];
    if (!(error <= maxError)) maxError = error;
  }
  if (wrong > 0) {
    const allowed = budget.atol + budget.rtol * Math.abs(expected[worstIndex]);
    throw new AssertionError(
      `[${indexTuple(worstIndex, shape).join(', ')}]: got ${got[worstIndex]}, expected ${expected[worstIndex]}, ` +
        `allowed ${allowed.toExponential(2)}; max error ${maxError.toExponential(2)}, ` +
        `${(100 * worst).toFixed(0)} % of budget, ${wrong} of ${expected.length} wrong`,
    );
  }
  return { maxError, percentOfBudget: 100 * worst, wrong };
}

/** The row-major index of element `index` of a tensor of `shape`. */
export function indexTuple(index: number, shape: readonly number[]): number[] {
  const tuple: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    tuple.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return tuple;
}

// Comparison of results with a reference, by an absolute and a relative budget that is derived and not tuned.
import { AssertionError } from 'chai';

/** |got − expected| ≤ atol + rtol · |expected|. */
export interface Budget {
  atol: number;
  rtol: number;
}

/** Half the distance from 1 to the next f32 number: the largest relative error of one rounding. */
const EPSILON = 2 ** -24;

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
 * gradients: relative to the largest element of the tensor, see {@link gradientBudget}. dS = P · (dP − delta). P carries the
 * error of a score and of lse, 1.2e-6 + 1e-5, relative; dP and delta are sums of D products, √D · ε ≤ 1e-6 of their size,
 * which is that of their difference in the rows that make the largest gradients. The sum over up to 4096 rows rounds by
 * √4096 · ε = 4e-6 more: together 1.7e-5.
 *
 * Soft cap, ALiBi, bias and sinks add a rounding of a score each and stay within the first term. 16-bit tensors: their
 * elements are exact in f32 and sums are f32, so that only the results are rounded; see {@link budget16}. lse, dbias and
 * dsink are f32 always.
 *
 * Largest errors measured at S 4096, D 64 and 256, both kernels and masks: out 1.8e-6, lse 4.0e-6.
 *
 * largeScores: scores of ±1e4 that are equal or far apart, so that out is as exact as ever; lse is such a score, rounded
 * four times (the scale, the product with it, the logarithm's sum, ln 2): 4 ε, relative.
 */
export const TOLERANCE = {
  f32: { out: { atol: 5e-6, rtol: 0 }, lse: { atol: 1e-5, rtol: 0 } },
  largeScores: { out: { atol: 5e-6, rtol: 0 }, lse: { atol: 1e-5, rtol: 4 * 2 ** -24 } },
} as const satisfies Record<string, Record<string, Budget>>;

/** Of a gradient, relative to the largest |element| of its tensor. */
export const GRADIENT_TOLERANCE = 2e-5;

/**
 * The budget of an f32 gradient. Where P is 1 (a row of one key) dP − delta is 0 and its rounding is not, so that a tensor of
 * such rows alone has a largest element next to 0: `floor` is then what rounding may leave, see {@link cancellationFloor}.
 */
export function gradientBudget(expected: ArrayLike<number>, floor = 0): Budget {
  const size = largest(expected);
  return { atol: size > floor ? GRADIENT_TOLERANCE * size : floor, rtol: 0 };
}

/**
 * What rounding leaves of dq, dk and dbias where dP and delta cancel, for N(0, 1) inputs: dP and delta are sums of Dv products
 * with |sum| ≲ 4 √Dv, each off by √Dv · ε of that, so that dS is off by 2 · 4 · Dv · ε; times |k| ≲ 4 and the softmax scale in
 * dq. dk sums over `rows` queries, which walk.
 */
export function cancellationFloor({ headDimV, factor, rows = 1 }: { headDimV: number; factor: number; rows?: number }) {
  return 8 * headDimV * EPSILON * 4 * factor * Math.sqrt(rows);
}

/**
 * The budget of an f32 forward with scores up to `maxScore` (natural units): a score of D products is off by
 * e = (√D + 3) · ε · maxScore (√D steps of a walk over partial sums up to maxScore; then the factor log2(e), the product of
 * the soft cap or sum with the bias, and the difference to the maximum). Weights add up to 1, and each is off by a factor
 * e^±e: out by 2 · e · max |v|, lse by e.
 */
export function largeScoreBudget(maxScore: number, headDim: number, maxValue: number): { out: Budget; lse: Budget } {
  const error = (Math.sqrt(headDim) + 3) * EPSILON * maxScore;
  return {
    out: { atol: TOLERANCE.f32.out.atol + 2 * Math.expm1(error) * maxValue, rtol: 0 },
    lse: { atol: TOLERANCE.f32.lse.atol + error, rtol: 0 },
  };
}

/**
 * The budget of a 16-bit result (FlashAttention's rule): twice the largest error of `baseline`, the same result of a
 * straightforward computation that rounds to the dtype after each product (same-precision.ts).
 */
export function budget16(expected: ArrayLike<number>, baseline: ArrayLike<number>): Budget {
  let baselineError = 0;
  for (let index = 0; index < expected.length; index++) {
    baselineError = Math.max(baselineError, Math.abs(baseline[index] - expected[index]));
  }
  return { atol: 2 * baselineError, rtol: 0 };
}

/** The largest |element|. */
export function largest(values: ArrayLike<number>): number {
  let result = 0;
  for (let index = 0; index < values.length; index++) result = Math.max(result, Math.abs(values[index]));
  return result;
}

/** How close a result came. */
export interface Closeness {
  maxError: number;
  /** Largest share of the budget that an element used, in percent. */
  percentOfBudget: number;
  wrong: number;
}

/**
 * Throws an AssertionError unless every element is within the budget; −Infinity only matches −Infinity. The message has
 * the index tuple of the worst element (or what `shape` calls it), and how many others are wrong.
 */
export function expectClose(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  budget: Budget,
  shape: readonly number[] | ((index: number) => string),
): Closeness {
  if (got.length !== expected.length) {
    throw new AssertionError(`expected ${expected.length} elements, got ${got.length}`);
  }
  let [wrong, worst, worstIndex, maxError] = [0, 0, 0, 0];
  for (let index = 0; index < expected.length; index++) {
    const error = got[index] === expected[index] ? 0 : Math.abs(got[index] - expected[index]);
    const used = error === 0 ? 0 : error / (budget.atol + budget.rtol * Math.abs(expected[index]));
    // Written so that NaN counts as wrong.
    if (!(used <= 1)) wrong++;
    if (!(used <= worst)) [worst, worstIndex] = [used, index];
    if (!(error <= maxError)) maxError = error;
  }
  if (wrong > 0) {
    const place = typeof shape === 'function' ? shape(worstIndex) : `[${indexTuple(worstIndex, shape).join(', ')}]`;
    const allowed = budget.atol + budget.rtol * Math.abs(expected[worstIndex]);
    throw new AssertionError(
      `${place}: got ${got[worstIndex]}, expected ${expected[worstIndex]}, ` +
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

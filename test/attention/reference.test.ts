// The f64 reference against numbers derived by hand: everything else is checked against the reference.
import { expect } from 'chai';
import { referenceForward, referenceRow } from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const ONE: AttentionShape = {
  batch: 1,
  seqLenQ: 1,
  seqLenKv: 2,
  numHeads: 1,
  numKvHeads: 1,
  headDimQk: 1,
  headDimV: 1,
};
const PLAIN = { maskType: 'no_mask', softmaxScale: 1 } as const;
const CAUSAL = { maskType: 'causal', softmaxScale: 1 } as const;

function expectNumbers(got: Float64Array, expected: readonly number[]): void {
  expect(got).to.have.length(expected.length);
  for (const [index, value] of expected.entries()) expect(got[index], `[${index}]`).to.be.closeTo(value, 1e-14);
}

describe('referenceForward', () => {
  it('weighs keys by the exponential of their score', () => {
    // Scores 0 and ln 3: weights 1/4 and 3/4.
    const { out, lse } = referenceForward({ q: [1], k: [0, Math.log(3)], v: [4, 8] }, ONE, PLAIN);
    expectNumbers(out, [7]);
    expectNumbers(lse, [Math.log(4)]);
  });

  it('multiplies the scores by softmaxScale', () => {
    const options = { ...PLAIN, softmaxScale: 0.5 };
    const { out, lse } = referenceForward({ q: [2], k: [0, Math.log(3)], v: [4, 8] }, ONE, options);
    expectNumbers(out, [7]);
    expectNumbers(lse, [Math.log(4)]);
    expectNumbers(referenceForward({ q: [2], k: [0, 9], v: [4, 8] }, ONE, { ...PLAIN, softmaxScale: 0 }).out, [6]);
  });

  it('does not overflow on scores that an exponential cannot take', () => {
    const { out, lse } = referenceForward({ q: [1000], k: [1000, 1000], v: [1, 3] }, ONE, PLAIN);
    expectNumbers(out, [2]);
    expect(lse[0]).to.be.closeTo(1e6 + Math.log(2), 1e-9);
  });

  it('keeps keys up to the query when causal, from the top left, with fewer keys than queries too', () => {
    const shape = { ...ONE, seqLenQ: 3 };
    const { out, lse } = referenceForward({ q: [0, 0, 0], k: [5, 7], v: [2, 4] }, shape, CAUSAL);
    expectNumbers(out, [2, 3, 3]);
    expectNumbers(lse, [0, Math.log(2), Math.log(2)]);
  });

  it('ignores keys after the last query when causal, with more keys than queries', () => {
    const { out, lse } = referenceForward({ q: [1], k: [0.5, 100], v: [2, 4] }, ONE, CAUSAL);
    expectNumbers(out, [2]);
    expectNumbers(lse, [0.5]);
  });

  it('gives groupSize neighbouring query heads the same KV head', () => {
    const shape = { ...ONE, seqLenKv: 1, numHeads: 4, numKvHeads: 2 };
    const { out } = referenceForward({ q: [1, 1, 1, 1], k: [0, 0], v: [10, 20] }, shape, PLAIN);
    expectNumbers(out, [10, 10, 20, 20]);
  });

  it('reads [B, S, H, D] row-major and writes out [B, S, H, D] and lse [B, H, S]', () => {
    // Every row attends to its one key, so out names the value's place and lse the product of q and k.
    const shape = { batch: 2, seqLenQ: 2, seqLenKv: 1, numHeads: 2, numKvHeads: 2, headDimQk: 2, headDimV: 3 };
    const q = Float64Array.from({ length: 16 }, (_, index) => index);
    const k = [1, 0, 0, 1, 1, 0, 0, 1];
    const v = Float64Array.from({ length: 12 }, (_, index) => 100 + index);
    const { out, lse } = referenceForward({ q, k, v }, shape, PLAIN);
    const firstBatch = [100, 101, 102, 103, 104, 105];
    const secondBatch = [106, 107, 108, 109, 110, 111];
    expectNumbers(out, [...firstBatch, ...firstBatch, ...secondBatch, ...secondBatch]);
    // Head 0 takes the first element of q's row, head 1 the second; S is the fast axis.
    expectNumbers(lse, [0, 4, 3, 7, 8, 12, 11, 15]);
  });

  it('refuses shapes and options that do not hold', () => {
    const inputs = { q: [1], k: [1, 1], v: [1, 1] };
    expectConfigError(() => referenceForward(inputs, { ...ONE, batch: NaN }, PLAIN), 'ERR_SHAPE', /batch=NaN/);
    expectConfigError(() => referenceForward(inputs, ONE, { ...PLAIN, softmaxScale: NaN }), 'ERR_OPTION', /NaN/);
  });
});

describe('referenceRow', () => {
  it('is one row of referenceForward', () => {
    const shape = { batch: 2, seqLenQ: 3, seqLenKv: 4, numHeads: 4, numKvHeads: 2, headDimQk: 2, headDimV: 3 };
    const numbers = (length: number, step: number) =>
      Float64Array.from({ length }, (_, index) => Math.sin(index * step));
    const inputs = { q: numbers(48, 1.1), k: numbers(32, 0.7), v: numbers(48, 0.3) };
    const whole = referenceForward(inputs, shape, CAUSAL);
    const [b, h, i] = [1, 3, 2];
    const row = referenceRow(inputs, shape, CAUSAL, [b, h, i]);
    const start = ((b * 3 + i) * 4 + h) * 3;
    expect(row.out).to.deep.equal(whole.out.slice(start, start + 3));
    expect(row.lse).to.equal(whole.lse[(b * 4 + h) * 3 + i]);
  });
});

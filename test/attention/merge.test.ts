// The merge of partial results: a masked side is the identity, no positive number is exponentiated, and merging the parts
// gives attention over the whole.
import { expect } from 'chai';
import fc from 'fast-check';
import { isMasked, MASKED_LSE, mergeWeights } from '../../src/attention/merge.ts';

/** Attention of one row over one-dimensional values, in f64: the definition. */
function attend(scores: readonly number[], values: readonly number[]): { out: number; lse: number } {
  if (scores.length === 0) return { out: 0, lse: MASKED_LSE };
  const rowMax = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - rowMax));
  const rowSum = weights.reduce((sum, weight) => sum + weight, 0);
  const out = weights.reduce((sum, weight, index) => sum + weight * values[index], 0) / rowSum;
  return { out, lse: rowMax + Math.log(rowSum) };
}

function merge(a: { out: number; lse: number }, b: { out: number; lse: number }): { out: number; lse: number } {
  const { weight, blockWeight, lse } = mergeWeights(a.lse, b.lse);
  return { out: weight * a.out + blockWeight * b.out, lse };
}

describe('mergeWeights', () => {
  it('keeps what is there when the block saw no key', () => {
    for (const masked of [MASKED_LSE, -Infinity]) {
      expect(mergeWeights(1.5, masked)).to.deep.equal({ weight: 1, blockWeight: 0, lse: 1.5 });
    }
  });

  it('takes the block when nothing was there', () => {
    for (const masked of [MASKED_LSE, -Infinity]) {
      expect(mergeWeights(masked, -700)).to.deep.equal({ weight: 0, blockWeight: 1, lse: -700 });
    }
  });

  it('stays masked when neither side saw a key', () => {
    expect(isMasked(mergeWeights(MASKED_LSE, MASKED_LSE).lse)).to.equal(true);
  });

  it('weighs equal sides equally and adds log 2', () => {
    expect(mergeWeights(3, 3)).to.deep.equal({ weight: 0.5, blockWeight: 0.5, lse: 3 + Math.log(2) });
  });

  it('weighs one to three where the sums of exponentials are one and three', () => {
    const { weight, blockWeight, lse } = mergeWeights(0, Math.log(3));
    expect(weight).to.be.closeTo(1 / 4, 1e-15);
    expect(blockWeight).to.be.closeTo(3 / 4, 1e-15);
    expect(lse).to.be.closeTo(Math.log(4), 1e-15);
  });

  it('has weights in [0, 1] that add up to 1, whatever the sides are', () => {
    const anyLse = fc.oneof(
      fc.double({ min: -1e5, max: 1e5, noNaN: true }),
      fc.constantFrom(MASKED_LSE, -Infinity, 0, -88, 88, 1e4),
    );
    fc.assert(
      fc.property(anyLse, anyLse, (lse, blockLse) => {
        const merged = mergeWeights(lse, blockLse);
        expect(merged.weight).to.be.within(0, 1);
        expect(merged.blockWeight).to.be.within(0, 1);
        expect(merged.weight + merged.blockWeight).to.be.closeTo(1, 1e-15);
        if (isMasked(lse) && isMasked(blockLse)) expect(isMasked(merged.lse)).to.equal(true);
        else expect(merged.lse).to.be.at.least(Math.max(lse, blockLse));
      }),
    );
  });

  it('gives attention over the whole, however the keys are split and in whatever order the parts are merged', () => {
    const anyKey = fc.record({
      score: fc.double({ min: -50, max: 50, noNaN: true }),
      value: fc.double({ min: -1, max: 1, noNaN: true }),
      part: fc.nat(4),
    });
    fc.assert(
      fc.property(fc.array(anyKey, { minLength: 1, maxLength: 20 }), (keys) => {
        const attendTo = (some: typeof keys) =>
          attend(
            some.map(({ score }) => score),
            some.map(({ value }) => value),
          );
        const parts = [0, 1, 2, 3, 4].map((part) => attendTo(keys.filter((key) => key.part === part)));
        const whole = attendTo(keys);
        for (const order of [parts, parts.toReversed()]) {
          const merged = order.reduce(merge);
          // Four merges, each with a relative error of a few 2^-53, on |out| ≤ 1 and |lse| ≤ 53.
          expect(merged.out).to.be.closeTo(whole.out, 1e-14);
          expect(merged.lse).to.be.closeTo(whole.lse, 1e-13);
        }
      }),
    );
  });
});

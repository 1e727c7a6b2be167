// The numbers of a row: nearest-rank percentiles and rates with known answers.
import { expect } from 'chai';
import fc from 'fast-check';
import { gigabytesPerSecond, nearestRank, percentOf, summarize, tflops } from '../../bench/metrics.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

describe('summarize', () => {
  it('gives the nearest-rank percentiles of known samples', () => {
    const samples = [15, 20, 35, 40, 50].toReversed();
    expect(summarize(samples)).to.deep.equal({ p50: 35, p95: 50, min: 15, max: 50, samples });
    expect(summarize([1, 2, 3, 4]).p50).to.equal(2);
    expect(summarize(Array.from({ length: 20 }, (_, index) => index + 1)).p95).to.equal(19);
    expect(summarize(Array.from({ length: 21 }, (_, index) => index + 1)).p95).to.equal(20);
    expect(summarize([7])).to.deep.equal({ p50: 7, p95: 7, min: 7, max: 7, samples: [7] });
  });

  it('keeps the order of the samples and does not change what it was given', () => {
    const samples = Object.freeze([3, 1, 2]);
    expect(summarize(samples).samples).to.deep.equal([3, 1, 2]);
  });

  it('refuses to summarise nothing', () => {
    expectConfigError(() => summarize([]), 'ERR_OPTION', /iters=0/);
  });
});

describe('nearestRank', () => {
  it('is the smallest sample that at least that many percent do not exceed', () => {
    const samples = fc.array(fc.integer({ min: 0, max: 50 }), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(samples, fc.integer({ min: 1, max: 100 }), (values, percent) => {
        const sorted = values.toSorted((a, b) => a - b);
        const covers = (value: number) =>
          sorted.filter((other) => other <= value).length * 100 >= percent * sorted.length;
        expect(nearestRank(sorted, percent)).to.equal(sorted.find(covers));
      }),
    );
  });
});

describe('rates', () => {
  it('have the units that their names say', () => {
    expect(tflops(2e12, 1000)).to.equal(2);
    expect(gigabytesPerSecond(3e9, 1500)).to.equal(2);
    expect(percentOf(85, 100)).to.equal(85);
  });
});

// The generator of dropout masks: published vectors of Threefry, the rate, and that a weight's fate hangs on its position and
// the seed alone.
import { expect } from 'chai';
import { dropoutThreshold, keepsWeight, seedWords, threefry } from '../../src/attention/dropout.ts';

/** Threefry-2x32 with any number of rounds, after Salmon et al. 2011, §3.3, on BigInt: nothing in common with the source. */
function slowThreefry(key: readonly bigint[], counter: readonly bigint[], rounds: number): bigint[] {
  const mask = (1n << 32n) - 1n;
  const rotations = [13n, 15n, 26n, 6n, 17n, 29n, 16n, 24n];
  const words = [...key, 0x1bd11bdan ^ key[0] ^ key[1]];
  const x = counter.map((word, index) => (word + words[index]) & mask);
  for (let round = 1; round <= rounds; round++) {
    x[0] = (x[0] + x[1]) & mask;
    const by = rotations[(round - 1) % 8];
    x[1] = (((x[1] << by) | (x[1] >> (32n - by))) & mask) ^ x[0];
    if (round % 4 > 0) continue;
    const injection = BigInt(round / 4);
    x[0] = (x[0] + words[Number(injection % 3n)]) & mask;
    x[1] = (x[1] + words[Number((injection + 1n) % 3n)] + injection) & mask;
  }
  return x;
}

const ONES = 0xffffffff;
/** Random123's kat_vectors: key and counter, then the words after 13 and after 20 rounds. */
const VECTORS = [
  { key: [0, 0], counter: [0, 0], after13: [0x9d1c5ec6, 0x8bd50731], after20: [0x6b200159, 0x99ba4efe] },
  { key: [ONES, ONES], counter: [ONES, ONES], after13: [0xfd36d048, 0x2d17272c], after20: [0x1cb996fc, 0xbb002be7] },
  {
    key: [0x13198a2e, 0x03707344],
    counter: [0x243f6a88, 0x85a308d3],
    after13: [0xba3e4725, 0xf27d669e],
    after20: [0xc4923a9c, 0x483df7a0],
  },
] as const;

describe('threefry', () => {
  for (const { key, counter, after13, after20 } of VECTORS) {
    it(`gives the published words for key ${key.join(',')} and counter ${counter.join(',')}`, () => {
      expect(threefry(key, counter)).to.deep.equal([...after13]);
      const [slowKey, slowCounter] = [key.map(BigInt), counter.map(BigInt)];
      expect(slowThreefry(slowKey, slowCounter, 13).map(Number)).to.deep.equal([...after13]);
      // The generator of the test is right in all 20 rounds, so that it can be trusted with others.
      expect(slowThreefry(slowKey, slowCounter, 20).map(Number)).to.deep.equal([...after20]);
    });
  }

  it('agrees with the slow generator on many keys and counters', () => {
    let words: [number, number] = [1, 2];
    for (let index = 0; index < 200; index++) {
      const counter: [number, number] = [index, 7 * index];
      const expected = slowThreefry(words.map(BigInt), counter.map(BigInt), 13).map(Number);
      const got = threefry(words, counter);
      expect(got).to.deep.equal(expected);
      words = got;
    }
  });
});

describe('seedWords', () => {
  it('splits a seed into its low and high 32 bits', () => {
    expect(seedWords(0)).to.deep.equal([0, 0]);
    expect(seedWords(2 ** 32 + 5)).to.deep.equal([5, 1]);
    expect(seedWords(2 ** 53 - 1)).to.deep.equal([0xffffffff, 2 ** 21 - 1]);
  });
});

describe('keepsWeight', () => {
  const place = { sequence: 3, head: 2 };
  const fates = (options: { dropout: number; seed: number }, at = place, size = 200): boolean[] =>
    Array.from({ length: size * size }, (_, index) => keepsWeight(options, at, Math.floor(index / size), index % size));
  const differing = (a: boolean[], b: boolean[]): number => a.filter((kept, index) => kept !== b[index]).length;

  for (const dropout of [0.1, 0.5, 0.9]) {
    it(`drops ${dropout} of the weights, within five standard deviations`, () => {
      const dropped = fates({ dropout, seed: 11 }).filter((kept) => !kept).length;
      const deviation = Math.sqrt(200 * 200 * dropout * (1 - dropout));
      expect(Math.abs(dropped - 200 * 200 * dropout)).to.be.below(5 * deviation);
    });

    it(`drops ${dropout} along every query and along every key`, () => {
      const kept = fates({ dropout, seed: 11 });
      // Six deviations: 400 lines are looked at.
      const limit = 6 * Math.sqrt(200 * dropout * (1 - dropout));
      for (let line = 0; line < 200; line++) {
        const ofQuery = kept.filter((one, index) => !one && Math.floor(index / 200) === line).length;
        const ofKey = kept.filter((one, index) => !one && index % 200 === line).length;
        expect(Math.abs(ofQuery - 200 * dropout), `query ${line}`).to.be.below(limit);
        expect(Math.abs(ofKey - 200 * dropout), `key ${line}`).to.be.below(limit);
      }
    });
  }

  it('keeps everything at 0 and next to nothing just below 1', () => {
    expect(fates({ dropout: 0, seed: 1 }).every(Boolean)).to.equal(true);
    expect(fates({ dropout: 1 - 2 ** -53, seed: 1 }).some(Boolean)).to.equal(false);
    expect(dropoutThreshold(1 - 2 ** -53)).to.equal(2 ** 32 - 1);
  });

  it('depends on the position alone, not on what was asked before', () => {
    const options = { dropout: 0.5, seed: 9 };
    const forward = fates(options);
    const size = 200;
    for (let index = forward.length - 1; index >= 0; index -= 37) {
      expect(keepsWeight(options, place, Math.floor(index / size), index % size)).to.equal(forward[index]);
    }
  });

  it('is another mask for another seed, in its high word too, another sequence, another head and the transposed pair', () => {
    const options = { dropout: 0.5, seed: 9 };
    const first = fates(options);
    const others = [
      fates({ ...options, seed: 10 }),
      fates({ ...options, seed: 9 + 2 ** 32 }),
      fates(options, { ...place, sequence: 4 }),
      fates(options, { ...place, head: 3 }),
      fates(options, { sequence: place.head, head: place.sequence }),
      first.map((_, index) => first[(index % 200) * 200 + Math.floor(index / 200)]),
    ];
    for (const [index, other] of others.entries()) {
      // Independent masks differ in half of the weights; five deviations are 500.
      expect(differing(first, other) / first.length, `mask ${index}`).to.be.within(0.4875, 0.5125);
    }
  });
});

// The schedules of a whole ring: for zigzag the table of half blocks with equal work for every rank, and how far blocks travel.
import { expect } from 'chai';
import fc from 'fast-check';
import { type Shard, shardsOf } from '../../src/attention/layout.ts';
import { keyInterval, type MaskType } from '../../src/attention/mask.ts';
import { blocksMeet, countPairs, kvHops, scheduleQueries } from '../../src/attention/schedule.ts';
import { pairShards } from '../../src/attention/sequences.ts';
import { keepsPair, listPairs, wholeSequence } from '../helpers/schedule-pairs.ts';

describe('the schedule of a zigzag ring', () => {
  const causal = keyInterval('causal', [-1, -1]);
  const pairsOf = (query: Shard, kv: Shard, seqLen: number) => {
    const blocks = pairShards(query, kv, wholeSequence(seqLen));
    return listPairs(scheduleQueries(blocks, causal, { tileRows: 4 }), blocks, 'queries');
  };

  for (const worldSize of [1, 2, 3, 4, 7]) {
    for (const c of [1, 3, 16]) {
      const seqLen = 2 * worldSize * c;
      const shards = shardsOf('zigzag', seqLen, worldSize);
      const last = 2 * worldSize - 1;

      it(`is the table of half blocks, N=${worldSize}, c=${c}`, () => {
        for (let rank = 0; rank < worldSize; rank++) {
          for (let step = 0; step < worldSize; step++) {
            const owner = (rank - step + worldSize) % worldSize;
            const pairs = pairsOf(shards[rank], shards[owner], seqLen);
            const kept = pairs.filter((pair) => keepsPair(pair, 0, causal));
            const chunks = new Set(kept.map(({ query, key }) => `${Math.floor(query / c)},${Math.floor(key / c)}`));
            const where = `rank ${rank}, step ${step}`;
            expect([...chunks].toSorted(), where).to.deep.equal(halfBlocks(rank, owner, last).toSorted());
            // On the diagonal a causal mask on both halves; off it no mask is looked at, and half of the block is computed.
            expect(kept.length, where).to.equal(step === 0 ? 2 * c * c + c : 2 * c * c);
            if (step > 0)
              expect([pairs.length, pairs.some(({ isPartial }) => isPartial)]).to.deep.equal([2 * c * c, false]);
          }
        }
      });

      it(`gives every rank S²/(2N) + S/(2N) pairs, N=${worldSize}, c=${c}`, () => {
        for (const query of shards) {
          const counts = shards.map((kv) => countPairs(pairShards(query, kv, wholeSequence(seqLen)), causal));
          const sum = counts.reduce((total, count) => total + count, 0);
          expect(sum).to.equal((seqLen * seqLen + seqLen) / (2 * worldSize));
        }
      });
    }
  }

  function halfBlocks(rank: number, owner: number, last: number): string[] {
    if (rank === owner) return [`${rank},${rank}`, `${last - rank},${rank}`, `${last - rank},${last - rank}`];
    return owner < rank
      ? [`${rank},${owner}`, `${last - rank},${owner}`]
      : [`${last - rank},${owner}`, `${last - rank},${last - owner}`];
  }
});

describe('kvHops', () => {
  it('send a block as far as the last rank that meets it', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 7 }),
        fc.array(fc.boolean(), { minLength: 49, maxLength: 49 }),
        (n, meets) => {
          const meet = (rank: number, owner: number): boolean => meets[rank * 7 + owner];
          const expected = Array.from({ length: n }, (_, owner) => {
            const ranks = Array.from({ length: n }, (_rank, rank) => rank).filter((rank) => meet(rank, owner));
            return Math.max(0, ...ranks.map((rank) => (rank - owner + n) % n));
          });
          expect(kvHops(n, meet)).to.deep.equal(expected);
        },
      ),
    );
  });

  it('stop at the last rank with causal contiguous shards, go one hop with a window, and all the way round with zigzag', () => {
    const hops = (layout: 'contiguous' | 'zigzag', maskType: MaskType, window: [number, number] = [-1, -1]) => {
      const shards = shardsOf(layout, 64, 4);
      const interval = keyInterval(maskType, window);
      return kvHops(4, (rank, owner) =>
        blocksMeet(pairShards(shards[rank], shards[owner], wholeSequence(64)), interval),
      );
    };
    expect(hops('contiguous', 'causal')).to.deep.equal([3, 2, 1, 0]);
    expect(hops('contiguous', 'causal', [16, 0])).to.deep.equal([1, 1, 1, 0]);
    expect(hops('contiguous', 'no_mask')).to.deep.equal([3, 3, 3, 3]);
    expect(hops('zigzag', 'causal')).to.deep.equal([3, 3, 3, 3]);
  });
});

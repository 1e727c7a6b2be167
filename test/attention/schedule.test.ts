// The schedule of a ring step: it covers exactly the pairs that the mask keeps, by brute force over every pair, and for
// zigzag it is the table of half blocks with equal work for every rank.
import { expect } from 'chai';
import fc from 'fast-check';
import { LAYOUTS, type Shard, shardLength, shardOf, shardPositions, shardsOf } from '../../src/attention/layout.ts';
import { countTileProducts, kvHops, scheduleBlock, shardsMeet } from '../../src/attention/schedule.ts';
import { MASK_TYPES, type MaskType } from '../../src/attention/shape.ts';

/** A pair that a schedule computes: global positions, and whether the mask has to be looked at. */
interface Pair {
  query: number;
  key: number;
  partial: boolean;
}

/** Every pair of a query tile and its ranges, masked keys of partial blocks included. */
function listPairs(query: Shard, kv: Shard, maskType: MaskType, tileRows: number): Pair[] {
  const queryPositions = shardPositions(query);
  const keyPositions = shardPositions(kv);
  const { tiles, ranges } = scheduleBlock(query, kv, maskType, tileRows);
  const pairs: Pair[] = [];
  for (const tile of tiles) {
    for (let i = 0; i < tile.rowCount; i++) {
      expect(tile.position + tile.positionStride * i, 'position of a row').to.equal(queryPositions[tile.row + i]);
      for (const range of ranges.slice(tile.firstRange, tile.firstRange + tile.rangeCount)) {
        for (let j = 0; j < range.count; j++) {
          expect(range.position + range.positionStride * j, 'position of a key').to.equal(keyPositions[range.row + j]);
          pairs.push({
            query: queryPositions[tile.row + i],
            key: keyPositions[range.row + j],
            partial: j >= range.fullCount,
          });
        }
      }
    }
  }
  return pairs;
}

const isKept = ({ query, key }: { query: number; key: number }, maskType: MaskType) =>
  maskType === 'no_mask' || key <= query;
const nameOf = ({ query, key }: { query: number; key: number }) => `${query},${key}`;

const anyCase = fc.record({
  layouts: fc.tuple(fc.constantFrom(...LAYOUTS), fc.constantFrom(...LAYOUTS)),
  worldSize: fc.integer({ min: 1, max: 6 }),
  seqLens: fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 })),
  ranks: fc.tuple(fc.nat(5), fc.nat(5)),
  maskType: fc.constantFrom(...MASK_TYPES),
  tileRows: fc.constantFrom(1, 2, 3, 4, 8, 64),
});

function shardsOfCase({
  layouts,
  worldSize,
  seqLens,
  ranks,
}: typeof anyCase extends fc.Arbitrary<infer T> ? T : never) {
  const query = shardOf(layouts[0], seqLens[0], worldSize, ranks[0] % worldSize);
  const kv = shardOf(layouts[1], seqLens[1], worldSize, ranks[1] % worldSize);
  return { query, kv };
}

describe('scheduleBlock', () => {
  it('covers every pair that the mask keeps exactly once, and calls full only what every row sees', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const { query, kv } = shardsOfCase(one);
        const { maskType, tileRows } = one;
        const expected = [...shardPositions(query)]
          .flatMap((row) => [...shardPositions(kv)].map((key) => ({ query: row, key })))
          .filter((pair) => isKept(pair, maskType));
        const pairs = listPairs(query, kv, maskType, tileRows);
        const kept = pairs.filter((pair) => isKept(pair, maskType)).map(nameOf);
        expect(kept.toSorted()).to.deep.equal(expected.map(nameOf).toSorted());
        expect(pairs.filter((pair) => !pair.partial && !isKept(pair, maskType))).to.deep.equal([]);
      }),
      { numRuns: 300 },
    );
  });

  it('holds no key that no row of its tile sees', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const { query, kv } = shardsOfCase(one);
        const { tiles, ranges } = scheduleBlock(query, kv, one.maskType, one.tileRows);
        for (const { position, positionStride, rowCount, firstRange, rangeCount } of tiles) {
          const lastRow = position + positionStride * (rowCount - 1);
          for (const range of ranges.slice(firstRange, firstRange + rangeCount)) {
            const lastKey = range.position + range.positionStride * (range.count - 1);
            expect(isKept({ query: lastRow, key: lastKey }, one.maskType)).to.equal(true);
          }
        }
      }),
    );
  });

  it('lists every row exactly once when it is told to, and the tiles with the most keys first', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const { query, kv } = shardsOfCase(one);
        const { tiles, ranges } = scheduleBlock(query, kv, one.maskType, one.tileRows, true);
        const rows = tiles.flatMap(({ row, rowCount }) => Array.from({ length: rowCount }, (_, index) => row + index));
        expect(rows.toSorted((a, b) => a - b)).to.deep.equal(
          Array.from({ length: shardLength(query) }, (_, row) => row),
        );
        const keys = tiles.map(({ firstRange, rangeCount }) =>
          ranges.slice(firstRange, firstRange + rangeCount).reduce((sum, { count }) => sum + count, 0),
        );
        expect(keys).to.deep.equal(keys.toSorted((a, b) => b - a));
      }),
    );
  });
});

describe('the schedule of a zigzag ring', () => {
  for (const worldSize of [1, 2, 3, 4, 7]) {
    for (const c of [1, 3, 16]) {
      const seqLen = 2 * worldSize * c;
      const shards = shardsOf('zigzag', seqLen, worldSize);

      it(`is the table of half blocks, N=${worldSize}, c=${c}`, () => {
        for (let rank = 0; rank < worldSize; rank++) {
          for (let step = 0; step < worldSize; step++) {
            const owner = (rank - step + worldSize) % worldSize;
            const pairs = listPairs(shards[rank], shards[owner], 'causal', 4);
            const kept = pairs.filter((pair) => isKept(pair, 'causal'));
            const chunkPairs = new Set(kept.map(({ query, key }) => `${Math.floor(query / c)},${Math.floor(key / c)}`));
            const where = `rank ${rank}, step ${step}`;
            const last = 2 * worldSize - 1;
            if (step === 0) {
              // Diagonal: a causal mask on both halves.
              const expected = [`${rank},${rank}`, `${last - rank},${rank}`, `${last - rank},${last - rank}`];
              expect([...chunkPairs].toSorted(), where).to.deep.equal(expected.toSorted());
              expect(kept.length, where).to.equal(2 * c * c + c);
              continue;
            }
            // Off the diagonal no mask is looked at, and half of the block is computed.
            const expected =
              step <= rank
                ? [`${rank},${owner}`, `${last - rank},${owner}`]
                : [`${last - rank},${owner}`, `${last - rank},${last - owner}`];
            expect([...chunkPairs].toSorted(), where).to.deep.equal(expected.toSorted());
            expect(
              pairs.some(({ partial }) => partial),
              where,
            ).to.equal(false);
            expect(pairs.length, where).to.equal(2 * c * c);
          }
        }
      });

      it(`gives every rank S²/(2N) + S/(2N) pairs, N=${worldSize}, c=${c}`, () => {
        for (const query of shards) {
          const kept = shards.flatMap((kv) =>
            listPairs(query, kv, 'causal', 4).filter((pair) => isKept(pair, 'causal')),
          );
          expect(kept.length).to.equal((seqLen * seqLen + seqLen) / (2 * worldSize));
        }
      });
    }
  }
});

describe('shardsMeet and kvHops', () => {
  it('say that shards meet exactly when their schedule has work', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const { query, kv } = shardsOfCase(one);
        const { tiles } = scheduleBlock(query, kv, one.maskType, one.tileRows);
        expect(shardsMeet(query, kv, one.maskType)).to.equal(tiles.length > 0);
      }),
    );
  });

  it('send a block as far as the last rank that sees any of its keys, by brute force', () => {
    fc.assert(
      fc.property(anyCase, ({ layouts: [layout], worldSize, seqLens, maskType }) => {
        const [query, kv] = seqLens.map((seqLen) => shardsOf(layout, seqLen, worldSize)) as [Shard[], Shard[]];
        const expected = kv.map((block, owner) => {
          const distances = query.flatMap((shard, rank) =>
            listPairs(shard, block, maskType, 8).length > 0 ? [(rank - owner + worldSize) % worldSize] : [],
          );
          return Math.max(0, ...distances);
        });
        expect(kvHops(query, kv, maskType)).to.deep.equal(expected);
      }),
    );
  });

  it('stop at the last rank with causal contiguous shards, and go all the way round with zigzag', () => {
    const hops = (layout: 'contiguous' | 'zigzag', maskType: MaskType) => {
      const shards = shardsOf(layout, 64, 4);
      return kvHops(shards, shards, maskType);
    };
    expect(hops('contiguous', 'causal')).to.deep.equal([3, 2, 1, 0]);
    expect(hops('contiguous', 'no_mask')).to.deep.equal([3, 3, 3, 3]);
    expect(hops('zigzag', 'causal')).to.deep.equal([3, 3, 3, 3]);
  });
});

describe('countTileProducts', () => {
  it('counts the key tiles of every range, the last one not full', () => {
    const shard = shardOf('contiguous', 10, 1, 0);
    expect(countTileProducts(scheduleBlock(shard, shard, 'no_mask', 4), 4)).to.equal(3 * 3);
    expect(countTileProducts(scheduleBlock(shard, shard, 'causal', 4), 4)).to.equal(1 + 2 + 3);
  });
});

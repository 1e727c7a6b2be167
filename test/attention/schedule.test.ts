// The schedule of a ring step: from the side of queries and from that of keys it covers exactly the pairs that the mask keeps,
// by brute force over every pair; its work is proportional to them.
import { expect } from 'chai';
import fc from 'fast-check';
import { LAYOUTS, shardLength, shardOf } from '../../src/attention/layout.ts';
import { type KeyInterval, keyInterval, MASK_TYPES, type MaskType } from '../../src/attention/mask.ts';
import {
  blocksMeet,
  type BlockSchedule,
  countPairs,
  countTileProducts,
  scheduleKeys,
  scheduleQueries,
} from '../../src/attention/schedule.ts';
import {
  listPadding,
  listSequences,
  pairShards,
  type Sequence,
  type SequenceBlock,
} from '../../src/attention/sequences.ts';
import {
  keepsPair,
  keptPairs,
  listPairs,
  listRows,
  nameOf,
  type ScheduledPair,
  type Side,
  uncoveredRows,
  wholeSequence,
  wholeShard,
} from '../helpers/schedule-pairs.ts';

/** Where sequences of these lengths, each with a gap after it, begin, and where the last gap ends. */
function placeSpans(spans: readonly (readonly [number, number])[]): { starts: number[]; lens: number[]; end: number } {
  let end = 0;
  const starts = spans.map(([length, gap]) => {
    const start = end;
    end += length + gap;
    return start;
  });
  return { starts, lens: spans.map(([length]) => length), end };
}

const anyWindow = fc.tuple(fc.integer({ min: -1, max: 8 }), fc.integer({ min: -1, max: 8 }));

const anyCase = fc
  .record({
    layouts: fc.tuple(fc.constantFrom(...LAYOUTS), fc.constantFrom(...LAYOUTS)),
    worldSize: fc.integer({ min: 1, max: 5 }),
    ranks: fc.tuple(fc.nat(4), fc.nat(4)),
    spans: fc.array(fc.tuple(fc.nat(12), fc.nat(2), fc.nat(12), fc.nat(2)), { minLength: 1, maxLength: 4 }),
    packed: fc.boolean(),
    maskType: fc.constantFrom(...MASK_TYPES),
    window: anyWindow,
    tileRows: fc.constantFrom(1, 2, 3, 4, 8, 64),
  })
  .map(({ layouts, worldSize, ranks, spans, packed, maskType, window, tileRows }) => {
    const q = placeSpans(spans.map(([length, gap]) => [length, gap] as const));
    const kv = placeSpans(spans.map(([, , length, gap]) => [length, gap] as const));
    const zeros = spans.map(() => 0);
    const seqLenQ = packed ? q.end + 1 : Math.max(...q.lens) + 1;
    const seqLenKv = packed ? kv.end + 1 : Math.max(...kv.lens) + 1;
    const batch = packed ? 1 : spans.length;
    const sizes = { batch, seqLenQ, seqLenKv, numHeads: 1, numKvHeads: 1, headDimQk: 1, headDimV: 1 };
    const starts = packed ? { startsQ: q.starts, startsKv: kv.starts } : { startsQ: zeros, startsKv: zeros };
    const sequences = listSequences(sizes, maskType, { packed, lensQ: q.lens, lensKv: kv.lens, ...starts });
    return {
      batch,
      tileRows,
      sequences,
      query: shardOf(layouts[0], seqLenQ, worldSize, ranks[0] % worldSize),
      kv: shardOf(layouts[1], seqLenKv, worldSize, ranks[1] % worldSize),
      interval: keyInterval(maskType, window),
    };
  });
type ScheduleCase = typeof anyCase extends fc.Arbitrary<infer T> ? T : never;

const SCHEDULES = { queries: scheduleQueries, keys: scheduleKeys };

function scheduleCase(one: ScheduleCase, side: Side): { schedule: BlockSchedule; blocks: SequenceBlock[] } {
  const blocks = pairShards(one.query, one.kv, one.sequences);
  return { schedule: SCHEDULES[side](blocks, one.interval, { tileRows: one.tileRows }), blocks };
}

for (const side of ['queries', 'keys'] as const) {
  describe(`the schedule of ${side}`, () => {
    it('covers every pair that the mask keeps exactly once, and calls full only what is kept', () => {
      fc.assert(
        fc.property(anyCase, (one) => {
          const { schedule, blocks } = scheduleCase(one, side);
          const isKept = ({ sequence, ...pair }: { sequence: number; query: number; key: number }) =>
            keepsPair(pair, one.sequences[sequence].offset, one.interval);
          const pairs = listPairs(schedule, blocks, side);
          const expected = keptPairs(one.query, one.kv, one.sequences, one.interval);
          expect(pairs.filter(isKept).map(nameOf).toSorted()).to.deep.equal(expected.toSorted());
          expect(pairs.filter((pair) => !pair.isPartial && !isKept(pair))).to.deep.equal([]);
        }),
        { numRuns: 400 },
      );
    });

    it('looks at the mask only where a tile keeps a part of its rows, and meets no row that none of the tile keeps', () => {
      fc.assert(
        fc.property(anyCase, (one) => {
          const { schedule, blocks } = scheduleCase(one, side);
          for (const tile of schedule.tiles) {
            const only = { tiles: [tile], ranges: schedule.ranges };
            const met = new Map<number, ScheduledPair[]>();
            for (const pair of listPairs(only, blocks, side)) {
              const position = side === 'queries' ? pair.key : pair.query;
              met.set(position, [...(met.get(position) ?? []), pair]);
            }
            for (const [position, pairs] of met) {
              const kept = pairs.filter((pair) => keepsPair(pair, tile.offset, one.interval)).length;
              const where = `${side}, tile at ${tile.position}, row at ${position}`;
              // Striped rows may fall between those of a window that is narrower than the stride.
              if (tile.positionStride === 1) expect(kept, where).to.be.above(0);
              if (kept === tile.rowCount)
                expect(
                  pairs.some(({ isPartial }) => isPartial),
                  where,
                ).to.equal(false);
            }
          }
        }),
      );
    });

    it('lists every row exactly once when it is told to, and the tiles with the most work first', () => {
      fc.assert(
        fc.property(anyCase, (one) => {
          const blocks = pairShards(one.query, one.kv, one.sequences);
          const { tileRows, interval } = one;
          const shard = side === 'queries' ? one.query : one.kv;
          const span = ({ startQ, lenQ, startKv, lenKv }: Sequence) =>
            side === 'queries' ? ([startQ, lenQ] as const) : ([startKv, lenKv] as const);
          const spansOf = (batch: number) => one.sequences.filter((sequence) => sequence.batch === batch).map(span);
          const padding = listPadding(shard, one.batch, spansOf);
          const schedule = SCHEDULES[side](blocks, interval, { tileRows, everyRow: true, padding });
          expect(Math.max(0, ...schedule.tiles.map(({ rowCount }) => rowCount))).to.be.at.most(tileRows);
          const rows = listRows(schedule);
          const expectedPadding = Array.from({ length: one.batch }, (_, batch) =>
            uncoveredRows(shard, spansOf(batch)).map((row) => [batch, row]),
          ).flat();
          expect(rows.padding).to.deep.equal(expectedPadding);
          const all = [...rows.own.map(([index, row]) => [one.sequences[index].batch, row]), ...rows.padding];
          const expected = Array.from({ length: one.batch }, (_, batch) =>
            Array.from({ length: shardLength(shard) }, (_row, row) => [batch, row]),
          ).flat();
          expect(all.map(String).toSorted()).to.deep.equal(expected.map(String).toSorted());
          const work = schedule.tiles.map(({ firstRange, rangeCount }) =>
            schedule.ranges.slice(firstRange, firstRange + rangeCount).reduce((sum, { count }) => sum + count, 0),
          );
          expect(work).to.deep.equal(work.toSorted((a, b) => b - a));
        }),
      );
    });
  });
}

describe('the work of a schedule', () => {
  const rowsMet = (seqLen: number, interval: KeyInterval, tileRows: number): number => {
    const blocks = pairShards(wholeShard(seqLen), wholeShard(seqLen), wholeSequence(seqLen));
    const { tiles, ranges } = scheduleQueries(blocks, interval, { tileRows });
    return tiles.reduce((sum, { firstRange, rangeCount, rowCount }) => {
      const met = ranges.slice(firstRange, firstRange + rangeCount).reduce((rows, { count }) => rows + count, 0);
      return sum + met * rowCount;
    }, 0);
  };

  it('is at most S · (left + right + tileRows) pairs with a window, whatever S is', () => {
    for (const [left, right] of [
      [127, 0],
      [0, 0],
      [5, 9],
    ] as const) {
      for (const seqLen of [64, 1000, 8192]) {
        for (const tileRows of [1, 16, 64]) {
          const met = rowsMet(seqLen, keyInterval('no_mask', [left, right]), tileRows);
          expect(met).to.be.at.most(seqLen * (left + right + tileRows));
        }
      }
    }
  });

  it('is half of the square, and half a tile a row more, when causal', () => {
    expect(rowsMet(1024, keyInterval('causal', [-1, -1]), 64)).to.equal((1024 * (1024 + 64)) / 2);
  });

  it('does not list tiles that meet nothing, nor rows of sequences without keys', () => {
    const sequences = [{ batch: 0, startQ: 0, lenQ: 100, startKv: 0, lenKv: 0, offset: 0 }];
    const blocks = pairShards(wholeShard(100), wholeShard(100), sequences);
    const options = { tileRows: 8 };
    expect(scheduleQueries(blocks, keyInterval('no_mask', [-1, -1]), options).tiles).to.deep.equal([]);
    expect(scheduleKeys(blocks, keyInterval('no_mask', [-1, -1]), options).tiles).to.deep.equal([]);
  });
});

describe('blocksMeet and countPairs', () => {
  it('say that blocks meet whenever the mask keeps one of their pairs, and count those', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const blocks = pairShards(one.query, one.kv, one.sequences);
        const kept = keptPairs(one.query, one.kv, one.sequences, one.interval).length;
        expect(countPairs(blocks, one.interval)).to.equal(kept);
        if (kept > 0) expect(blocksMeet(blocks, one.interval)).to.equal(true);
      }),
      { numRuns: 300 },
    );
  });
});

describe('countTileProducts', () => {
  it('counts the key tiles of every range, the last one not full', () => {
    const products = (maskType: MaskType): number => {
      const blocks = pairShards(wholeShard(10), wholeShard(10), wholeSequence(10));
      return countTileProducts(scheduleQueries(blocks, keyInterval(maskType, [-1, -1]), { tileRows: 4 }), 4);
    };
    expect(products('no_mask')).to.equal(3 * 3);
    expect(products('causal')).to.equal(1 + 2 + 3);
  });
});

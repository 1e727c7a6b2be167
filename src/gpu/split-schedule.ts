// Cuts the schedule of a ring step into splits of keys, for few queries against many keys (flash-decoding, Dao et al.
// 2023). Pure.
import type { BlockSchedule, Range } from '../attention/schedule.ts';

/** A step cut into splits. */
export interface SplitSchedule {
  /** The splits: tiles of the step, each with a part of its ranges. */
  splits: BlockSchedule;
  /** The tiles of the step; the `ranges` of a tile, [firstRange, firstRange + rangeCount), are its splits. */
  merges: BlockSchedule;
}

/** A split below this many keys costs more to merge than it gains. */
const MIN_SPLIT_KEYS = 256;
/** Splits of a tile, at most: each holds a partial result, and one invocation adds them up. */
const MAX_SPLITS = 64;

/** Splits every tile evenly, into as many splits as are worth it. */
export function splitSchedule({ tiles, ranges }: BlockSchedule): SplitSchedule {
  const splits: BlockSchedule = { tiles: [], ranges: [] };
  const merges: BlockSchedule = { tiles: [], ranges: [] };
  for (const tile of tiles) {
    const own = ranges.slice(tile.firstRange, tile.firstRange + tile.rangeCount);
    const numKeys = own.reduce((sum, { count }) => sum + count, 0);
    const splitKeys = Math.max(MIN_SPLIT_KEYS, Math.ceil(numKeys / MAX_SPLITS));
    const numSplits = Math.ceil(numKeys / splitKeys);
    merges.tiles.push({ ...tile, firstRange: splits.tiles.length, rangeCount: numSplits });
    for (let split = 0; split < numSplits; split++) {
      const [from, to] = [split, split + 1].map((index) => Math.floor((index * numKeys) / numSplits));
      const firstRange = splits.ranges.length;
      splits.ranges.push(...cutRanges(own, from, to));
      splits.tiles.push({ ...tile, firstRange, rangeCount: splits.ranges.length - firstRange });
    }
  }
  return { splits, merges };
}

/** Keys [from, to) of the ranges, counted through all of them. */
function cutRanges(ranges: readonly Range[], from: number, to: number): Range[] {
  const cut: Range[] = [];
  let before = 0;
  for (const { row, position, positionStride, count, fullBegin, fullEnd } of ranges) {
    const begin = Math.max(0, from - before);
    const end = Math.min(count, to - before);
    before += count;
    if (end <= begin) continue;
    const within = (index: number): number => Math.min(end, Math.max(begin, index)) - begin;
    cut.push({
      row: row + begin,
      position: position + positionStride * begin,
      positionStride,
      count: end - begin,
      fullBegin: within(fullBegin),
      fullEnd: within(fullEnd),
    });
  }
  return cut;
}

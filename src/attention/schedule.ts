// The schedule of one ring step: which query rows meet which KV rows, and where a mask has to be looked at. One pure
// function of two shards and a mask; the zigzag half-block trick, hop skipping and uneven shards are its results.
import { type Segment, type Shard, shardLength } from './layout.ts';
import type { MaskType } from './shape.ts';

/**
 * Up to `tileRows` consecutive query rows of one segment, and the KV ranges that they meet.
 * Row i of the tile is local row `row + i` at global position `position + positionStride · i`.
 */
export interface QueryTile {
  row: number;
  rowCount: number;
  position: number;
  positionStride: number;
  /** Indices into {@link BlockSchedule.ranges}: [firstRange, firstRange + rangeCount). */
  firstRange: number;
  rangeCount: number;
}

/**
 * Consecutive KV rows of one segment. Key j of the range is local row `row + j` at global position
 * `position + positionStride · j`. Keys [0, fullCount) are seen by every row of the tile, with no mask to look at;
 * keys [fullCount, count) by some of its rows: a partial block, where each row keeps the keys that its mask allows.
 */
export interface KvRange {
  row: number;
  position: number;
  positionStride: number;
  fullCount: number;
  count: number;
}

/** The work of one ring step, for one (batch, head): tiles with the most keys come first, for an even tail on a GPU. */
export interface BlockSchedule {
  tiles: QueryTile[];
  ranges: KvRange[];
}

/** How many keys of a segment lie at or before a position: the prefix that a causal row sees. */
function causalPrefix(position: number, kv: Segment): number {
  return Math.min(kv.length, Math.max(0, Math.floor((position - kv.start) / kv.stride) + 1));
}

/**
 * The schedule of a query shard against a KV shard.
 *
 * @param tileRows rows of a query tile, as the kernel wants them (≥ 1)
 * @param everyRow also list tiles that meet no key: the first step of a ring has to write every row of out and lse
 */
export function scheduleBlock(
  query: Shard,
  kv: Shard,
  maskType: MaskType,
  tileRows: number,
  everyRow = false,
): BlockSchedule {
  const tiles: (QueryTile & { keys: number })[] = [];
  const ranges: KvRange[] = [];
  let segmentRow = 0;
  for (const segment of query) {
    for (let index = 0; index < segment.length; index += tileRows) {
      const rowCount = Math.min(tileRows, segment.length - index);
      const position = segment.start + segment.stride * index;
      const lastPosition = position + segment.stride * (rowCount - 1);
      const firstRange = ranges.length;
      let keys = 0;
      let kvRow = 0;
      for (const source of kv) {
        const fullCount = maskType === 'causal' ? causalPrefix(position, source) : source.length;
        const count = maskType === 'causal' ? causalPrefix(lastPosition, source) : source.length;
        if (count > 0) {
          ranges.push({ row: kvRow, position: source.start, positionStride: source.stride, fullCount, count });
          keys += count;
        }
        kvRow += source.length;
      }
      const rangeCount = ranges.length - firstRange;
      if (rangeCount > 0 || everyRow) {
        const row = segmentRow + index;
        tiles.push({ row, rowCount, position, positionStride: segment.stride, firstRange, rangeCount, keys });
      }
    }
    segmentRow += segment.length;
  }
  tiles.sort((a, b) => b.keys - a.keys);
  return { tiles: tiles.map(({ keys: _, ...tile }) => tile), ranges };
}

/** Whether any query row of one shard sees any key of another. */
export function shardsMeet(query: Shard, kv: Shard, maskType: MaskType): boolean {
  if (shardLength(query) === 0 || shardLength(kv) === 0) return false;
  if (maskType === 'no_mask') return true;
  const lastQuery = Math.max(...query.map(({ start, length, stride }) => start + stride * (length - 1)));
  return kv.some(({ start }) => start <= lastQuery);
}

/**
 * For each owner, how many hops its KV block travels round the ring: as far as the last rank that sees any of its keys.
 * N − 1 for a full circle; with causal contiguous shards the block of rank j stops at rank N − 1.
 */
export function kvHops(query: readonly Shard[], kv: readonly Shard[], maskType: MaskType): number[] {
  const worldSize = query.length;
  return kv.map((block, owner) => {
    let hops = 0;
    for (let hop = 1; hop < worldSize; hop++) {
      if (shardsMeet(query[(owner + hop) % worldSize], block, maskType)) hops = hop;
    }
    return hops;
  });
}

/** Tile products of a schedule: pairs of a query tile and `tileKeys` consecutive keys, of which at least one is kept. */
export function countTileProducts({ ranges }: BlockSchedule, tileKeys: number): number {
  return ranges.reduce((sum, { count }) => sum + Math.ceil(count / tileKeys), 0);
}

// The schedule of a ring step: which tiles of rows meet which rows of the other side, and where a mask has to be looked
// at. One pure function of what a rank holds and of one interval of keys per query; the zigzag half-block trick, windows,
// hop skipping, packing and uneven shards are its results. Work is proportional to the pairs that the mask keeps.
import type { KeyInterval } from './mask.ts';
import type { PaddingRows, Piece, SequenceBlock } from './sequences.ts';

/**
 * Up to `tileRows` consecutive rows of one sequence, and the ranges of the other side that they meet. Row i of the tile is
 * local row `row + i` at position `position + positionStride · i` of the sequence. A tile of padding has stride 0.
 */
export interface Tile {
  /** The number of the sequence in the call; of padding in a call that is not packed, its batch entry. */
  sequence: number;
  row: number;
  rowCount: number;
  position: number;
  positionStride: number;
  /** o of the sequence: query i is compared with keys as if it stood at i + o. */
  offset: number;
  /** Indices into {@link BlockSchedule.ranges}: [firstRange, firstRange + rangeCount). */
  firstRange: number;
  rangeCount: number;
}

/**
 * Consecutive rows of the other side. Row j of the range is local row `row + j` at position `position + positionStride · j`.
 * Rows [fullBegin, fullEnd) meet every row of the tile, with no mask to look at; those before and after meet some of them.
 */
export interface Range {
  row: number;
  position: number;
  positionStride: number;
  count: number;
  fullBegin: number;
  fullEnd: number;
}

/** The work of one ring step, for one head: tiles with the most work come first, for an even tail on a GPU. */
export interface BlockSchedule {
  tiles: Tile[];
  ranges: Range[];
}

export interface ScheduleOptions {
  /** Rows of a tile, as the kernel wants them (≥ 1). */
  tileRows: number;
  /** Also list tiles that meet nothing: the first step of a ring has to write every row of its results. Default false. */
  everyRow?: boolean;
  /** Rows that belong to no sequence, listed as tiles of padding. Default none. */
  padding?: readonly PaddingRows[];
}

/** Tiles of query rows and the ranges of keys that they meet: for the forward and for dQ. */
export function scheduleQueries(
  blocks: readonly SequenceBlock[],
  interval: KeyInterval,
  options: ScheduleOptions,
): BlockSchedule {
  const sides = blocks.map(({ sequence, offset, query, kv }) => ({
    sequence,
    offset,
    shift: offset,
    own: query,
    other: kv,
  }));
  return scheduleSides(sides, interval, options);
}

/** Tiles of KV rows and the ranges of queries that they meet: for dK and dV. Key j is met by i + o from j − right to j + left. */
export function scheduleKeys(
  blocks: readonly SequenceBlock[],
  { left, right }: KeyInterval,
  options: ScheduleOptions,
): BlockSchedule {
  const sides = blocks.map(({ sequence, offset, query, kv }) => ({
    sequence,
    offset,
    shift: -offset,
    own: kv,
    other: query,
  }));
  return scheduleSides(sides, { left: right, right: left }, options);
}

interface Sides {
  sequence: number;
  offset: number;
  /** Added to own positions before they are compared with the other side's. */
  shift: number;
  own: readonly Piece[];
  other: readonly Piece[];
}

function scheduleSides(
  sides: readonly Sides[],
  interval: KeyInterval,
  { tileRows, everyRow = false, padding = [] }: ScheduleOptions,
): BlockSchedule {
  const tiles: { tile: Tile; work: number }[] = [];
  const ranges: Range[] = [];
  for (const { sequence, offset, shift, own, other } of sides) {
    for (const piece of own) {
      for (let index = 0; index < piece.length; index += tileRows) {
        const rowCount = Math.min(tileRows, piece.length - index);
        const position = piece.start + piece.stride * index;
        const firstRange = ranges.length;
        const last = position + piece.stride * (rowCount - 1);
        const work = appendRanges(ranges, other, position + shift, last + shift, interval);
        const rangeCount = ranges.length - firstRange;
        if (rangeCount === 0 && !everyRow) continue;
        const [row, positionStride] = [piece.row + index, piece.stride];
        tiles.push({
          tile: { sequence, row, rowCount, position, positionStride, offset, firstRange, rangeCount },
          work,
        });
      }
    }
  }
  tiles.sort((a, b) => b.work - a.work);
  for (const { batch, row, length } of padding) {
    for (let index = 0; index < length; index += tileRows) {
      const rows = { sequence: batch, row: row + index, rowCount: Math.min(tileRows, length - index) };
      tiles.push({
        tile: { ...rows, position: 0, positionStride: 0, offset: 0, firstRange: 0, rangeCount: 0 },
        work: 0,
      });
    }
  }
  return { tiles: tiles.map(({ tile }) => tile), ranges };
}

/** Adds what rows at positions from `first` to `last` meet in `pieces`; returns the number of rows added. */
function appendRanges(
  ranges: Range[],
  pieces: readonly Piece[],
  first: number,
  last: number,
  { left, right }: KeyInterval,
): number {
  let work = 0;
  for (const { row, start, length, stride } of pieces) {
    const indexFrom = (position: number): number => clamp(Math.ceil((position - start) / stride), 0, length);
    const indexAfter = (position: number): number => clamp(Math.floor((position - start) / stride) + 1, 0, length);
    const begin = indexFrom(first - left);
    const count = indexAfter(last + right) - begin;
    if (count <= 0) continue;
    const fullBegin = clamp(indexFrom(last - left) - begin, 0, count);
    const fullEnd = clamp(indexAfter(first + right) - begin, fullBegin, count);
    ranges.push({
      row: row + begin,
      position: start + stride * begin,
      positionStride: stride,
      count,
      fullBegin,
      fullEnd,
    });
    work += count;
  }
  return work;
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}

/** Whether any query of the blocks may keep any of their keys. Never false when one does. */
export function blocksMeet(blocks: readonly SequenceBlock[], interval: KeyInterval): boolean {
  return scheduleQueries(blocks, interval, { tileRows: Infinity }).tiles.length > 0;
}

/**
 * For each owner, how many hops its KV block travels round the ring: as far as the last rank that keeps any of its keys.
 * N − 1 for a full circle; with contiguous shards a causal mask or a window ends the journey earlier.
 *
 * @param meet whether the queries of a rank keep any key of an owner's block
 */
export function kvHops(worldSize: number, meet: (rank: number, owner: number) => boolean): number[] {
  return Array.from({ length: worldSize }, (_, owner) => {
    let hops = 0;
    for (let hop = 1; hop < worldSize; hop++) if (meet((owner + hop) % worldSize, owner)) hops = hop;
    return hops;
  });
}

/** Tile products of a schedule for one head: pairs of a tile and `tileKeys` consecutive rows of which one or more is kept. */
export function countTileProducts({ ranges }: BlockSchedule, tileKeys: number): number {
  return ranges.reduce((sum, { count }) => sum + Math.ceil(count / tileKeys), 0);
}

/** Pairs of a query and a key that the mask keeps, for one head. */
export function countPairs(blocks: readonly SequenceBlock[], interval: KeyInterval): number {
  return scheduleQueries(blocks, interval, { tileRows: 1 }).ranges.reduce((sum, { count }) => sum + count, 0);
}

// What a schedule computes, listed pair by pair, and what it should: by brute force over every query and key of a call.
import { expect } from 'chai';
import { type Shard, shardLength, shardPositions } from '../../src/attention/layout.ts';
import type { KeyInterval } from '../../src/attention/mask.ts';
import type { BlockSchedule } from '../../src/attention/schedule.ts';
import type { Sequence, SequenceBlock } from '../../src/attention/sequences.ts';

/** A shard of all tokens. */
export function wholeShard(length: number): Shard {
  return [{ start: 0, length, stride: 1 }];
}

/** One sequence of as many queries as keys. */
export function wholeSequence(length: number): Sequence[] {
  return [{ batch: 0, startQ: 0, lenQ: length, startKv: 0, lenKv: length, offset: 0 }];
}

/** A query and a key of a sequence, by position, and whether the mask has to be looked at. */
export interface ScheduledPair {
  sequence: number;
  query: number;
  key: number;
  isPartial: boolean;
}

/** What a schedule's tiles are of: the queries of blocks, or their keys. */
export type Side = 'queries' | 'keys';

/** Whether the mask keeps a pair. */
export function keepsPair(
  { query, key }: { query: number; key: number },
  offset: number,
  { left, right }: KeyInterval,
): boolean {
  return key >= query + offset - left && key <= query + offset + right;
}

/** Every pair of a tile's row and a row of its ranges, masked ones of partial ranges included; checks rows and positions. */
export function listPairs(
  { tiles, ranges }: BlockSchedule,
  blocks: readonly SequenceBlock[],
  side: Side,
): ScheduledPair[] {
  const pairs: ScheduledPair[] = [];
  for (const tile of tiles) {
    const block = blocks[tile.sequence];
    expect(tile.offset, 'offset of a tile').to.equal(block.offset);
    const [own, other] = side === 'queries' ? [block.query, block.kv] : [block.kv, block.query];
    const [ownAt, otherAt] = [positionsByRow(own), positionsByRow(other)];
    for (let i = 0; i < tile.rowCount; i++) {
      const position = tile.position + tile.positionStride * i;
      expect(position, 'position of a row of a tile').to.equal(ownAt.get(tile.row + i));
      for (const range of ranges.slice(tile.firstRange, tile.firstRange + tile.rangeCount)) {
        for (let j = 0; j < range.count; j++) {
          const met = range.position + range.positionStride * j;
          expect(met, 'position of a row of a range').to.equal(otherAt.get(range.row + j));
          const [query, key] = side === 'queries' ? [position, met] : [met, position];
          const isPartial = j < range.fullBegin || j >= range.fullEnd;
          pairs.push({ sequence: tile.sequence, query, key, isPartial });
        }
      }
    }
  }
  return pairs;
}

function positionsByRow(pieces: SequenceBlock['query']): Map<number, number> {
  return new Map(
    pieces.flatMap(({ row, start, length, stride }) =>
      Array.from({ length }, (_, index): [number, number] => [row + index, start + stride * index]),
    ),
  );
}

/** The tokens of a shard that lie in a sequence, as local rows and positions: straight from the definition. */
export function rowsOf(shard: Shard, start: number, length: number): { row: number; position: number }[] {
  return [...shardPositions(shard)].flatMap((token, row) =>
    token >= start && token < start + length ? [{ row, position: token - start }] : [],
  );
}

/** Every pair of what two shards hold of each sequence that the mask keeps. */
export function keptPairs(query: Shard, kv: Shard, sequences: readonly Sequence[], interval: KeyInterval): string[] {
  return sequences.flatMap(({ startQ, lenQ, startKv, lenKv, offset }, sequence) => {
    const keys = rowsOf(kv, startKv, lenKv);
    return rowsOf(query, startQ, lenQ).flatMap(({ position: i }) =>
      keys
        .filter(({ position: j }) => keepsPair({ query: i, key: j }, offset, interval))
        .map(({ position: j }) => nameOf({ sequence, query: i, key: j })),
    );
  });
}

export function nameOf({ sequence, query, key }: Omit<ScheduledPair, 'isPartial'>): string {
  return `${sequence}:${query},${key}`;
}

/** [sequence, local row] of the tiles of padding (where the sequence is a batch entry) and of all others, in tile order. */
export function listRows({ tiles }: BlockSchedule): { padding: [number, number][]; own: [number, number][] } {
  const padding: [number, number][] = [];
  const own: [number, number][] = [];
  for (const { sequence, row, rowCount, positionStride } of tiles) {
    for (let index = 0; index < rowCount; index++) {
      (positionStride === 0 ? padding : own).push([sequence, row + index]);
    }
  }
  return { padding, own };
}

/** Local rows of a shard that lie in none of the spans. */
export function uncoveredRows(shard: Shard, spans: readonly (readonly [start: number, length: number])[]): number[] {
  const covered = new Set(spans.flatMap(([start, length]) => rowsOf(shard, start, length).map(({ row }) => row)));
  return Array.from({ length: shardLength(shard) }, (_, row) => row).filter((row) => !covered.has(row));
}

// The sequences of a call: a batch entry is one (with a length, when padded), or a packed row of tokens is many. Cuts what
// a rank holds into the rows of each sequence, so that everything below counts positions within a sequence. Pure.
import { type MaskType, queryOffset } from './mask.ts';
import type { Segment, Shard } from './layout.ts';
import type { AttentionShape } from './shape.ts';

/** Where each sequence of a call begins and how long it is, in rows of q and of k and v. */
export interface SequenceLengths {
  /** Packed [T, H, D]: all sequences lie in batch entry 0. Else sequence s is batch entry s. */
  packed: boolean;
  startsQ: readonly number[];
  lensQ: readonly number[];
  startsKv: readonly number[];
  lensKv: readonly number[];
}

/** One sequence: rows [startQ, startQ + lenQ) of q and [startKv, startKv + lenKv) of k and v, of one batch entry. */
export interface Sequence {
  batch: number;
  startQ: number;
  lenQ: number;
  startKv: number;
  lenKv: number;
  /** o: query i is compared with keys as if it stood at i + o. */
  offset: number;
}

/** The sequences of a call, by their number: what dropout is keyed by. */
export function listSequences(
  { batch, seqLenQ, seqLenKv }: AttentionShape,
  maskType: MaskType,
  lengths: SequenceLengths | null,
): Sequence[] {
  if (!lengths) {
    const offset = queryOffset(maskType, seqLenQ, seqLenKv);
    return Array.from({ length: batch }, (_, entry) => {
      return { batch: entry, startQ: 0, lenQ: seqLenQ, startKv: 0, lenKv: seqLenKv, offset };
    });
  }
  return lengths.lensQ.map((lenQ, index) => {
    const lenKv = lengths.lensKv[index];
    return {
      batch: lengths.packed ? 0 : index,
      startQ: lengths.startsQ[index],
      lenQ,
      startKv: lengths.startsKv[index],
      lenKv,
      offset: queryOffset(maskType, lenQ, lenKv),
    };
  });
}

/** Consecutive local rows of one sequence: row `row + i` is position `start + stride · i` of the sequence. */
export interface Piece extends Segment {
  readonly row: number;
}

/** The part of a sequence that meets in a ring step: what one rank holds of its queries, and a KV block of its keys. */
export interface SequenceBlock {
  /** The number of the sequence in the call. */
  sequence: number;
  offset: number;
  query: Piece[];
  kv: Piece[];
}

/** The rows of a shard that lie in token rows [start, start + length), at positions counted from `start`. */
export function cutShard(shard: Shard, start: number, length: number): Piece[] {
  const pieces: Piece[] = [];
  let row = 0;
  for (const segment of shard) {
    const first = Math.max(0, Math.ceil((start - segment.start) / segment.stride));
    const end = Math.min(segment.length, Math.floor((start + length - 1 - segment.start) / segment.stride) + 1);
    if (end > first) {
      const token = segment.start + segment.stride * first;
      pieces.push({ row: row + first, start: token - start, length: end - first, stride: segment.stride });
    }
    row += segment.length;
  }
  return pieces;
}

/** Every sequence of which the query shard and the KV shard both may hold rows. */
export function pairShards(query: Shard, kv: Shard, sequences: readonly Sequence[]): SequenceBlock[] {
  return sequences.map(({ startQ, lenQ, startKv, lenKv, offset }, sequence) => {
    return { sequence, offset, query: cutShard(query, startQ, lenQ), kv: cutShard(kv, startKv, lenKv) };
  });
}

/** Local rows that belong to no sequence, in one batch entry: padding. */
export interface PaddingRows {
  batch: number;
  row: number;
  length: number;
}

/** The rows of a shard in no sequence, where [start, length] of each sequence of batch entry b is `spans(b)`. */
export function listPadding(
  shard: Shard,
  batch: number,
  spans: (batch: number) => readonly (readonly [start: number, length: number])[],
): PaddingRows[] {
  const rows = shard.reduce((sum, { length }) => sum + length, 0);
  const padding: PaddingRows[] = [];
  for (let entry = 0; entry < batch; entry++) {
    const covered = spans(entry)
      .flatMap(([start, length]) => cutShard(shard, start, length))
      .toSorted((a, b) => a.row - b.row);
    let row = 0;
    for (const piece of [...covered, { row: rows, length: 0 }]) {
      if (piece.row > row) padding.push({ batch: entry, row, length: piece.row - row });
      row = Math.max(row, piece.row + piece.length);
    }
  }
  return padding;
}

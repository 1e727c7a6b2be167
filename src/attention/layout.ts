// Which tokens a rank holds. A shard is a list of segments of the global sequence; its rows are stored one segment after
// another. Layouts work for any number of ranks and any length: chunks may be uneven, or empty. Pure.
import { ConfigError } from '../errors.ts';
import type { TensorData } from '../tensor/tensor.ts';

/** `length` tokens of the global sequence: start, start + stride, … */
export interface Segment {
  readonly start: number;
  readonly length: number;
  readonly stride: number;
}

/** The tokens of one rank, in the order in which their rows are stored. Segments are never empty. */
export type Shard = readonly Segment[];

/**
 * How a sequence is split over N ranks, here N = 2 and S = 8:
 *   contiguous  0 0 0 0 1 1 1 1   rank r holds chunk r of N
 *   zigzag      0 0 1 1 1 1 0 0   rank r holds chunks r and 2N−1−r of 2N: causal work is the same for every rank
 *   striped     0 1 0 1 0 1 0 1   token t is on rank t mod N
 */
export const LAYOUTS = ['contiguous', 'zigzag', 'striped'] as const;
export type Layout = (typeof LAYOUTS)[number];

/** Chunk `index` of `numChunks`: ⌊S/M⌋ tokens, and one more in the first S mod M chunks. */
export function chunk(seqLen: number, numChunks: number, index: number): Segment {
  const base = Math.floor(seqLen / numChunks);
  const extra = seqLen % numChunks;
  return { start: index * base + Math.min(index, extra), length: base + (index < extra ? 1 : 0), stride: 1 };
}

/** The tokens that `rank` of `worldSize` holds of a sequence of `seqLen` tokens. Empty segments are left out. */
export function shardOf(layout: Layout, seqLen: number, worldSize: number, rank: number): Shard {
  const segments: Segment[] = [];
  switch (layout) {
    case 'contiguous':
      segments.push(chunk(seqLen, worldSize, rank));
      break;
    case 'zigzag':
      segments.push(chunk(seqLen, 2 * worldSize, rank), chunk(seqLen, 2 * worldSize, 2 * worldSize - 1 - rank));
      break;
    case 'striped':
      segments.push({ start: rank, length: Math.max(0, Math.ceil((seqLen - rank) / worldSize)), stride: worldSize });
      break;
    default:
      throw new ConfigError(
        'ERR_OPTION',
        `layout must be one of ${LAYOUTS.join(', ')}, got layout=${String(layout satisfies never)}`,
      );
  }
  return mergeAdjacent(segments.filter(({ length }) => length > 0));
}

/** Joins segments that continue one another (the two chunks of the middle zigzag rank), so that fewer tiles are ragged. */
function mergeAdjacent(segments: Segment[]): Shard {
  const merged: Segment[] = [];
  for (const segment of segments) {
    const last = merged.at(-1);
    if (last && last.stride === 1 && segment.stride === 1 && last.start + last.length === segment.start) {
      merged[merged.length - 1] = { ...last, length: last.length + segment.length };
    } else {
      merged.push(segment);
    }
  }
  return merged;
}

/** Every rank's shard, by rank. */
export function shardsOf(layout: Layout, seqLen: number, worldSize: number): Shard[] {
  return Array.from({ length: worldSize }, (_, rank) => shardOf(layout, seqLen, worldSize, rank));
}

/** The number of tokens (rows) of a shard. */
export function shardLength(shard: Shard): number {
  return shard.reduce((sum, { length }) => sum + length, 0);
}

/** The global position of every row of a shard: what RoPE needs. */
export function shardPositions(shard: Shard): Uint32Array {
  const positions = new Uint32Array(shardLength(shard));
  let row = 0;
  for (const { start, length, stride } of shard) {
    for (let index = 0; index < length; index++) positions[row++] = start + stride * index;
  }
  return positions;
}

/**
 * Copies the rows of a shard out of a whole tensor seen as [outer, S, inner]: `source` is whole, the result is
 * [outer, shardLength, inner]. For [B, S, H, D] outer is B and inner is H·D; for lse [B, H, S] outer is B·H, inner 1.
 */
export function gatherShard<Data extends TensorData>(
  source: Data,
  shard: Shard,
  outer: number,
  seqLen: number,
  inner: number,
): Data {
  const rows = shardLength(shard);
  const result = new (source.constructor as new (length: number) => Data)(outer * rows * inner);
  forEachRun(shard, (row, token, length) => {
    for (let index = 0; index < outer; index++) {
      const from = (index * seqLen + token) * inner;
      result.set(source.subarray(from, from + length * inner), (index * rows + row) * inner);
    }
  });
  return result;
}

/** The inverse of {@link gatherShard}: writes a shard's rows into their places in the whole tensor `target`. */
export function scatterShard<Data extends TensorData>(
  target: Data,
  source: Data,
  shard: Shard,
  outer: number,
  seqLen: number,
  inner: number,
): void {
  const rows = shardLength(shard);
  forEachRun(shard, (row, token, length) => {
    for (let index = 0; index < outer; index++) {
      const from = (index * rows + row) * inner;
      target.set(source.subarray(from, from + length * inner), (index * seqLen + token) * inner);
    }
  });
}

/** Calls `visit(localRow, globalToken, length)` for every run of consecutive tokens. */
function forEachRun(shard: Shard, visit: (row: number, token: number, length: number) => void): void {
  let row = 0;
  for (const { start, length, stride } of shard) {
    if (stride === 1) visit(row, start, length);
    else for (let index = 0; index < length; index++) visit(row + index, start + index * stride, 1);
    row += length;
  }
}

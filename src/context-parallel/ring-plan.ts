// Everything about one ring call that can be known before it runs: who holds what, which block arrives at which step,
// how far it travels, how many bytes that is, and the work list of every step. Pure.
import type { AttentionCall } from '../attention/call.ts';
import { type Layout, type Shard, shardLength, shardsOf } from '../attention/layout.ts';
import { keyInterval } from '../attention/mask.ts';
import { OPTION_NAMES, validateOptions } from '../attention/options.ts';
import { blocksMeet, kvHops } from '../attention/schedule.ts';
import {
  listPadding,
  listSequences,
  pairShards,
  type PaddingRows,
  type Sequence,
  type SequenceBlock,
} from '../attention/sequences.ts';
import { validateShape } from '../attention/shape.ts';
import { invariant } from '../errors.ts';
import { BYTES_PER_ELEMENT, type FloatDType } from '../tensor/tensor.ts';

/** One attention call as every rank of the ring sees it. */
export interface RingCall extends AttentionCall {
  layout: Layout;
}

/** What one rank does in one step of the ring. */
export interface RingStep {
  /** Whose KV block this step is about: (rank − step) mod N. */
  owner: number;
  /** The block reaches this rank (always true for its own, at step 0). */
  arrives: boolean;
  /** The block goes on to the next rank. */
  forwards: boolean;
  /** Some query row of this rank may keep some key of the block. */
  computes: boolean;
  /** B·s_owner·Hkv·(Dqk + Dv)·b: the block [K | V] of the owner's shard as it travels. */
  blockBytes: number;
}

export interface RingPlan {
  call: RingCall;
  cpRank: number;
  cpSize: number;
  queryShard: Shard;
  /** KV shards by owner. */
  kvShards: Shard[];
  steps: RingStep[];
  /** Rows of the largest KV shard: what a KV slot must hold. */
  maxKvRows: number;
  /** KV slots of this rank: its own block and at most two more, whatever N. */
  kvSlots: number;
  /** K and V bytes that this rank sends in the forward. */
  kvPayloadBytes: number;
  /** Ranks that plan the same call have the same hash; it travels in every frame. */
  shapeHash: number;
}

/** Bytes of a rank's tensors in host memory, as they travel between it and the driver. */
export interface ShardBytes {
  /** Its shard of q. */
  q: number;
  /** Its own block [K | V]. */
  kv: number;
  /** Its rows of the bias [1 or B, 1 or H, rows, Skv]; 0 without one. */
  bias: number;
  /** Its shard of out, in {@link resultDType}. */
  out: number;
  /** Its shard of lse, f32; with max logit the largest score of every row follows. */
  lse: number;
}

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** Bytes of one KV row [K | V] of all batch entries and heads. */
export function kvRowBytes(call: AttentionCall): number {
  const { batch, numKvHeads, headDimQk, headDimV } = call.shape;
  return batch * numKvHeads * (headDimQk + headDimV) * BYTES_PER_ELEMENT[call.storage];
}

export function shardBytes({ call, cpRank, queryShard, steps }: RingPlan): ShardBytes {
  const { batch, numHeads, headDimQk, headDimV, seqLenKv } = call.shape;
  const rows = shardLength(queryShard);
  const rowHeads = batch * numHeads * rows;
  invariant(steps[0].owner === cpRank, 'step 0 is about the own block');
  return {
    q: rowHeads * headDimQk * BYTES_PER_ELEMENT[call.storage],
    kv: steps[0].blockBytes,
    bias: call.bias ? call.bias.batch * call.bias.heads * rows * seqLenKv * F32_BYTES : 0,
    out: rowHeads * headDimV * BYTES_PER_ELEMENT[resultDType(call)],
    lse: rowHeads * F32_BYTES * (call.options.maxLogit ? 2 : 1),
  };
}

/** In what out and gradients leave a device: as they are stored when the caller wants just that, else unrounded. */
export function resultDType({ dtype, storage }: AttentionCall): FloatDType {
  return dtype === storage ? storage : 'f32';
}

/** Plans the ring of `cpSize` ranks for `cpRank`. Throws ConfigError when the call itself is wrong. */
export function planRing(call: RingCall, cpRank: number, cpSize: number): RingPlan {
  const { shape, options, layout } = call;
  validateShape(shape);
  validateOptions(options);
  const queryShards = shardsOf(layout, shape.seqLenQ, cpSize);
  const kvShards = shardsOf(layout, shape.seqLenKv, cpSize);
  const interval = keyInterval(options.maskType, options.window);
  const sequences = listSequences(shape, options.maskType, call.lengths);
  const meet = (rank: number, owner: number): boolean =>
    blocksMeet(pairShards(queryShards[rank], kvShards[owner], sequences), interval);
  // Balanced layouts spread every block over the sequence, so that each rank sees some of it: it goes full circle.
  const hops = layout === 'contiguous' ? kvHops(cpSize, meet) : kvShards.map(() => cpSize - 1);
  const steps = Array.from({ length: cpSize }, (_, step): RingStep => {
    const owner = (cpRank - step + cpSize) % cpSize;
    return {
      owner,
      arrives: hops[owner] >= step,
      forwards: hops[owner] > step,
      computes: meet(cpRank, owner),
      blockBytes: kvRowBytes(call) * shardLength(kvShards[owner]),
    };
  });
  const received = steps.slice(1).filter(({ arrives }) => arrives).length;
  return {
    call,
    cpRank,
    cpSize,
    queryShard: queryShards[cpRank],
    kvShards,
    steps,
    maxKvRows: Math.max(...kvShards.map(shardLength)),
    kvSlots: 1 + Math.min(2, received),
    kvPayloadBytes: steps.reduce((sum, { forwards, blockBytes }) => sum + (forwards ? blockBytes : 0), 0),
    shapeHash: hashCall(call, cpSize),
  };
}

/** What meets in a step of the ring, sequence by sequence. */
export function stepBlocks({ call, queryShard, kvShards, steps }: RingPlan, step: number): SequenceBlock[] {
  const sequences = listSequences(call.shape, call.options.maskType, call.lengths);
  return pairShards(queryShard, kvShards[steps[step].owner], sequences);
}

/** The rank's query rows that belong to no sequence. */
export function queryPadding({ call, queryShard }: RingPlan): PaddingRows[] {
  return shardPadding(call, queryShard, ({ startQ, lenQ }) => [startQ, lenQ]);
}

/** The rank's own KV rows that belong to no sequence. */
export function kvPadding({ call, kvShards, cpRank }: RingPlan): PaddingRows[] {
  return shardPadding(call, kvShards[cpRank], ({ startKv, lenKv }) => [startKv, lenKv]);
}

function shardPadding(
  { shape, options, lengths }: AttentionCall,
  shard: Shard,
  spanOf: (sequence: Sequence) => readonly [start: number, length: number],
): PaddingRows[] {
  const sequences = listSequences(shape, options.maskType, lengths);
  return listPadding(shard, shape.batch, (entry) => sequences.filter(({ batch }) => batch === entry).map(spanOf));
}

/** Whether slopes or sinks come with the call; without, they are 0. */
export function hasHeadValues({ alibi, options }: AttentionCall): boolean {
  return alibi || options.sink === 'learnable';
}

/** FNV-1a of the call as JSON: 32 bits that differ when ranks disagree. */
function hashCall({ shape, options, storage, lengths, bias, alibi, layout }: RingCall, cpSize: number): number {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const sizes = [batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV, cpSize];
  const chosen = OPTION_NAMES.map((name) => options[name]);
  const sides = lengths && [lengths.packed, lengths.startsQ, lengths.lensQ, lengths.startsKv, lengths.lensKv];
  const text = JSON.stringify([sizes, chosen, storage, sides, bias && [bias.batch, bias.heads], alibi, layout]);
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}

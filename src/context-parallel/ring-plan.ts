// Everything about one ring call that can be known before it runs: who holds what, which block arrives at which step,
// how far it travels, how many bytes that is, and the work list of every step. Pure.
import { invariant } from '../errors.ts';
import { type Layout, type Shard, shardLength, shardsOf } from '../attention/layout.ts';
import { kvHops, shardsMeet } from '../attention/schedule.ts';
import { type AttentionOptions, type AttentionShape, validateOptions, validateShape } from '../attention/shape.ts';

/** One attention call as every rank of the ring sees it. */
export interface AttentionCall {
  shape: AttentionShape;
  options: AttentionOptions;
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
  /** Some query row of this rank sees some key of the block. */
  computes: boolean;
  /** B·s_owner·Hkv·(Dqk + Dv)·4: the block [K | V] of the owner's shard as it travels. */
  blockBytes: number;
}

export interface RingPlan {
  call: AttentionCall;
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

/** Bytes of one KV row [K | V] of all batch entries and heads, f32. */
export function kvRowBytes({ batch, numKvHeads, headDimQk, headDimV }: AttentionShape): number {
  return batch * numKvHeads * (headDimQk + headDimV) * Float32Array.BYTES_PER_ELEMENT;
}

/** Bytes of a rank's tensors in host memory: its shard of q, its own block [K | V], its shards of out and lse. */
export function shardBytes({ call, cpRank, queryShard, steps }: RingPlan): Record<'q' | 'kv' | 'out' | 'lse', number> {
  const { batch, numHeads, headDimQk, headDimV } = call.shape;
  const rowHeads = batch * numHeads * shardLength(queryShard) * Float32Array.BYTES_PER_ELEMENT;
  invariant(steps[0].owner === cpRank, 'step 0 is about the own block');
  return { q: rowHeads * headDimQk, kv: steps[0].blockBytes, out: rowHeads * headDimV, lse: rowHeads };
}

/** Plans the ring of `cpSize` ranks for `cpRank`. Throws ConfigError when the call itself is wrong. */
export function planRing(call: AttentionCall, cpRank: number, cpSize: number): RingPlan {
  const { shape, options, layout } = call;
  validateShape(shape);
  validateOptions(options);
  const queryShards = shardsOf(layout, shape.seqLenQ, cpSize);
  const kvShards = shardsOf(layout, shape.seqLenKv, cpSize);
  // Balanced layouts spread every block over the sequence, so that each rank sees some of it: it goes full circle.
  const hops =
    layout === 'contiguous' ? kvHops(queryShards, kvShards, options.maskType) : kvShards.map(() => cpSize - 1);
  const queryShard = queryShards[cpRank];
  const steps = Array.from({ length: cpSize }, (_, step): RingStep => {
    const owner = (cpRank - step + cpSize) % cpSize;
    const kvShard = kvShards[owner];
    return {
      owner,
      arrives: hops[owner] >= step,
      forwards: hops[owner] > step,
      computes: shardsMeet(queryShard, kvShard, options.maskType),
      blockBytes: kvRowBytes(shape) * shardLength(kvShard),
    };
  });
  const received = steps.slice(1).filter(({ arrives }) => arrives).length;
  return {
    call,
    cpRank,
    cpSize,
    queryShard,
    kvShards,
    steps,
    maxKvRows: Math.max(...kvShards.map(shardLength)),
    kvSlots: 1 + Math.min(2, received),
    kvPayloadBytes: steps.reduce((sum, { forwards, blockBytes }) => sum + (forwards ? blockBytes : 0), 0),
    shapeHash: hashCall(call, cpSize),
  };
}

/** FNV-1a of the call as JSON: 32 bits that differ when ranks disagree. */
function hashCall({ shape, options, layout }: AttentionCall, cpSize: number): number {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const sizes = [batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV, cpSize];
  const text = JSON.stringify([sizes, options.maskType, options.softmaxScale, layout]);
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}

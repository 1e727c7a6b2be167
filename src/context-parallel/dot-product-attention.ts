// The SPMD module: each rank gives its shards on the device and gets its shard of the result there. Context parallelism
// is invisible but for the shards.
import type { Layout } from '../attention/layout.ts';
import { LAYOUTS, shardLength } from '../attention/layout.ts';
import { isPadding, type MaskType } from '../attention/mask.ts';
import { fillOptions } from '../attention/options.ts';
import { ConfigError } from '../errors.ts';
import type { Gpu } from '../gpu/device.ts';
import type { GpuTensor } from '../gpu/tensor.ts';
import type { ModelParallel } from '../parallel/model-parallel.ts';
import type { World } from '../parallel/world.ts';
import { type RankMetrics, createRankMetrics } from '../trace/counters.ts';
import { createTimeline } from '../trace/timeline.ts';
import { RankAttention } from './rank-attention.ts';
import type { RingCall } from './ring-plan.ts';

/** A world whose ranks have a device. */
export interface ComputeWorld extends World {
  readonly gpu: Gpu;
  readonly device: GPUDevice;
}

export interface AttentionConfig {
  numHeads: number;
  /** Default numHeads. */
  numKvHeads?: number;
  /** Head dim of q and k, and of v unless headDimV says otherwise. */
  headDim: number;
  headDimV?: number;
  /** Default 1/√headDim. */
  softmaxScale?: number;
  /** How sequences are split over the group; default zigzag. */
  layout?: Layout;
}

export interface DotProductAttentionOptions {
  /** Default no_mask; the padding types need lengths, which this version takes in `createEngine` only. */
  attnMaskType?: MaskType;
  /** Default p2p, the only one of this version. */
  cpCommType?: 'p2p';
  groups: ModelParallel<ComputeWorld>;
}

export interface AttentionForwardOptions {
  /** Tokens of the whole sequence; default: this rank's rows × ranks, which holds when the shards are even. */
  seqLenQ?: number;
  seqLenKv?: number;
  signal?: AbortSignal;
}

/** out [B, rows, H, Dv] and lse [B, H, rows] (−1e30 in a row without a key): valid until the next forward. */
export interface AttentionForwardResult {
  out: GpuTensor;
  lse: GpuTensor;
}

export class DotProductAttention {
  readonly #config: Required<AttentionConfig>;
  readonly #maskType: MaskType;
  readonly #groups: ModelParallel<ComputeWorld>;
  readonly #attention: RankAttention;
  #metrics: RankMetrics = createRankMetrics(0);

  /** Throws ConfigError for what this version does not compute. */
  constructor(config: AttentionConfig, options: DotProductAttentionOptions) {
    const { numHeads, headDim, numKvHeads = numHeads, headDimV = headDim } = config;
    const { softmaxScale = 1 / Math.sqrt(headDim), layout = 'zigzag' } = config;
    const { attnMaskType = 'no_mask', cpCommType = 'p2p', groups } = options;
    if (cpCommType !== 'p2p') {
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `DotProductAttention: this version has p2p, got cpCommType=${String(cpCommType)}`,
      );
    }
    if (isPadding(attnMaskType)) {
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `DotProductAttention: this version takes no sequence lengths, got attnMaskType=${attnMaskType}`,
      );
    }
    if (!LAYOUTS.includes(layout)) {
      throw new ConfigError(
        'ERR_OPTION',
        `DotProductAttention: layout must be one of ${LAYOUTS.join(', ')}, got ${String(layout)}`,
      );
    }
    this.#config = { numHeads, numKvHeads, headDim, headDimV, softmaxScale, layout };
    this.#maskType = attnMaskType;
    this.#groups = groups;
    this.#attention = new RankAttention(groups.world.gpu);
  }

  /** Counters of the last forward on this rank. */
  get metrics(): RankMetrics {
    return this.#metrics;
  }

  /**
   * Attention over the group's whole sequence. q [B, rows, H, D], k and v [B, rowsKv, Hkv, D]: this rank's shards, f32.
   * Every rank of the group calls it. Throws ConfigError when a shard has not the rows that the layout gives this rank;
   * RingAbortError when a rank fails; the signal's reason when it aborts (the other ranks then fail).
   */
  async forward(
    q: GpuTensor,
    k: GpuTensor,
    v: GpuTensor,
    { seqLenQ, seqLenKv, signal }: AttentionForwardOptions = {},
  ): Promise<AttentionForwardResult> {
    signal?.throwIfAborted();
    const { world, contextParallelGroup: group } = this.#groups;
    const call = this.#describeCall(q, k, v, seqLenQ ?? q.shape[1] * group.size, seqLenKv ?? k.shape[1] * group.size);
    const { signal: ringSignal, transport, timeoutMs } = world;
    const transfer = { signal: signal ? AbortSignal.any([signal, ringSignal]) : ringSignal, timeoutMs };
    try {
      const shards = { q: q.buffer, k: k.buffer, v: v.buffer };
      const prepared = await this.#attention.prepare(call, group.rank, group.size, shards);
      checkRows('q', q, shardLength(prepared.plan.queryShard));
      checkRows('k', k, shardLength(prepared.plan.kvShards[group.rank]));
      const link = group.size === 1 ? undefined : { transport, group: group.ranks, opSeq: group.nextOpSeq(), transfer };
      const timeline = createTimeline({ rank: world.rank, enabled: false });
      const onStep = (step: number): void => world.enterStep(step);
      this.#metrics = await this.#attention.run(prepared, { link, timeline, onStep });
      world.enterStep(-1);
      return this.#result(call, prepared.compute.out, prepared.compute.lse, q.shape[1]);
    } catch (error) {
      if (error instanceof ConfigError) throw error;
      throw await world.reportFailure(error, ringSignal);
    }
  }

  /** Frees the buffers of the last forward. */
  close(): void {
    this.#attention.close();
  }

  #describeCall(q: GpuTensor, k: GpuTensor, v: GpuTensor, seqLenQ: number, seqLenKv: number): RingCall {
    const { numHeads, numKvHeads, headDim, headDimV, softmaxScale, layout } = this.#config;
    const batch = q.shape[0];
    checkShape('q', q, [batch, q.shape[1], numHeads, headDim]);
    checkShape('k', k, [batch, k.shape[1], numKvHeads, headDim]);
    checkShape('v', v, [batch, k.shape[1], numKvHeads, headDimV]);
    const shape = { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk: headDim, headDimV };
    const options = fillOptions({ maskType: this.#maskType, softmaxScale }, headDim);
    return { shape, options, layout, dtype: 'f32', storage: 'f32', lengths: null, bias: null, alibi: false };
  }

  #result(call: RingCall, out: GPUBuffer, lse: GPUBuffer, rows: number): AttentionForwardResult {
    const { batch, numHeads, headDimV } = call.shape;
    const size = batch * numHeads * rows * Float32Array.BYTES_PER_ELEMENT;
    return {
      out: { buffer: out, shape: [batch, rows, numHeads, headDimV], size: size * headDimV },
      lse: { buffer: lse, shape: [batch, numHeads, rows], size },
    };
  }
}

function checkShape(name: string, { shape }: GpuTensor, expected: readonly number[]): void {
  if (shape.length !== expected.length || shape.some((size, index) => size !== expected[index])) {
    throw new ConfigError(
      'ERR_SHAPE',
      `DotProductAttention: ${name} must be [${expected.join(', ')}], got [${shape.join(', ')}]`,
    );
  }
}

function checkRows(name: string, { shape }: GpuTensor, rows: number): void {
  if (shape[1] !== rows) {
    throw new ConfigError(
      'ERR_SHAPE',
      `DotProductAttention: this rank's shard of ${name} has ${rows} rows in this layout, got ${shape[1]}; pass seqLenQ and seqLenKv when the shards are uneven`,
    );
  }
}

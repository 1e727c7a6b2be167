// One rank's attention, call after call: keeps what a call has prepared for the next call of the same shape, runs the
// ring, and counts. The engine, the SPMD module and the bench all go through here.
import type { Gpu } from '../gpu/device.ts';
import { type RankMetrics, createRankMetrics } from '../trace/counters.ts';
import type { Timeline } from '../trace/timeline.ts';
import type { TransferOptions, Transport } from '../transport/transport.ts';
import { type DeviceShards, GpuBlockAttention } from './gpu-block-attention.ts';
import { KvExchange } from './kv-exchange.ts';
import { ringAttention } from './ring-attention.ts';
import { type RingCall, type RingPlan, planRing } from './ring-plan.ts';

/** A call that is ready to run: its plan, its kernels, its buffers. */
export interface PreparedCall {
  plan: RingPlan;
  compute: GpuBlockAttention;
}

/** The ring that a call runs in. */
export interface RingLink {
  transport: Transport;
  /** Transport ranks of the context-parallel group, in ring order. */
  group: readonly number[];
  /** Counts the operations of this group, the same on every rank. */
  opSeq: number;
  transfer: TransferOptions;
}

export interface RunOptions {
  /** Undefined for a ring of one. */
  link: RingLink | undefined;
  timeline: Timeline;
  /** Told each ring step as it begins. */
  onStep?: ((step: number) => void) | undefined;
}

export class RankAttention {
  readonly #gpu: Gpu;
  #prepared: { key: string; call: PreparedCall } | undefined;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /**
   * Plans the call and makes its buffers, or takes those of the last call when nothing has changed. With `shards` the
   * inputs are the caller's buffers.
   */
  async prepare(call: RingCall, cpRank: number, cpSize: number, shards?: DeviceShards): Promise<PreparedCall> {
    const key = JSON.stringify([call, cpRank, cpSize]);
    if (!shards && this.#prepared?.key === key) return this.#prepared.call;
    const plan = planRing(call, cpRank, cpSize);
    this.close();
    this.#gpu.pool.resetPeak();
    const prepared = { plan, compute: await GpuBlockAttention.create(this.#gpu, plan, shards) };
    this.#prepared = { key: shards ? '' : key, call: prepared };
    return prepared;
  }

  /** Runs the ring over inputs that are already in place. */
  async run({ plan, compute }: PreparedCall, { link, timeline, onStep }: RunOptions): Promise<RankMetrics> {
    const before = { ...link?.transport.counters };
    const exchange = link && new KvExchange({ plan, compute, timeline, ...link });
    const startMs = performance.now();
    await ringAttention({ plan, compute, exchange, timeline, onStep });
    const ringMs = performance.now() - startMs;
    const sent = (link?.transport.counters.payloadBytesSent ?? 0) - (before.payloadBytesSent ?? 0);
    const computeMs = await compute.takeComputeMs();
    return {
      ...createRankMetrics(plan.cpRank),
      kvPayloadBytesSent: sent,
      payloadBytesSent: { forward: sent, backward: 0 },
      messagesSent: (link?.transport.counters.messagesSent ?? 0) - (before.messagesSent ?? 0),
      waits: exchange?.waits ?? 0,
      waitMs: exchange?.waitMs ?? 0,
      kvSlots: plan.kvSlots,
      peakGpuBytes: this.#gpu.pool.peakBytes,
      tileProducts: compute.tileProducts,
      computeMs,
      exposedCommMs: Math.max(0, ringMs - computeMs),
    };
  }

  /** Gives the buffers of the last call back. */
  close(): void {
    this.#prepared?.call.compute.destroy();
    this.#prepared = undefined;
  }
}

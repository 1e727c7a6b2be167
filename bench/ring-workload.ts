// One rank's side of `bench ring`: inputs made where they are needed, and four ways to run a case: the ring itself, the
// ring with communication taken out, communication alone, and the whole problem on one rank.
import { shardPositions } from '../src/attention/layout.ts';
import type { BlockAttention } from '../src/context-parallel/block-attention.ts';
import { type DeviceShards, GpuBlockAttention } from '../src/context-parallel/gpu-block-attention.ts';
import { KvExchange, RECEIVE_SLOTS } from '../src/context-parallel/kv-exchange.ts';
import type { KvSource } from '../src/context-parallel/kv-source.ts';
import { ringAttention } from '../src/context-parallel/ring-attention.ts';
import { type RingCall, type RingPlan, planRing } from '../src/context-parallel/ring-plan.ts';
import { ResultAssembly } from '../src/context-parallel/shard-tensors.ts';
import type { RankNode } from '../src/node/rank-node.ts';
import { toFloat32 } from '../src/tensor/float16.ts';
import { type RankTimeline, type Timeline, createTimeline } from '../src/trace/timeline.ts';
import { referenceTensors, uploadShards } from './seeded-tensors.ts';
import type { Verdict } from './suite.ts';
import { sampleRows, verifyRows } from './verify.ts';

/** How a case is run: see the file's header. */
export type RingMode = 'ring' | 'compute' | 'communication' | 'single';

export interface RunReply {
  /** Wall clock of this host, in ms. */
  startMs: number;
  endMs: number;
  timeline: RankTimeline | null;
}

export interface PrepareReply {
  peakGpuBytes: number;
  kvSlots: number;
  kvPayloadBytes: number;
}

export interface RunRequest {
  mode: RingMode;
  timeoutMs: number;
  trace: boolean;
}

/** A value that no attention over N(0, 1) gives: what no kernel has written stands out. */
const POISON = 1e9;

/** A plan with everything on the device that it needs. */
interface Loaded {
  plan: RingPlan;
  shards: DeviceShards;
  compute: GpuBlockAttention;
}

export class RingWorkload {
  readonly facts: PrepareReply;
  readonly #node: RankNode;
  readonly #ring: Loaded;
  /** The whole problem, on rank 0 only. */
  readonly #single: Loaded | undefined;
  readonly #ownKv: Uint8Array;

  private constructor(
    node: RankNode,
    facts: PrepareReply,
    ring: Loaded,
    single: Loaded | undefined,
    ownKv: Uint8Array,
  ) {
    this.#node = node;
    this.facts = facts;
    this.#ring = ring;
    this.#single = single;
    this.#ownKv = ownKv;
  }

  /** Makes the inputs and buffers of a case. */
  static async create(node: RankNode, call: RingCall): Promise<RingWorkload> {
    const { gpu, rank, worldSize } = node;
    gpu.pool.trim();
    gpu.pool.resetPeak();
    const ring = await load(node, planRing(call, rank, worldSize));
    const { kvSlots, kvPayloadBytes } = ring.plan;
    const facts = { peakGpuBytes: gpu.pool.peakBytes, kvSlots, kvPayloadBytes };
    const single = rank === 0 ? await load(node, planRing(call, 0, 1)) : undefined;
    return new RingWorkload(node, facts, ring, single, await ring.compute.ownKv());
  }

  /** Runs the case once. `single` runs on rank 0, while the other ranks stand still. */
  async run({ mode, timeoutMs, trace }: RunRequest, opSeq: number, signal: AbortSignal): Promise<RunReply> {
    const { rank, label } = this.#node;
    const timeline = createTimeline({ rank, label, enabled: trace, clockOffsetMs: performance.timeOrigin });
    const { plan, compute, exchange } = this.#arrange(mode, opSeq, timeline, { signal, timeoutMs });
    const startMs = performance.now();
    if (mode !== 'single' || this.#single) await ringAttention({ plan, compute, exchange, timeline });
    const endMs = performance.now();
    const { timeOrigin } = performance;
    return { startMs: startMs + timeOrigin, endMs: endMs + timeOrigin, timeline: trace ? timeline.take() : null };
  }

  /** Runs the ring over poisoned outputs and compares rows of this rank's shard with the f64 reference. */
  async verify(timeoutMs: number, opSeq: number, signal: AbortSignal): Promise<Verdict> {
    const { plan, compute } = this.#ring;
    poison(this.#node, compute);
    await this.run({ mode: 'ring', timeoutMs, trace: false }, opSeq, signal);
    const { out, lse } = await compute.readResult();
    return verifyShard(plan, out, lse);
  }

  destroy(): void {
    for (const loaded of [this.#ring, this.#single]) {
      if (!loaded) continue;
      loaded.compute.destroy();
      for (const buffer of Object.values(loaded.shards) as GPUBuffer[]) this.#node.gpu.pool.release(buffer);
    }
  }

  #arrange(
    mode: RingMode,
    opSeq: number,
    timeline: Timeline,
    transfer: { signal: AbortSignal; timeoutMs: number },
  ): { plan: RingPlan; compute: BlockAttention; exchange: KvSource | undefined } {
    const { plan, compute } = this.#ring;
    const { transport, worldSize } = this.#node;
    const group = Array.from({ length: worldSize }, (_, rank) => rank);
    const exchangeWith = (half: BlockAttention): KvSource =>
      new KvExchange({ plan, transport, group, compute: half, opSeq, timeline, transfer });
    switch (mode) {
      case 'single':
        return { ...(this.#single ?? this.#ring), exchange: undefined };
      case 'compute':
        return { plan, compute, exchange: residentKv };
      case 'communication': {
        const idle = withoutCompute(this.#ownKv);
        return { plan, compute: idle, exchange: exchangeWith(idle) };
      }
      case 'ring':
        return { plan, compute, exchange: exchangeWith(compute) };
    }
  }
}

/** Communication taken out: whatever lies in the slots is attended to, at once. */
const residentKv: KvSource = {
  start: () => undefined,
  block: async (step) => (step === 0 ? 0 : 1 + ((step - 1) % RECEIVE_SLOTS)),
  release: () => undefined,
  finish: async () => undefined,
};

/** Compute taken out: blocks arrive and go on, and nothing looks at them. */
function withoutCompute(ownKv: Uint8Array): BlockAttention {
  return { ownKv: async () => ownKv, writeKv: () => undefined, attend: async () => undefined };
}

async function load({ gpu }: RankNode, plan: RingPlan): Promise<Loaded> {
  const shards = uploadShards(gpu, plan);
  return { plan, shards, compute: await GpuBlockAttention.create(gpu, plan, shards) };
}

function poison({ gpu }: RankNode, { out, lse }: GpuBlockAttention): void {
  for (const buffer of [out, lse])
    gpu.device.queue.writeBuffer(buffer, 0, new Float32Array(buffer.size / 4).fill(POISON));
}

/** Compares rows of this rank's shard with the f64 reference: as many as that computes in a second or two. */
function verifyShard(plan: RingPlan, shardOut: Uint8Array<ArrayBuffer>, shardLse: Uint8Array<ArrayBuffer>): Verdict {
  const { call, queryShard } = plan;
  const { seqLenQ } = call.shape;
  const assembly = new ResultAssembly(call);
  assembly.add(plan, shardOut, shardLse);
  const { out, lse } = assembly.finish();
  const positions = shardPositions(queryShard);
  const ownRows = sampleRows({ ...call.shape, seqLenQ: positions.length });
  const rows = ownRows.map((row) => Math.floor(row / positions.length) * seqLenQ + positions[row % positions.length]);
  return verifyRows(call, referenceTensors(call), { out: toFloat32(out), lse: lse.data, rows });
}

// One rank's side of `bench ring`: inputs made where they are needed, and four ways to run a case: the ring itself, the
// ring with communication taken out, communication alone, and the whole problem on one rank.
import { type Shard, scatterShard, shardLength, shardPositions } from '../src/attention/layout.ts';
import type { BlockAttention } from '../src/context-parallel/block-attention.ts';
import { type DeviceShards, GpuBlockAttention } from '../src/context-parallel/gpu-block-attention.ts';
import { KvExchange, RECEIVE_SLOTS } from '../src/context-parallel/kv-exchange.ts';
import type { KvSource } from '../src/context-parallel/kv-source.ts';
import { createResult } from '../src/context-parallel/ring-driver.ts';
import { ringAttention } from '../src/context-parallel/ring-attention.ts';
import { type AttentionCall, type RingPlan, planRing } from '../src/context-parallel/ring-plan.ts';
import { BUFFER_USAGE } from '../src/gpu/webgpu-constants.ts';
import type { RankNode } from '../src/node/rank-node.ts';
import { type RankTimeline, type Timeline, createTimeline } from '../src/trace/timeline.ts';
import { INPUT_SEEDS, fillNormal } from './inputs.ts';
import { type Verdict, sampleRows, verifyRows } from './verify.ts';

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
  static async create(node: RankNode, call: AttentionCall): Promise<RingWorkload> {
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
    return verifyShard(plan, floatsOf(out), floatsOf(lse));
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

async function load(node: RankNode, plan: RingPlan): Promise<Loaded> {
  const { batch, numHeads, numKvHeads, headDimQk, headDimV } = plan.call.shape;
  const kvShard = plan.kvShards[plan.cpRank];
  const shards = {
    q: upload(node, plan.queryShard, INPUT_SEEDS.q, batch, plan.call.shape.seqLenQ, numHeads * headDimQk),
    k: upload(node, kvShard, INPUT_SEEDS.k, batch, plan.call.shape.seqLenKv, numKvHeads * headDimQk),
    v: upload(node, kvShard, INPUT_SEEDS.v, batch, plan.call.shape.seqLenKv, numKvHeads * headDimV),
  };
  return { plan, shards, compute: await GpuBlockAttention.create(node.gpu, plan, shards) };
}

/** A shard [batch, rows, inner] of a seeded tensor, on the device. */
function upload(
  { gpu }: RankNode,
  shard: Shard,
  seed: number,
  batch: number,
  seqLen: number,
  inner: number,
): GPUBuffer {
  const rows = shardLength(shard);
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_DST | BUFFER_USAGE.COPY_SRC;
  const buffer = gpu.pool.acquire({ label: 'input', byteLength: batch * rows * inner * 4, usage });
  for (let b = 0, row = 0; b < batch; b++) {
    for (const { start, length, stride } of shard) {
      const runs =
        stride === 1 ? [[start, length] as const] : Array.from({ length }, (_, i) => [start + i * stride, 1] as const);
      for (const [token, count] of runs) {
        const data = new Float32Array(count * inner);
        fillNormal(data, seed, (b * seqLen + token) * inner);
        gpu.device.queue.writeBuffer(buffer, row * inner * 4, data);
        row += count;
      }
    }
  }
  return buffer;
}

function floatsOf({ buffer, byteOffset, byteLength }: Uint8Array): Float32Array {
  return new Float32Array(buffer, byteOffset, byteLength / Float32Array.BYTES_PER_ELEMENT);
}

function poison({ gpu }: RankNode, { out, lse }: GpuBlockAttention): void {
  for (const buffer of [out, lse])
    gpu.device.queue.writeBuffer(buffer, 0, new Float32Array(buffer.size / 4).fill(POISON));
}

/** Compares rows of this rank's shard with the f64 reference: as many as that computes in a second or two. */
function verifyShard(plan: RingPlan, out: Float32Array, lse: Float32Array): Verdict {
  const { shape, options } = plan.call;
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const inputs = {
    q: normalTensor(INPUT_SEEDS.q, batch * seqLenQ * numHeads * headDimQk),
    k: normalTensor(INPUT_SEEDS.k, batch * seqLenKv * numKvHeads * headDimQk),
    v: normalTensor(INPUT_SEEDS.v, batch * seqLenKv * numKvHeads * headDimV),
  };
  const whole = createResult(plan.call);
  scatterShard(whole.out.data, out, plan.queryShard, batch, seqLenQ, numHeads * headDimV);
  scatterShard(whole.lse.data, lse, plan.queryShard, batch * numHeads, seqLenQ, 1);
  const positions = shardPositions(plan.queryShard);
  const ownRows = sampleRows({ ...shape, seqLenQ: positions.length });
  const rows = ownRows.map((row) => Math.floor(row / positions.length) * seqLenQ + positions[row % positions.length]);
  return verifyRows(inputs, { out: whole.out.data, lse: whole.lse.data }, shape, options, rows);
}

function normalTensor(seed: number, length: number): Float32Array {
  const data = new Float32Array(length);
  fillNormal(data, seed, 0);
  return data;
}

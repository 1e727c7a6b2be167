// Block attention on a WebGPU device: the shard's tensors, the KV slots, and one work list per ring step, all made
// before the call, so that a step creates nothing. One submit per step; the queue keeps them in order.
import { shardLength } from '../attention/layout.ts';
import { type BlockSchedule, countTileProducts, scheduleBlock } from '../attention/schedule.ts';
import type { Gpu } from '../gpu/device.ts';
import { FlashAttentionForward, type PreparedBlock } from '../gpu/flash-attention-forward.ts';
import { MergeBlock } from '../gpu/merge-block.ts';
import { PassTimer } from '../gpu/timestamps.ts';
import { BUFFER_USAGE } from '../gpu/webgpu-constants.ts';
import { type BlockAttention, OWN_SLOT } from './block-attention.ts';
import type { RingPlan } from './ring-plan.ts';

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** The rank's shards where they already lie on the device: q [B, rows, H, Dqk], k and v [B, rowsKv, Hkv, D], f32. */
export interface DeviceShards {
  q: GPUBuffer;
  k: GPUBuffer;
  v: GPUBuffer;
}

interface KvSlot {
  k: GPUBuffer;
  v: GPUBuffer;
}

interface PreparedStep {
  schedule: BlockSchedule;
  block: PreparedBlock;
}

export class GpuBlockAttention implements BlockAttention {
  /** out [B, rows, H, Dv] and lse [B, H, rows] of this shard, f32. */
  readonly out: GPUBuffer;
  readonly lse: GPUBuffer;
  readonly #gpu: Gpu;
  readonly #plan: RingPlan;
  readonly #attention: FlashAttentionForward;
  readonly #merge: MergeBlock;
  readonly #q: GPUBuffer;
  readonly #slots: KvSlot[];
  readonly #blockOut: GPUBuffer;
  readonly #blockLse: GPUBuffer;
  readonly #steps: PreparedStep[];
  /** Buffers that this object took from the pool and gives back. */
  readonly #owned: GPUBuffer[] = [];
  readonly #timer: PassTimer;
  #ownKvBytes: Uint8Array | undefined;
  #computeMs = 0;
  #idleSinceMs = 0;

  private constructor(
    gpu: Gpu,
    plan: RingPlan,
    shards: DeviceShards | undefined,
    attention: FlashAttentionForward,
    merge: MergeBlock,
  ) {
    this.#gpu = gpu;
    this.#plan = plan;
    this.#attention = attention;
    this.#merge = merge;
    const { batch, numHeads, numKvHeads, headDimQk, headDimV } = plan.call.shape;
    const rows = shardLength(plan.queryShard);
    const ownKvRows = shardLength(plan.kvShards[plan.cpRank]);
    const acquireKv = (kvRows: number): KvSlot => ({
      k: this.#acquire('k', batch * kvRows * numKvHeads * headDimQk),
      v: this.#acquire('v', batch * kvRows * numKvHeads * headDimV),
    });
    this.#q = shards?.q ?? this.#acquire('q', batch * rows * numHeads * headDimQk);
    this.#slots = [shards ?? acquireKv(ownKvRows)];
    while (this.#slots.length < plan.kvSlots) this.#slots.push(acquireKv(plan.maxKvRows));
    this.out = this.#acquire('out', batch * rows * numHeads * headDimV);
    this.lse = this.#acquire('lse', batch * numHeads * rows);
    const merges = plan.kvSlots > 1;
    this.#blockOut = merges ? this.#acquire('block_out', batch * rows * numHeads * headDimV) : this.out;
    this.#blockLse = merges ? this.#acquire('block_lse', batch * numHeads * rows) : this.lse;
    this.#steps = plan.steps.map((_, step) => this.#prepareStep(step));
    this.#timer = new PassTimer(gpu, plan.cpSize);
  }

  /**
   * Compiles the kernels and makes every buffer of the call. With `shards` the inputs are the caller's buffers, which
   * are only read; without, {@link writeQ} and {@link writeOwnKv} fill buffers of the pool.
   */
  static async create(gpu: Gpu, plan: RingPlan, shards?: DeviceShards): Promise<GpuBlockAttention> {
    const { headDimQk, headDimV } = plan.call.shape;
    const rows = shardLength(plan.queryShard);
    const [attention, merge] = await Promise.all([
      FlashAttentionForward.create(gpu, { headDimQk, headDimV, rows }),
      MergeBlock.create(gpu),
    ]);
    return new GpuBlockAttention(gpu, plan, shards, attention, merge);
  }

  /** Tile products of all steps, batch entries and heads. */
  get tileProducts(): number {
    const { batch, numHeads } = this.#plan.call.shape;
    const perHead = this.#steps.reduce(
      (sum, { schedule }) => sum + countTileProducts(schedule, this.#attention.tileKeys),
      0,
    );
    return batch * numHeads * perHead;
  }

  /** Copies bytes of q [B, rows, H, Dqk] to the device. */
  writeQ(byteOffset: number, bytes: Uint8Array): void {
    write(this.#gpu, this.#q, byteOffset, bytes);
  }

  /** Copies the own KV block [K | V] to the device, and keeps it to send: the bytes must not change during the call. */
  writeOwnKv(bytes: Uint8Array): void {
    this.#ownKvBytes = bytes;
    this.writeKv(0, OWN_SLOT, 0, bytes);
  }

  async ownKv(): Promise<Uint8Array> {
    if (this.#ownKvBytes) return this.#ownKvBytes;
    const { k, v } = this.#slots[OWN_SLOT];
    const kBytes = this.#kBytes(0);
    return this.#gpu.read([
      { buffer: k, byteLength: kBytes },
      { buffer: v, byteLength: this.#plan.steps[0].blockBytes - kBytes },
    ]);
  }

  writeKv(step: number, slot: number, byteOffset: number, bytes: Uint8Array): void {
    const { k, v } = this.#slots[slot];
    const kBytes = this.#kBytes(step);
    const kPart = bytes.subarray(0, Math.max(0, kBytes - byteOffset));
    const vPart = bytes.subarray(kPart.length);
    if (kPart.length > 0) write(this.#gpu, k, byteOffset, kPart);
    if (vPart.length > 0) write(this.#gpu, v, byteOffset + kPart.length - kBytes, vPart);
  }

  async attend(step: number, slot: number): Promise<void> {
    const { schedule, block } = this.#steps[step];
    if (schedule.tiles.length === 0) return;
    const { device } = this.#gpu;
    const encoder = device.createCommandEncoder({ label: `ring step ${step}` });
    const [out, lse] = step === 0 ? [this.out, this.lse] : [this.#blockOut, this.#blockLse];
    const { k, v } = this.#slots[slot];
    const pass = encoder.beginComputePass({ label: `attend step ${step}`, ...this.#timer.time(`step ${step}`) });
    this.#attention.encode(pass, block, { q: this.#q, k, v, out, lse });
    if (step > 0) this.#merge.encode(pass, block, { out: this.out, lse: this.lse, blockOut: out, blockLse: lse });
    pass.end();
    const startMs = Math.max(performance.now(), this.#idleSinceMs);
    device.queue.submit([encoder.finish()]);
    await this.#gpu.submittedWorkDone();
    this.#idleSinceMs = performance.now();
    this.#computeMs += this.#idleSinceMs - startMs;
  }

  /**
   * Time that the device computed since the last call of this, in ms: by its own timestamps where it has them, else from
   * submission to completion.
   */
  async takeComputeMs(): Promise<number> {
    const timings = await this.#timer.read();
    const wallMs = this.#computeMs;
    this.#computeMs = 0;
    return this.#timer.isSupported ? timings.reduce((sum, { durationMs }) => sum + durationMs, 0) : wallMs;
  }

  /** The bytes of out and lse, one after the other, in host memory. */
  async readResult(): Promise<{ out: Uint8Array; lse: Uint8Array }> {
    const { batch, numHeads, headDimV } = this.#plan.call.shape;
    const rows = shardLength(this.#plan.queryShard);
    const outBytes = batch * rows * numHeads * headDimV * F32_BYTES;
    const lseBytes = batch * numHeads * rows * F32_BYTES;
    const bytes = await this.#gpu.read([
      { buffer: this.out, byteLength: outBytes },
      { buffer: this.lse, byteLength: lseBytes },
    ]);
    return { out: bytes.subarray(0, outBytes), lse: bytes.subarray(outBytes) };
  }

  /** Gives every buffer back to the pool. The caller's shards stay. */
  destroy(): void {
    for (const { block } of this.#steps) block.destroy();
    this.#timer.destroy();
    for (const buffer of this.#owned.splice(0)) this.#gpu.pool.release(buffer);
  }

  #prepareStep(step: number): PreparedStep {
    const plan = this.#plan;
    const { batch, numHeads, numKvHeads } = plan.call.shape;
    const { maskType, softmaxScale } = plan.call.options;
    const kvShard = plan.kvShards[plan.steps[step].owner];
    const schedule = scheduleBlock(plan.queryShard, kvShard, maskType, this.#attention.tileRows, step === 0);
    const rowsQ = shardLength(plan.queryShard);
    const rowsKv = shardLength(kvShard);
    const block = this.#attention.prepareBlock({ schedule, batch, numHeads, numKvHeads, rowsQ, rowsKv, softmaxScale });
    return { schedule, block };
  }

  /** Bytes of K at the front of the block of `step`. */
  #kBytes(step: number): number {
    const { headDimQk, headDimV } = this.#plan.call.shape;
    return (this.#plan.steps[step].blockBytes / (headDimQk + headDimV)) * headDimQk;
  }

  #acquire(label: string, numElements: number): GPUBuffer {
    const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST;
    const buffer = this.#gpu.pool.acquire({ label, byteLength: Math.max(1, numElements) * F32_BYTES, usage });
    this.#owned.push(buffer);
    return buffer;
  }
}

function write(gpu: Gpu, buffer: GPUBuffer, byteOffset: number, bytes: Uint8Array): void {
  gpu.device.queue.writeBuffer(buffer, byteOffset, bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

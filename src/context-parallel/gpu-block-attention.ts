// Block attention on a WebGPU device: the shard's tensors, the KV slots, and one work list per ring step, all made
// before the call, so that a step creates nothing. One submit per step; the queue keeps them in order.
import { shardLength } from '../attention/layout.ts';
import { keyInterval } from '../attention/mask.ts';
import { type BlockSchedule, countTileProducts, scheduleQueries } from '../attention/schedule.ts';
import { ConvertElements } from '../gpu/convert-elements.ts';
import type { Gpu } from '../gpu/device.ts';
import { createForwardAttention, type ForwardAttention } from '../gpu/forward-attention.ts';
import { acquireHeads } from '../gpu/heads-buffer.ts';
import { featuresOf } from '../gpu/kernel-features.ts';
import { MergeBlock } from '../gpu/merge-block.ts';
import { PassTimer } from '../gpu/timestamps.ts';
import { BYTES_PER_ELEMENT } from '../tensor/tensor.ts';
import { type BlockAttention, OWN_SLOT } from './block-attention.ts';
import { acquireStorage, convertElements, writeBytes } from './device-buffers.ts';
import { queryPadding, resultDType, type RingPlan, shardBytes, type ShardBytes, stepBlocks } from './ring-plan.ts';

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** The rank's shards where they already lie on the device: q [B, rows, H, Dqk], k and v [B, rowsKv, Hkv, D]. */
export interface DeviceShards {
  q: GPUBuffer;
  k: GPUBuffer;
  v: GPUBuffer;
}

export interface KvSlot {
  k: GPUBuffer;
  v: GPUBuffer;
}

interface PreparedStep {
  schedule: BlockSchedule;
  block: ReturnType<ForwardAttention['prepareBlock']>;
}

interface Kernels {
  attention: ForwardAttention;
  merge: MergeBlock;
  /** Absent when out is read back as it is computed, in f32. */
  convert: ConvertElements | undefined;
}

export class GpuBlockAttention implements BlockAttention {
  readonly plan: RingPlan;
  /** q [B, rows, H, Dqk] of this shard, in the storage dtype. */
  readonly q: GPUBuffer;
  /** out [B, rows, H, Dv] and lse [B, H, rows] of this shard, f32; with max logit the largest scores follow lse. */
  readonly out: GPUBuffer;
  readonly lse: GPUBuffer;
  /** This shard's rows of the bias, f32; undefined without one. */
  readonly bias: GPUBuffer | undefined;
  /** The uniform `Heads` of the call. */
  readonly heads: GPUBuffer;
  readonly #gpu: Gpu;
  readonly #kernels: Kernels;
  readonly #bytes: ShardBytes;
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

  private constructor(gpu: Gpu, plan: RingPlan, shards: DeviceShards | undefined, kernels: Kernels) {
    this.#gpu = gpu;
    this.plan = plan;
    this.#kernels = kernels;
    this.#bytes = shardBytes(plan);
    const { batch, numHeads, headDimV } = plan.call.shape;
    const outBytes = batch * shardLength(plan.queryShard) * numHeads * headDimV * F32_BYTES;
    this.q = shards?.q ?? this.#acquire('q', this.#bytes.q);
    this.#slots = [shards ?? this.#acquireKv(shardLength(plan.kvShards[plan.cpRank]))];
    while (this.#slots.length < plan.kvSlots) this.#slots.push(this.#acquireKv(plan.maxKvRows));
    this.out = this.#acquire('out', outBytes);
    this.lse = this.#acquire('lse', this.#bytes.lse);
    this.bias = plan.call.bias ? this.#acquire('bias', this.#bytes.bias) : undefined;
    this.heads = acquireHeads(gpu);
    this.#owned.push(this.heads);
    const merges = plan.kvSlots > 1;
    this.#blockOut = merges ? this.#acquire('block_out', outBytes) : this.out;
    this.#blockLse = merges ? this.#acquire('block_lse', this.#bytes.lse) : this.lse;
    this.#steps = plan.steps.map((_, step) => this.#prepareStep(step));
    this.#timer = new PassTimer(gpu, plan.cpSize);
  }

  /**
   * Compiles the kernels and makes every buffer of the call. With `shards` the inputs are the caller's buffers, which
   * are only read; without, {@link writeQ} and {@link writeOwnKv} fill buffers of the pool.
   */
  static async create(gpu: Gpu, plan: RingPlan, shards?: DeviceShards): Promise<GpuBlockAttention> {
    const { call } = plan;
    const { headDimQk, headDimV, numHeads, numKvHeads } = call.shape;
    const dtype = resultDType(call);
    const options = {
      headDimQk,
      headDimV,
      features: featuresOf(call),
      rowsQ: shardLength(plan.queryShard),
      rowsKv: plan.maxKvRows,
      groupSize: numHeads / numKvHeads,
    };
    const [attention, merge, convert] = await Promise.all([
      createForwardAttention(gpu, options),
      MergeBlock.create(gpu, { maxLogit: call.options.maxLogit }),
      dtype === 'f32' ? undefined : ConvertElements.create(gpu, { dtype }),
    ]);
    return new GpuBlockAttention(gpu, plan, shards, { attention, merge, convert });
  }

  /** Tile products of all steps and heads. */
  get tileProducts(): number {
    const perHead = this.#steps.reduce(
      (sum, { schedule }) => sum + countTileProducts(schedule, this.#kernels.attention.tileKeys),
      0,
    );
    return this.plan.call.shape.numHeads * perHead;
  }

  /** k and v of the rank's own KV shard, in the storage dtype. */
  get ownKvSlot(): KvSlot {
    return this.#slots[OWN_SLOT];
  }

  /** Copies bytes of q [B, rows, H, Dqk] to the device. */
  writeQ(byteOffset: number, bytes: Uint8Array): void {
    writeBytes(this.#gpu, this.q, byteOffset, bytes);
  }

  /** Copies bytes of this shard's rows of the bias, f32, to the device. */
  writeBias(byteOffset: number, bytes: Uint8Array): void {
    writeBytes(this.#gpu, this.bias!, byteOffset, bytes);
  }

  /** Sets the slopes and sinks of the call, as heads-buffer.ts encodes them. Without, they are 0. */
  writeHeads(byteOffset: number, bytes: Uint8Array): void {
    writeBytes(this.#gpu, this.heads, byteOffset, bytes);
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
      { buffer: v, byteLength: this.plan.steps[0].blockBytes - kBytes },
    ]);
  }

  writeKv(step: number, slot: number, byteOffset: number, bytes: Uint8Array): void {
    const { k, v } = this.#slots[slot];
    const kBytes = this.#kBytes(step);
    const kPart = bytes.subarray(0, Math.max(0, kBytes - byteOffset));
    const vPart = bytes.subarray(kPart.length);
    if (kPart.length > 0) writeBytes(this.#gpu, k, byteOffset, kPart);
    if (vPart.length > 0) writeBytes(this.#gpu, v, byteOffset + kPart.length - kBytes, vPart);
  }

  async attend(step: number, slot: number): Promise<void> {
    const { schedule, block } = this.#steps[step];
    if (schedule.tiles.length === 0) return;
    const { device } = this.#gpu;
    const { attention, merge } = this.#kernels;
    const encoder = device.createCommandEncoder({ label: `ring step ${step}` });
    const [out, lse] = step === 0 ? [this.out, this.lse] : [this.#blockOut, this.#blockLse];
    const { k, v } = this.#slots[slot];
    const pass = encoder.beginComputePass({ label: `attend step ${step}`, ...this.#timer.time(`step ${step}`) });
    attention.encode(pass, block, { q: this.q, k, v, out, lse, ...(this.bias && { bias: this.bias }) });
    if (step > 0) merge.encode(pass, block, { out: this.out, lse: this.lse, blockOut: out, blockLse: lse });
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

  /** The bytes of out, in the dtype of results, and of lse (and the largest scores), in host memory. */
  async readResult(): Promise<{ out: Uint8Array<ArrayBuffer>; lse: Uint8Array<ArrayBuffer> }> {
    const out = this.#convertOut();
    const bytes = await this.#gpu.read([
      { buffer: out, byteLength: this.#bytes.out },
      { buffer: this.lse, byteLength: this.#bytes.lse },
    ]);
    if (out !== this.out) this.#gpu.pool.release(out);
    return { out: bytes.subarray(0, this.#bytes.out), lse: bytes.slice(this.#bytes.out) };
  }

  /** Gives every buffer back to the pool. The caller's shards stay. */
  destroy(): void {
    for (const { block } of this.#steps) block.destroy();
    this.#timer.destroy();
    for (const buffer of this.#owned.splice(0)) this.#gpu.pool.release(buffer);
  }

  /** out in the dtype of results: itself, or a copy in a buffer of the pool that the caller gives back. */
  #convertOut(): GPUBuffer {
    const { convert } = this.#kernels;
    if (!convert || this.#bytes.out === 0) return this.out;
    const target = acquireStorage(this.#gpu, 'out', this.#bytes.out);
    convertElements(this.#gpu, convert, { source: this.out, target, numElements: this.#bytes.out / 2 });
    return target;
  }

  #prepareStep(step: number): PreparedStep {
    const { plan } = this;
    const { shape, options, lengths, bias } = plan.call;
    const schedule = scheduleQueries(stepBlocks(plan, step), keyInterval(options.maskType, options.window), {
      tileRows: this.#kernels.attention.tileRows,
      everyRow: step === 0,
      padding: step === 0 ? queryPadding(plan) : [],
    });
    const block = this.#kernels.attention.prepareBlock({
      schedule,
      shape,
      options,
      rowsQ: shardLength(plan.queryShard),
      rowsKv: shardLength(plan.kvShards[plan.steps[step].owner]),
      heads: this.heads,
      packed: lengths?.packed ?? false,
      bias,
      countsSink: step === 0 && options.sink !== 'none',
    });
    return { schedule, block };
  }

  /** Bytes of K at the front of the block of `step`. */
  #kBytes(step: number): number {
    const { headDimQk, headDimV } = this.plan.call.shape;
    return (this.plan.steps[step].blockBytes / (headDimQk + headDimV)) * headDimQk;
  }

  #acquireKv(rows: number): KvSlot {
    const { batch, numKvHeads, headDimQk, headDimV } = this.plan.call.shape;
    const elementBytes = BYTES_PER_ELEMENT[this.plan.call.storage];
    const rowBytes = batch * rows * numKvHeads * elementBytes;
    return { k: this.#acquire('k', rowBytes * headDimQk), v: this.#acquire('v', rowBytes * headDimV) };
  }

  #acquire(label: string, byteLength: number): GPUBuffer {
    const buffer = acquireStorage(this.#gpu, label, byteLength);
    this.#owned.push(buffer);
    return buffer;
  }
}

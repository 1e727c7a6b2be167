// The backward of a rank's block on a WebGPU device, from what its forward left there: q, k, v, out and lse. dQ is written by
// tiles of queries, dK and dV by tiles of keys; no atomics, so that gradients repeat bit for bit.
import { shardLength } from '../attention/layout.ts';
import { keyInterval } from '../attention/mask.ts';
import { scheduleKeys, scheduleQueries } from '../attention/schedule.ts';
import { AttentionDelta } from '../gpu/attention-delta.ts';
import { BiasGradient } from '../gpu/bias-gradient.ts';
import { ConvertElements } from '../gpu/convert-elements.ts';
import type { Gpu } from '../gpu/device.ts';
import { FlashAttentionBackward } from '../gpu/flash-attention-backward.ts';
import { featuresOf } from '../gpu/kernel-features.ts';
import type { BlockRequest, PreparedBlock } from '../gpu/prepared-block.ts';
import { SinkGradient } from '../gpu/sink-gradient.ts';
import { BYTES_PER_ELEMENT } from '../tensor/tensor.ts';
import { acquireStorage, convertElements, writeBytes } from './device-buffers.ts';
import type { GpuBlockAttention } from './gpu-block-attention.ts';
import { kvPadding, queryPadding, resultDType, shardBytes, stepBlocks } from './ring-plan.ts';

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

interface Kernels {
  delta: AttentionDelta;
  attention: FlashAttentionBackward;
  biasGradient: BiasGradient | undefined;
  sinkGradient: SinkGradient | undefined;
  convert: ConvertElements | undefined;
}

/** Gradients of a rank's shards: dq, dk and dv in the dtype of results, the others f32. */
export interface ShardGradients {
  dq: Uint8Array<ArrayBuffer>;
  /** dK [B, rows, Hkv, Dqk], then dV [B, rows, Hkv, Dv]: in the order in which KV travels. */
  dkv: Uint8Array<ArrayBuffer>;
  dbias: Uint8Array<ArrayBuffer> | undefined;
  dsink: Uint8Array<ArrayBuffer> | undefined;
}

export class GpuBlockBackward {
  /** dq [B, rows, H, Dqk] of this shard, f32. */
  readonly dq: GPUBuffer;
  /** dK [B, rows, Hkv, Dqk], then dV [B, rows, Hkv, Dv], of this shard, f32. */
  readonly dkv: GPUBuffer;
  readonly #gpu: Gpu;
  readonly #forward: GpuBlockAttention;
  readonly #kernels: Kernels;
  readonly #queries: PreparedBlock;
  readonly #keys: PreparedBlock;
  readonly #biasTiles: PreparedBlock | undefined;
  readonly #dout: GPUBuffer;
  readonly #rowStats: GPUBuffer;
  readonly #dbias: GPUBuffer | undefined;
  readonly #dsink: GPUBuffer | undefined;
  readonly #owned: GPUBuffer[] = [];

  private constructor(gpu: Gpu, forward: GpuBlockAttention, kernels: Kernels) {
    this.#gpu = gpu;
    this.#forward = forward;
    this.#kernels = kernels;
    const { plan } = forward;
    const { batch, numHeads, numKvHeads, headDimQk, headDimV } = plan.call.shape;
    const rowsQ = batch * numHeads * shardLength(plan.queryShard);
    const rowsKv = batch * numKvHeads * shardLength(plan.kvShards[plan.cpRank]);
    this.#dout = this.#acquire('dout', rowsQ * headDimV * BYTES_PER_ELEMENT[plan.call.storage]);
    this.#rowStats = this.#acquire('row_stats', rowsQ * 2 * F32_BYTES);
    this.dq = this.#acquire('dq', rowsQ * headDimQk * F32_BYTES);
    this.dkv = this.#acquire('dkv', rowsKv * (headDimQk + headDimV) * F32_BYTES);
    this.#dbias = kernels.biasGradient && this.#acquire('dbias', shardBytes(plan).bias);
    this.#dsink = kernels.sinkGradient && this.#acquire('dsink', numHeads * F32_BYTES);
    const { queryTileRows, keyTileRows } = kernels.attention;
    this.#queries = kernels.attention.prepareQueries(this.#request('queries', queryTileRows));
    this.#keys = kernels.attention.prepareKeys(this.#request('keys', keyTileRows));
    const { biasGradient } = kernels;
    this.#biasTiles = biasGradient?.prepareBlock(this.#request('queries', biasGradient.tileRows));
  }

  /** Compiles the kernels and takes the buffers for the backward of the rank's own block, after its forward has run. */
  static async create(gpu: Gpu, forward: GpuBlockAttention): Promise<GpuBlockBackward> {
    const { call, queryShard, kvShards, cpRank } = forward.plan;
    const dtype = resultDType(call);
    const { headDimQk, headDimV } = call.shape;
    const features = featuresOf(call);
    const dims = { headDimQk, headDimV, features };
    const rows = { rowsQ: shardLength(queryShard), rowsKv: shardLength(kvShards[cpRank]) };
    const [delta, attention, biasGradient, sinkGradient, convert] = await Promise.all([
      AttentionDelta.create(gpu, { features }),
      FlashAttentionBackward.create(gpu, { ...dims, ...rows }),
      call.bias ? BiasGradient.create(gpu, dims) : undefined,
      call.options.sink === 'learnable' ? SinkGradient.create(gpu) : undefined,
      dtype === 'f32' ? undefined : ConvertElements.create(gpu, { dtype }),
    ]);
    return new GpuBlockBackward(gpu, forward, { delta, attention, biasGradient, sinkGradient, convert });
  }

  /** Copies dout [B, rows, H, Dv], in the storage dtype, to the device. */
  writeDout(bytes: Uint8Array<ArrayBuffer>): void {
    writeBytes(this.#gpu, this.#dout, 0, bytes);
  }

  /** Computes the gradients of the dout that was written; resolves when the device has finished. */
  async compute(): Promise<void> {
    const { device } = this.#gpu;
    const encoder = device.createCommandEncoder({ label: 'backward' });
    // Only the pairs of the block are added to.
    if (this.#dbias) encoder.clearBuffer(this.#dbias);
    const pass = encoder.beginComputePass({ label: 'backward' });
    this.#encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await this.#gpu.submittedWorkDone();
  }

  /** The gradients in host memory. */
  async readGradients(): Promise<ShardGradients> {
    const { call } = this.#forward.plan;
    const bytes = shardBytes(this.#forward.plan);
    const elementBytes = BYTES_PER_ELEMENT[resultDType(call)];
    const [dqElements, dkvElements] = [this.#numElements('q'), this.#numElements('kv')];
    const dq = this.#convert(this.dq, dqElements);
    const dkv = this.#convert(this.dkv, dkvElements);
    const parts = [
      { buffer: dq, byteLength: dqElements * elementBytes },
      { buffer: dkv, byteLength: dkvElements * elementBytes },
      { buffer: this.#dbias ?? dq, byteLength: bytes.bias },
      { buffer: this.#dsink ?? dq, byteLength: this.#dsink ? call.shape.numHeads * F32_BYTES : 0 },
    ];
    const all = await this.#gpu.read(parts);
    for (const buffer of [dq, dkv]) if (!this.#owned.includes(buffer)) this.#gpu.pool.release(buffer);
    let end = 0;
    const [dqBytes, dkvBytes, dbias, dsink] = parts.map(({ byteLength }) => all.slice(end, (end += byteLength)));
    return { dq: dqBytes, dkv: dkvBytes, dbias: this.#dbias && dbias, dsink: this.#dsink && dsink };
  }

  /** Gives every buffer back to the pool; those of the forward stay. */
  destroy(): void {
    for (const block of [this.#queries, this.#keys, this.#biasTiles]) block?.destroy();
    for (const buffer of this.#owned.splice(0)) this.#gpu.pool.release(buffer);
  }

  #encode(pass: GPUComputePassEncoder): void {
    const { delta, attention, biasGradient, sinkGradient } = this.#kernels;
    const { q, out, lse, bias, ownKvSlot } = this.#forward;
    const [dout, rowStats] = [this.#dout, this.#rowStats];
    const tensors = { q, ...ownKvSlot, dout, rowStats, ...(bias && { bias }) };
    delta.encode(pass, this.#queries, { out, dout, lse, rowStats });
    attention.encodeQueryGradients(pass, this.#queries, { ...tensors, dq: this.dq });
    attention.encodeKeyGradients(pass, this.#keys, { ...tensors, dkv: this.dkv });
    if (biasGradient) biasGradient.encode(pass, this.#biasTiles!, { ...tensors, bias: bias!, dbias: this.#dbias! });
    if (sinkGradient) sinkGradient.encode(pass, this.#queries, { rowStats, dsink: this.#dsink! });
  }

  /** A gradient in the dtype of results: itself, or a copy in a buffer of the pool that the caller gives back. */
  #convert(source: GPUBuffer, numElements: number): GPUBuffer {
    const { convert } = this.#kernels;
    if (!convert || numElements === 0) return source;
    const target = acquireStorage(this.#gpu, 'gradient', numElements * 2);
    convertElements(this.#gpu, convert, { source, target, numElements });
    return target;
  }

  #numElements(tensor: 'q' | 'kv'): number {
    const { plan } = this.#forward;
    return shardBytes(plan)[tensor] / BYTES_PER_ELEMENT[plan.call.storage];
  }

  #request(side: 'queries' | 'keys', tileRows: number): BlockRequest {
    const { plan, heads } = this.#forward;
    const { shape, options, lengths, bias } = plan.call;
    const [list, padding] =
      side === 'queries' ? [scheduleQueries, queryPadding(plan)] : ([scheduleKeys, kvPadding(plan)] as const);
    const interval = keyInterval(options.maskType, options.window);
    return {
      schedule: list(stepBlocks(plan, 0), interval, { tileRows, everyRow: true, padding }),
      shape,
      options,
      rowsQ: shardLength(plan.queryShard),
      rowsKv: shardLength(plan.kvShards[plan.cpRank]),
      heads,
      packed: lengths?.packed ?? false,
      bias,
    };
  }

  #acquire(label: string, byteLength: number): GPUBuffer {
    const buffer = acquireStorage(this.#gpu, label, byteLength);
    this.#owned.push(buffer);
    return buffer;
  }
}

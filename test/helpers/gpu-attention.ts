// Runs the forward and merge kernels over shards, one KV block after another as a ring does, on poisoned buffers, and
// compares the result with the f64 reference.
import { gatherShard, shardLength } from '../../src/attention/layout.ts';
import { keyInterval } from '../../src/attention/mask.ts';
import { scheduleQueries } from '../../src/attention/schedule.ts';
import { listPadding, pairShards } from '../../src/attention/sequences.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { createForwardAttention, type ForwardAttention } from '../../src/gpu/forward-attention.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import { MergeBlock } from '../../src/gpu/merge-block.ts';
import { BUFFER_USAGE } from '../../src/gpu/webgpu-constants.ts';
import type { TensorData } from '../../src/tensor/tensor.ts';
import {
  createInputs,
  type GpuCase,
  type GpuInputs,
  referenceShard,
  resolveCase,
  type ShardResult,
} from './gpu-case.ts';
import { type Closeness, expectClose, TOLERANCE } from './tolerance.ts';

export { createShape } from './gpu-case.ts';

/** A value that no kernel computes: what a test must not find in a result. */
export const POISON = 12345;

/** The kernel of a case. */
export function createKernel(gpu: Gpu, testCase: GpuCase): Promise<ForwardAttention> {
  const { shape, variant, dtype = 'f32', bias, alibi = false } = testCase;
  const { options, rowsQ } = resolveCase(testCase);
  const { headDimQk, headDimV } = shape;
  const groupSize = shape.numHeads / shape.numKvHeads;
  const features = {
    dtype,
    softcap: options.softcap > 0,
    alibi,
    bias: bias !== undefined,
    dropout: options.dropout > 0,
    maxLogit: options.maxLogit,
  };
  return createForwardAttention(gpu, {
    headDimQk,
    headDimV,
    features,
    rowsQ,
    rowsKv: shape.seqLenKv,
    groupSize,
    variant,
  });
}

/** Buffers of one run, all given back at its end. */
class RunBuffers {
  readonly #gpu: Gpu;
  readonly #held: GPUBuffer[] = [];

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  upload(label: string, data: TensorData): GPUBuffer {
    const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST;
    const buffer = this.#gpu.pool.acquire({ label, byteLength: Math.max(4, data.byteLength), usage });
    this.#held.push(buffer);
    this.#gpu.device.queue.writeBuffer(buffer, 0, data.buffer, data.byteOffset, data.byteLength);
    return buffer;
  }

  poisoned(label: string, numElements: number): GPUBuffer {
    return this.upload(label, new Float32Array(numElements).fill(POISON));
  }

  keep(buffer: GPUBuffer): GPUBuffer {
    this.#held.push(buffer);
    return buffer;
  }

  release(): void {
    for (const buffer of this.#held.splice(0)) this.#gpu.pool.release(buffer);
  }
}

/** Computes a case on the GPU. */
export async function runAttention(gpu: Gpu, testCase: GpuCase, inputs: GpuInputs): Promise<ShardResult> {
  const { shape, lengths, bias = null, alibi } = testCase;
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenQ, seqLenKv } = shape;
  const { options, sequences, query, kvShards, rowsQ } = resolveCase(testCase);
  const [attention, merge] = await Promise.all([
    createKernel(gpu, testCase),
    MergeBlock.create(gpu, { maxLogit: options.maxLogit }),
  ]);
  const buffers = new RunBuffers(gpu);
  const heads = buffers.keep(
    acquireHeads(gpu, {
      ...(alibi && { alibiSlopes: inputs.alibiSlopes }),
      ...(options.sink === 'learnable' && { sink: inputs.sink }),
    }),
  );
  const q = buffers.upload('q', gatherShard(inputs.q.data, query, batch, seqLenQ, numHeads * headDimQk));
  const biasRows = bias && {
    bias: buffers.upload('bias', gatherShard(inputs.bias, query, bias.batch * bias.heads, seqLenQ, seqLenKv)),
  };
  const [outElements, rows] = [batch * rowsQ * numHeads * headDimV, batch * numHeads * rowsQ];
  const lseElements = rows * (options.maxLogit ? 2 : 1);
  const [out, lse] = [buffers.poisoned('out', outElements), buffers.poisoned('lse', lseElements)];
  const [blockOut, blockLse] = [buffers.poisoned('block-out', outElements), buffers.poisoned('block-lse', lseElements)];
  const spans = (entry: number) =>
    sequences.filter((one) => one.batch === entry).map(({ startQ, lenQ }) => [startQ, lenQ] as const);
  for (const [step, kv] of kvShards.entries()) {
    const k = buffers.upload('k', gatherShard(inputs.k.data, kv, batch, seqLenKv, numKvHeads * headDimQk));
    const v = buffers.upload('v', gatherShard(inputs.v.data, kv, batch, seqLenKv, numKvHeads * headDimV));
    const schedule = scheduleQueries(pairShards(query, kv, sequences), keyInterval(options.maskType, options.window), {
      tileRows: attention.tileRows,
      everyRow: step === 0,
      padding: step === 0 ? listPadding(query, batch, spans) : [],
    });
    const packed = lengths?.packed ?? false;
    const countsSink = step === 0 && options.sink !== 'none';
    const rowsKv = shardLength(kv);
    const block = attention.prepareBlock({ schedule, shape, options, rowsQ, rowsKv, heads, packed, bias, countsSink });
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    const [stepOut, stepLse] = step === 0 ? [out, lse] : [blockOut, blockLse];
    attention.encode(pass, block, { q, k, v, out: stepOut, lse: stepLse, ...biasRows });
    if (step > 0) merge.encode(pass, block, { out, lse, blockOut, blockLse });
    pass.end();
    gpu.device.queue.submit([encoder.finish()]);
    block.destroy();
  }
  const bytes = await gpu.read([
    { buffer: out, byteLength: 4 * outElements },
    { buffer: lse, byteLength: 4 * lseElements },
  ]);
  buffers.release();
  const values = new Float32Array(bytes.buffer);
  const lseEnd = outElements + rows;
  return {
    out: values.subarray(0, outElements),
    lse: values.subarray(outElements, lseEnd),
    maxLogit: values.subarray(lseEnd),
  };
}

/** Runs a case and compares it with the reference. */
export async function checkAttention(
  gpu: Gpu,
  testCase: GpuCase,
  inputs = createInputs(testCase),
  tolerance: (typeof TOLERANCE)['f32' | 'largeScores'] = TOLERANCE.f32,
): Promise<{ out: Closeness; lse: Closeness }> {
  const { batch, numHeads, headDimV } = testCase.shape;
  const got = await runAttention(gpu, testCase, inputs);
  const expected = referenceShard(testCase, inputs);
  const rows = expected.lse.length / (batch * numHeads);
  expectClose(got.maxLogit, expected.maxLogit, tolerance.lse, [batch, numHeads, rows]);
  return {
    out: expectClose(got.out, expected.out, tolerance.out, [batch, rows, numHeads, headDimV]),
    lse: expectClose(got.lse, expected.lse, tolerance.lse, [batch, numHeads, rows]),
  };
}

// Runs the attention and merge kernels over shards, one KV block after another as a ring does, on poisoned buffers.
import { gatherShard, type Shard, shardLength } from '../../src/attention/layout.ts';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { referenceForward } from '../../src/attention/reference.ts';
import { scheduleBlock } from '../../src/attention/schedule.ts';
import type { AttentionOptions, AttentionShape, MaskType } from '../../src/attention/shape.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import type { ForwardVariant } from '../../src/gpu/kernel-choice.ts';
import { MergeBlock } from '../../src/gpu/merge-block.ts';
import { acquireTensor, type GpuTensor, readTensor, uploadTensor, writeTensor } from '../../src/gpu/tensor.ts';
import { seededNormal } from './seeded.ts';
import { type Closeness, expectClose, TOLERANCE } from './tolerance.ts';

/** A value that no kernel computes: what a test must not find in a result. */
export const POISON = 12345;

export interface AttentionCase {
  shape: AttentionShape;
  maskType: MaskType;
  variant: ForwardVariant;
  /** Tokens of the query rank; default all. */
  query?: Shard;
  /** Tokens of each KV block, in the order in which they arrive; default one block of all. */
  kv?: readonly Shard[];
}

export interface AttentionInputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

/** out [B, rowsQ, H, Dv] and lse [B, H, rowsQ] of the query shard. */
export interface ShardResult {
  out: Float32Array;
  lse: Float32Array;
}

export function createShape(sizes: Partial<AttentionShape> & { headDimQk: number }): AttentionShape {
  const { seqLenQ = 64, numHeads = 2, headDimQk } = sizes;
  return {
    batch: 1,
    seqLenQ,
    seqLenKv: seqLenQ,
    numHeads,
    numKvHeads: numHeads,
    headDimV: headDimQk,
    ...sizes,
  };
}

export function createInputs(shape: AttentionShape, seed = 1): AttentionInputs {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  return {
    q: seededNormal(batch * seqLenQ * numHeads * headDimQk, seed),
    k: seededNormal(batch * seqLenKv * numKvHeads * headDimQk, seed + 1),
    v: seededNormal(batch * seqLenKv * numKvHeads * headDimV, seed + 2),
  };
}

function optionsOf({ shape, maskType }: AttentionCase): AttentionOptions {
  return { maskType, softmaxScale: 1 / Math.sqrt(shape.headDimQk) };
}

/** Computes a case on the GPU. */
export async function runAttention(gpu: Gpu, testCase: AttentionCase, inputs: AttentionInputs): Promise<ShardResult> {
  const { shape, maskType, variant } = testCase;
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenQ, seqLenKv } = shape;
  const query = testCase.query ?? [{ start: 0, length: seqLenQ, stride: 1 }];
  const kvShards = testCase.kv ?? [[{ start: 0, length: seqLenKv, stride: 1 }]];
  const rowsQ = shardLength(query);
  const [attention, merge] = await Promise.all([
    FlashAttentionForward.create(gpu, { headDimQk, headDimV, variant }),
    MergeBlock.create(gpu),
  ]);
  const held: GpuTensor[] = [];
  const upload = (label: string, shapeOf: number[], data: Float32Array): GpuTensor => {
    const tensor = uploadTensor(gpu, label, shapeOf, data);
    held.push(tensor);
    return tensor;
  };
  const poisoned = (label: string, shapeOf: number[]): GpuTensor => {
    const tensor = acquireTensor(gpu.pool, label, shapeOf);
    writeTensor(gpu, tensor, new Float32Array(tensor.size / 4).fill(POISON));
    held.push(tensor);
    return tensor;
  };

  const q = upload(
    'q',
    [batch, rowsQ, numHeads, headDimQk],
    gatherShard(inputs.q, query, batch, seqLenQ, numHeads * headDimQk),
  );
  const out = poisoned('out', [batch, rowsQ, numHeads, headDimV]);
  const lse = poisoned('lse', [batch, numHeads, rowsQ]);
  const blockOut = poisoned('block-out', [batch, rowsQ, numHeads, headDimV]);
  const blockLse = poisoned('block-lse', [batch, numHeads, rowsQ]);
  for (const [step, kv] of kvShards.entries()) {
    const rowsKv = shardLength(kv);
    const k = upload(
      'k',
      [batch, rowsKv, numKvHeads, headDimQk],
      gatherShard(inputs.k, kv, batch, seqLenKv, numKvHeads * headDimQk),
    );
    const v = upload(
      'v',
      [batch, rowsKv, numKvHeads, headDimV],
      gatherShard(inputs.v, kv, batch, seqLenKv, numKvHeads * headDimV),
    );
    const block = attention.prepareBlock({
      schedule: scheduleBlock(query, kv, maskType, attention.tileRows, step === 0),
      batch,
      numHeads,
      numKvHeads,
      rowsQ,
      rowsKv,
      softmaxScale: optionsOf(testCase).softmaxScale,
    });
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    if (step === 0) attention.encode(pass, block, { q, k, v, out, lse });
    else {
      attention.encode(pass, block, { q, k, v, out: blockOut, lse: blockLse });
      merge.encode(pass, block, { out, lse, blockOut, blockLse });
    }
    pass.end();
    gpu.device.queue.submit([encoder.finish()]);
    block.destroy();
  }
  const result = { out: await readTensor(gpu, out), lse: await readTensor(gpu, lse) };
  for (const tensor of held) gpu.pool.release(tensor.buffer);
  return result;
}

/** The same rows of the f64 reference; −Infinity is MASKED_LSE, as on the device. */
export function referenceShard(testCase: AttentionCase, inputs: AttentionInputs): { out: number[]; lse: number[] } {
  const { shape } = testCase;
  const { batch, seqLenQ, numHeads, headDimV } = shape;
  const whole = referenceForward(inputs, shape, optionsOf(testCase));
  const query = testCase.query ?? [{ start: 0, length: seqLenQ, stride: 1 }];
  const tokens = query.flatMap(({ start, length, stride }) => Array.from({ length }, (_, i) => start + i * stride));
  const rowSize = numHeads * headDimV;
  const out: number[] = [];
  const lse: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (const token of tokens) {
      const row = (b * seqLenQ + token) * rowSize;
      for (let index = 0; index < rowSize; index++) out.push(whole.out[row + index]);
    }
    for (let head = 0; head < numHeads; head++) {
      for (const token of tokens) {
        lse.push(Math.max(MASKED_LSE, whole.lse[(b * numHeads + head) * seqLenQ + token]));
      }
    }
  }
  return { out, lse };
}

/** Runs a case and compares it with the reference. */
export async function checkAttention(gpu: Gpu, testCase: AttentionCase): Promise<{ out: Closeness; lse: Closeness }> {
  const { batch, numHeads, headDimV } = testCase.shape;
  const inputs = createInputs(testCase.shape);
  const got = await runAttention(gpu, testCase, inputs);
  const expected = referenceShard(testCase, inputs);
  const rows = expected.lse.length / (batch * numHeads);
  return {
    out: expectClose(got.out, expected.out, TOLERANCE.f32.out, [batch, rows, numHeads, headDimV]),
    lse: expectClose(got.lse, expected.lse, TOLERANCE.f32.lse, [batch, numHeads, rows]),
  };
}

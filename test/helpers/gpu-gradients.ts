// Runs the backward kernels over shards, every rank's queries against every KV block as a ring does, on poisoned buffers, and
// compares the gradients with the f64 reference. out and lse are the reference's, so that no forward kernel is needed.
import { gatherShard, scatterShard, type Shard, shardLength } from '../../src/attention/layout.ts';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { referenceForward } from '../../src/attention/reference.ts';
import { AttentionDelta } from '../../src/gpu/attention-delta.ts';
import { BiasGradient } from '../../src/gpu/bias-gradient.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { FlashAttentionBackward } from '../../src/gpu/flash-attention-backward.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import type { PreparedBlock } from '../../src/gpu/prepared-block.ts';
import { SinkGradient } from '../../src/gpu/sink-gradient.ts';
import { BUFFER_USAGE } from '../../src/gpu/webgpu-constants.ts';
import type { TensorData } from '../../src/tensor/tensor.ts';
import { POISON } from './gpu-attention.ts';
import {
  createGradientInputs,
  featuresOf,
  type GradientCase,
  type GradientInputs,
  referenceGradients,
  referenceOf,
  requestsOf,
  resolveGradientCase,
  type ResolvedGradientCase,
} from './gradient-case.ts';
import { expectClose, gradientBudget } from './tolerance.ts';

/** Gradients of the whole call; dbias is empty without a bias. */
export interface Gradients {
  dq: Float32Array;
  dk: Float32Array;
  dv: Float32Array;
  dbias: Float32Array;
  dsink: Float32Array;
}

interface Kernels {
  delta: AttentionDelta;
  backward: FlashAttentionBackward;
  biasGradient: BiasGradient | null;
  sinkGradient: SinkGradient;
}

/** One run: its case with the defaults filled in, its kernels, and the buffers that it gives back at the end. */
interface Run extends ResolvedGradientCase {
  gpu: Gpu;
  kernels: Kernels;
  /** Of the reference, rounded to f32. */
  forward: { out: Float32Array; lse: Float32Array };
  heads: GPUBuffer;
  held: GPUBuffer[];
}

type Buffers<Name extends string> = Record<Name, GPUBuffer>;
type RankBuffers = Buffers<'q' | 'dout' | 'out' | 'lse' | 'rowStats' | 'bias' | 'dq' | 'dbias' | 'dsink'>;
type KvBuffers = Buffers<'k' | 'v' | 'dkv'>;

async function createRun(gpu: Gpu, testCase: GradientCase, inputs: GradientInputs): Promise<Run> {
  const { shape, variant, alibi, bias } = testCase;
  const { headDimQk, headDimV } = shape;
  const resolved = resolveGradientCase(testCase);
  const { options } = resolved;
  const features = featuresOf(testCase, options);
  const [delta, backward, biasGradient, sinkGradient] = await Promise.all([
    AttentionDelta.create(gpu, { features }),
    FlashAttentionBackward.create(gpu, { headDimQk, headDimV, features, variant }),
    bias ? BiasGradient.create(gpu, { headDimQk, headDimV, features }) : null,
    SinkGradient.create(gpu),
  ]);
  const heads = acquireHeads(gpu, {
    ...(alibi && { alibiSlopes: inputs.alibiSlopes }),
    ...(options.sink === 'learnable' && { sink: inputs.sink }),
  });
  const forward = referenceForward(referenceOf(testCase, inputs), shape, options);
  return {
    ...resolved,
    gpu,
    kernels: { delta, backward, biasGradient, sinkGradient },
    forward: {
      out: Float32Array.from(forward.out),
      lse: Float32Array.from(forward.lse, (value) => Math.max(MASKED_LSE, value)),
    },
    heads,
    held: [heads],
  };
}

function upload({ gpu, held }: Run, label: string, data: TensorData): GPUBuffer {
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST;
  const buffer = gpu.pool.acquire({ label, byteLength: Math.max(8, data.byteLength), usage });
  held.push(buffer);
  gpu.device.queue.writeBuffer(buffer, 0, data.buffer, data.byteOffset, data.byteLength);
  return buffer;
}

function poison(run: Run, label: string, numElements: number): GPUBuffer {
  return upload(run, label, new Float32Array(numElements).fill(POISON));
}

function uploadRank(run: Run, inputs: GradientInputs, query: Shard): RankBuffers {
  const { batch, numHeads, headDimQk, headDimV, seqLenQ, seqLenKv } = run.testCase.shape;
  const { bias } = run.testCase;
  const rows = batch * numHeads * shardLength(query);
  const biasPlanes = bias ? bias.batch * bias.heads : 0;
  return {
    q: upload(run, 'q', gatherShard(inputs.q.data, query, batch, seqLenQ, numHeads * headDimQk)),
    dout: upload(run, 'dout', gatherShard(inputs.dout.data, query, batch, seqLenQ, numHeads * headDimV)),
    out: upload(run, 'out', gatherShard(run.forward.out, query, batch, seqLenQ, numHeads * headDimV)),
    lse: upload(run, 'lse', gatherShard(run.forward.lse, query, batch * numHeads, seqLenQ, 1)),
    rowStats: poison(run, 'row-stats', 2 * rows),
    bias: upload(run, 'bias', gatherShard(inputs.bias, query, biasPlanes, seqLenQ, seqLenKv)),
    dq: poison(run, 'dq', rows * headDimQk),
    dbias: upload(run, 'dbias', new Float32Array(biasPlanes * shardLength(query) * seqLenKv)),
    dsink: poison(run, 'dsink', numHeads),
  };
}

function uploadKv(run: Run, inputs: GradientInputs, kv: Shard): KvBuffers {
  const { batch, numKvHeads, headDimQk, headDimV, seqLenKv } = run.testCase.shape;
  return {
    k: upload(run, 'k', gatherShard(inputs.k.data, kv, batch, seqLenKv, numKvHeads * headDimQk)),
    v: upload(run, 'v', gatherShard(inputs.v.data, kv, batch, seqLenKv, numKvHeads * headDimV)),
    dkv: poison(run, 'dkv', batch * shardLength(kv) * numKvHeads * (headDimQk + headDimV)),
  };
}

/** One rank's queries against one KV block. */
function runStep(run: Run, place: readonly [rank: number, step: number], tensors: RankBuffers & KvBuffers): void {
  const { gpu, kernels, heads } = run;
  const { delta, backward, biasGradient, sinkGradient } = kernels;
  const tileRows = { query: backward.queryTileRows, key: backward.keyTileRows, bias: biasGradient?.tileRows ?? 1 };
  const requests = requestsOf(run, place, { tileRows, heads });
  const blocks: PreparedBlock[] = [];
  const prepared = (block: PreparedBlock): PreparedBlock => {
    blocks.push(block);
    return block;
  };
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  const queryBlock = prepared(backward.prepareQueries(requests.query));
  if (place[1] === 0) {
    delta.encode(pass, queryBlock, tensors);
    sinkGradient.encode(pass, queryBlock, tensors);
  }
  backward.encodeQueryGradients(pass, queryBlock, tensors);
  backward.encodeKeyGradients(pass, prepared(backward.prepareKeys(requests.key)), tensors);
  if (biasGradient) biasGradient.encode(pass, prepared(biasGradient.prepareBlock(requests.bias)), tensors);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  for (const block of blocks) block.destroy();
}

async function readFloats(gpu: Gpu, buffer: GPUBuffer, length: number): Promise<Float32Array<ArrayBuffer>> {
  if (length === 0) return new Float32Array();
  return new Float32Array((await gpu.read([{ buffer, byteLength: 4 * length }])).buffer);
}

/** Puts every rank's and block's gradients where they belong in the whole tensors; dsink is the sum over ranks. */
async function readGradients(
  run: Run,
  ranks: readonly RankBuffers[],
  blocks: readonly KvBuffers[],
): Promise<Gradients> {
  const { gpu, queries, kv, testCase } = run;
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenQ, seqLenKv } = testCase.shape;
  const planes = testCase.bias ? testCase.bias.batch * testCase.bias.heads : 0;
  const [dqRow, dkRow, dvRow] = [numHeads * headDimQk, numKvHeads * headDimQk, numKvHeads * headDimV];
  const result = {
    dq: new Float32Array(batch * seqLenQ * dqRow),
    dk: new Float32Array(batch * seqLenKv * dkRow),
    dv: new Float32Array(batch * seqLenKv * dvRow),
    dbias: new Float32Array(planes * seqLenQ * seqLenKv),
    dsink: new Float32Array(numHeads),
  };
  for (const [rank, buffers] of ranks.entries()) {
    const rows = shardLength(queries[rank]);
    const dq = await readFloats(gpu, buffers.dq, batch * rows * dqRow);
    scatterShard(result.dq, dq, queries[rank], batch, seqLenQ, dqRow);
    const dbias = await readFloats(gpu, buffers.dbias, planes * rows * seqLenKv);
    scatterShard(result.dbias, dbias, queries[rank], planes, seqLenQ, seqLenKv);
    const dsink = await readFloats(gpu, buffers.dsink, numHeads);
    for (let head = 0; head < numHeads; head++) result.dsink[head] += dsink[head];
  }
  for (const [step, buffers] of blocks.entries()) {
    const rows = batch * shardLength(kv[step]);
    const dkv = await readFloats(gpu, buffers.dkv, rows * (dkRow + dvRow));
    scatterShard(result.dk, dkv.subarray(0, rows * dkRow), kv[step], batch, seqLenKv, dkRow);
    scatterShard(result.dv, dkv.subarray(rows * dkRow), kv[step], batch, seqLenKv, dvRow);
  }
  return result;
}

/** Computes the gradients of a case on the GPU. */
export async function runGradients(gpu: Gpu, testCase: GradientCase, inputs: GradientInputs): Promise<Gradients> {
  const run = await createRun(gpu, testCase, inputs);
  const ranks = run.queries.map((query) => uploadRank(run, inputs, query));
  const blocks = run.kv.map((kv) => uploadKv(run, inputs, kv));
  for (const [rank, rankBuffers] of ranks.entries()) {
    for (const [step, kvBuffers] of blocks.entries()) runStep(run, [rank, step], { ...rankBuffers, ...kvBuffers });
  }
  const gradients = await readGradients(run, ranks, blocks);
  for (const buffer of run.held.splice(0)) gpu.pool.release(buffer);
  return gradients;
}

/** Runs a case and compares every gradient with the reference. `floor` is what cancellation may leave: see gradientBudget. */
export async function checkGradients(
  gpu: Gpu,
  testCase: GradientCase,
  inputs = createGradientInputs(testCase),
  floor = 0,
): Promise<Gradients> {
  const got = await runGradients(gpu, testCase, inputs);
  const expected = referenceGradients(testCase, inputs);
  for (const name of ['dq', 'dk', 'dv', 'dbias', 'dsink'] as const) {
    const wanted = expected[name];
    if (!wanted) continue;
    expectClose(got[name], wanted, gradientBudget(wanted, floor), (index) => `${name}[${index}]`);
  }
  return got;
}

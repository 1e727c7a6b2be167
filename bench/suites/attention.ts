// `kvring bench attention`: the forward kernel on one device. Each case is verified against the f64 reference, on
// poisoned outputs, and then timed: wall time with inputs resident on the device, no upload or readback.
import { scheduleBlock } from '../../src/attention/schedule.ts';
import { type AttentionOptions, type AttentionShape, forwardFlops } from '../../src/attention/shape.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { FlashAttentionForward, type PreparedBlock } from '../../src/gpu/flash-attention-forward.ts';
import { acquireTensor, type GpuTensor, readTensor, uploadTensor, writeTensor } from '../../src/gpu/tensor.ts';
import { formatAdapterReport, openGpu } from '../../src/node/adapter.ts';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';
import { fillNormal, INPUT_SEEDS } from '../inputs.ts';
import { summarize, tflops } from '../metrics.ts';
import type { BenchCase, BenchRow, SuiteContext } from '../suite.ts';
import { verifyRows } from '../verify.ts';

/** A value that no kernel computes. */
const POISON = 12345;

type HostInputs = Record<keyof typeof INPUT_SEEDS, Float32Array>;
type DeviceTensors = Record<'q' | 'k' | 'v' | 'out' | 'lse', GpuTensor>;

/** Runs the cases (ranks 1, direction forward) one after another on one device. */
export async function* benchAttention(cases: BenchCase[], context: SuiteContext): AsyncGenerator<BenchRow> {
  const restorePolling = throttleGpuPolling();
  const { gpu, report } = await openGpu({ adapter: context.adapter });
  try {
    context.log(formatAdapterReport(report));
    for (const benchCase of cases) yield await runCase(gpu, benchCase, context);
  } finally {
    gpu.close();
    restorePolling();
  }
}

async function runCase(gpu: Gpu, benchCase: BenchCase, context: SuiteContext): Promise<BenchRow> {
  const shape = shapeOf(benchCase);
  const options = { maskType: benchCase.maskType, softmaxScale: 1 / Math.sqrt(benchCase.headDim) };
  const title = `B ${shape.batch} S ${shape.seqLenQ} H ${shape.numHeads} D ${benchCase.headDim} ${options.maskType}`;
  context.progress(`${title}: compile`);
  gpu.pool.trim();
  gpu.pool.resetPeak();
  const attention = await FlashAttentionForward.create(gpu, { ...shape, rows: shape.seqLenQ });
  const block = prepareWholeSequence(attention, shape, options);
  const inputs = createInputs(shape);
  const tensors = createTensors(gpu, shape, inputs);
  try {
    const run = (): Promise<void> => runOnce(gpu, attention, block, tensors);
    let verdict: { maxAbsError: number | null; wrong: number | null } = { maxAbsError: null, wrong: null };
    if (context.check) {
      context.progress(`${title}: verify`);
      for (const tensor of [tensors.out, tensors.lse]) {
        writeTensor(gpu, tensor, new Float32Array(tensor.size / Float32Array.BYTES_PER_ELEMENT).fill(POISON));
      }
      await run();
      const result = { out: await readTensor(gpu, tensors.out), lse: await readTensor(gpu, tensors.lse) };
      verdict = verifyRows(inputs, result, shape, options);
    }
    context.progress(`${title}: time`);
    for (let index = 0; index < context.warmup; index++) await run();
    const samplesMs: number[] = [];
    for (let index = 0; index < context.iters; index++) {
      context.signal.throwIfAborted();
      const start = performance.now();
      await run();
      samplesMs.push(performance.now() - start);
    }
    const timeMs = summarize(samplesMs);
    return {
      suite: 'attention',
      ...benchCase,
      timeMs,
      tflops: tflops(forwardFlops(shape, options.maskType), timeMs.p50),
      percentOfIdeal: null,
      commBytesPerRank: null,
      exposedCommMs: null,
      overlapPercent: null,
      kvSlots: null,
      peakGpuBytes: gpu.pool.peakBytes,
      ...verdict,
      adapter: gpu.adapter.name,
    };
  } finally {
    block.destroy();
    for (const { buffer } of Object.values(tensors)) gpu.pool.release(buffer);
  }
}

function shapeOf({ batch, seqLen, numHeads, numKvHeads, headDim }: BenchCase): AttentionShape {
  return {
    batch,
    seqLenQ: seqLen,
    seqLenKv: seqLen,
    numHeads,
    numKvHeads,
    headDimQk: headDim,
    headDimV: headDim,
  };
}

function prepareWholeSequence(
  attention: FlashAttentionForward,
  { batch, numHeads, numKvHeads, seqLenQ, seqLenKv }: AttentionShape,
  { maskType, softmaxScale }: AttentionOptions,
): PreparedBlock {
  const query = [{ start: 0, length: seqLenQ, stride: 1 }];
  const kv = [{ start: 0, length: seqLenKv, stride: 1 }];
  const schedule = scheduleBlock(query, kv, maskType, attention.tileRows, true);
  return attention.prepareBlock({
    schedule,
    batch,
    numHeads,
    numKvHeads,
    rowsQ: seqLenQ,
    rowsKv: seqLenKv,
    softmaxScale,
  });
}

function createInputs({
  batch,
  seqLenQ,
  seqLenKv,
  numHeads,
  numKvHeads,
  headDimQk,
  headDimV,
}: AttentionShape): HostInputs {
  const inputs = {
    q: new Float32Array(batch * seqLenQ * numHeads * headDimQk),
    k: new Float32Array(batch * seqLenKv * numKvHeads * headDimQk),
    v: new Float32Array(batch * seqLenKv * numKvHeads * headDimV),
  };
  for (const name of ['q', 'k', 'v'] as const) fillNormal(inputs[name], INPUT_SEEDS[name]);
  return inputs;
}

function createTensors(gpu: Gpu, shape: AttentionShape, inputs: HostInputs): DeviceTensors {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  return {
    q: uploadTensor(gpu, 'q', [batch, seqLenQ, numHeads, headDimQk], inputs.q),
    k: uploadTensor(gpu, 'k', [batch, seqLenKv, numKvHeads, headDimQk], inputs.k),
    v: uploadTensor(gpu, 'v', [batch, seqLenKv, numKvHeads, headDimV], inputs.v),
    out: acquireTensor(gpu.pool, 'out', [batch, seqLenQ, numHeads, headDimV]),
    lse: acquireTensor(gpu.pool, 'lse', [batch, numHeads, seqLenQ]),
  };
}

async function runOnce(
  gpu: Gpu,
  attention: FlashAttentionForward,
  block: PreparedBlock,
  tensors: DeviceTensors,
): Promise<void> {
  const encoder = gpu.device.createCommandEncoder({ label: 'bench attention' });
  const pass = encoder.beginComputePass({ label: 'attention' });
  attention.encode(pass, block, tensors);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  await gpu.submittedWorkDone();
}

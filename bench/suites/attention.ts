// `kvring bench attention`: forward and backward on one device. Each case is verified against the f64 reference and then
// timed: wall time with inputs resident on the device, no upload or readback. Cases that differ only in window or direction
// take turns within an iteration: the machine's speed drifts, their ratio does not.
import { planRing } from '../../src/context-parallel/ring-plan.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { formatAdapterReport, openGpu } from '../../src/node/adapter.ts';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';
import { type AttentionWorkload, createAttentionWorkload } from '../attention-workload.ts';
import { describeCase, usefulFlops } from '../case.ts';
import { groupNeighbours } from '../grid.ts';
import { summarize, tflops } from '../metrics.ts';
import { uploadShards } from '../seeded-tensors.ts';
import type { BenchCase, BenchRow, SuiteContext, Verdict } from '../suite.ts';
import { timeInTurns } from '../turns.ts';

/** A case, and what runs it. */
interface Contender {
  benchCase: BenchCase;
  workload: AttentionWorkload;
}

interface Measured {
  samplesMs: readonly number[];
  /** Undefined when it was not checked. */
  verdict: Verdict | undefined;
  /** Bytes of the inputs on the device. */
  inputBytes: number;
  adapter: string;
}

/** Runs the cases (ranks 1) on one device and yields their rows in the same order. */
export async function* benchAttention(cases: readonly BenchCase[], context: SuiteContext): AsyncGenerator<BenchRow> {
  const restorePolling = throttleGpuPolling();
  const { gpu, report } = await openGpu({ adapter: context.adapter });
  try {
    context.log(formatAdapterReport(report));
    for (const group of groupNeighbours(cases, turnKey)) yield* runGroup(gpu, group, context);
  } finally {
    gpu.close();
    restorePolling();
  }
}

/** Cases with the same key take turns. */
function turnKey(benchCase: BenchCase): string {
  return JSON.stringify({ ...benchCase, window: null, direction: null });
}

async function* runGroup(gpu: Gpu, group: readonly BenchCase[], context: SuiteContext): AsyncGenerator<BenchRow> {
  const { batch, seqLen, seqLenKv, numHeads, headDim, dtype, maskType } = group[0];
  const title = `B ${batch} S ${seqLen}/${seqLenKv} H ${numHeads} D ${headDim} ${dtype} ${maskType}`;
  context.progress(`${title}: compile`);
  gpu.pool.trim();
  const shards = uploadShards(gpu, planRing(describeCase(group[0]), 0, 1));
  const inputBytes = gpu.pool.liveBytes;
  const workloads = new Map<string, AttentionWorkload>();
  try {
    const contenders: Contender[] = [];
    for (const benchCase of group) {
      const key = String(benchCase.window);
      const directions = group.filter(({ window }) => String(window) === key).map(({ direction }) => direction);
      const plan = planRing(describeCase(benchCase), 0, 1);
      const workload = workloads.get(key) ?? (await createAttentionWorkload(gpu, plan, { shards, directions }));
      workloads.set(key, workload);
      contenders.push({ benchCase, workload });
    }
    const verdicts = context.check ? await verifyAll(contenders, title, context) : [];
    const samplesMs = await timeAll(contenders, title, context);
    for (const [index, contender] of contenders.entries()) {
      const measured = { samplesMs: samplesMs[index], verdict: verdicts[index], inputBytes };
      yield rowOf(contender, { ...measured, adapter: gpu.adapter.name });
    }
  } finally {
    for (const workload of workloads.values()) workload.destroy();
    for (const buffer of [shards.q, shards.k, shards.v]) gpu.pool.release(buffer);
  }
}

async function verifyAll(contenders: readonly Contender[], title: string, context: SuiteContext): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  for (const { benchCase, workload } of contenders) {
    context.signal.throwIfAborted();
    context.progress(`${title}: verify ${benchCase.direction}`);
    verdicts.push(await workload.verify(benchCase.direction));
  }
  return verdicts;
}

async function timeAll(
  contenders: readonly Contender[],
  title: string,
  { iters, warmup, signal, progress }: SuiteContext,
): Promise<number[][]> {
  for (const { workload, benchCase } of contenders) {
    // What a backward alone is of: nothing else need have run a forward.
    if (benchCase.direction === 'backward') await workload.run('forward');
  }
  const runs = contenders.map(
    ({ workload, benchCase }) =>
      () =>
        workload.run(benchCase.direction),
  );
  const onIteration = (iteration: number): void => progress(`${title}: run ${iteration} of ${iters}`);
  return timeInTurns(runs, { iters, warmup, signal, onIteration });
}

function rowOf({ benchCase, workload }: Contender, { samplesMs, verdict, inputBytes, adapter }: Measured): BenchRow {
  const timeMs = summarize(samplesMs);
  return {
    suite: 'attention',
    ...benchCase,
    timeMs,
    tflops: tflops(usefulFlops(describeCase(benchCase), benchCase.direction), timeMs.p50),
    percentOfIdeal: null,
    commBytesPerRank: null,
    exposedCommMs: null,
    overlapPercent: null,
    kvSlots: null,
    peakGpuBytes: inputBytes + workload.gpuBytes(benchCase.direction),
    maxAbsError: verdict?.maxAbsError ?? null,
    wrong: verdict?.wrong ?? null,
    adapter,
  };
}

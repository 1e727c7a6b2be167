// `bench ring`: the whole ring over rank processes, verified, then timed beside what it could be: the same work on one
// rank without communication, the ring without communication, and communication alone, interleaved in one run.
import { formatAdapterReport } from '../../src/node/adapter.ts';
import { RankFleet } from '../../src/node/rank-fleet.ts';
import { moduleCommand } from '../../src/node/rank-processes.ts';
import { writeBytes } from '../../src/node/files.ts';
import { buildChromeTrace } from '../../src/trace/perfetto.ts';
import type { RankTimeline } from '../../src/trace/timeline.ts';
import { describeCase, usefulFlops } from '../case.ts';
import { nearestRank, percentOf, summarize, tflops } from '../metrics.ts';
import type { RingRequest } from '../ring-rank.ts';
import type { PrepareReply, RingMode, RunReply } from '../ring-workload.ts';
import type { BenchCase, BenchRow, SuiteContext, Verdict } from '../suite.ts';
import { joinVerdicts } from '../verify.ts';

const MODES: readonly RingMode[] = ['ring', 'single', 'compute', 'communication'];
const DEFAULT_TIMEOUT_MS = 120_000;

/** The main job's shape: what a person sees first. */
const MAIN_CASE: BenchCase = {
  ranks: 4,
  cpCommType: 'p2p',
  layout: 'zigzag',
  batch: 1,
  seqLen: 1024,
  seqLenKv: 1024,
  numHeads: 8,
  numKvHeads: 2,
  headDim: 64,
  dtype: 'f32',
  maskType: 'causal',
  window: [-1, -1],
  direction: 'forward',
};
const MAIN_MAX_SEQ_LEN = 32_768;
/** What one run of the main job may take on one rank, in ms: it is run some forty times. */
const MAIN_TARGET_MS = 1200;

/** One row per case. Cases with the same number of ranks share their processes. */
export async function* benchRing(cases: readonly BenchCase[], context: SuiteContext): AsyncGenerator<BenchRow> {
  let fleet: RankFleet | undefined;
  let ranks = 0;
  try {
    for (const wanted of cases) {
      if (ranks !== wanted.ranks) {
        await fleet?.close();
        fleet = await startFleet((ranks = wanted.ranks), context);
      }
      yield await measure(fleet!, wanted, context);
    }
  } finally {
    await fleet?.close();
  }
}

/** One causal attention over four ranks, as long as this machine does in a minute. */
export async function* mainJob(context: SuiteContext): AsyncGenerator<BenchRow> {
  const fleet = await startFleet(MAIN_CASE.ranks, context);
  try {
    const seqLen = await chooseSeqLen(fleet, context);
    const { ranks, numHeads, numKvHeads, headDim } = MAIN_CASE;
    context.log(
      `causal attention over ${ranks} rank processes: ${seqLen} tokens, ${numHeads} heads (${numKvHeads} KV), head dim ${headDim}, f32`,
    );
    yield await measure(fleet, { ...MAIN_CASE, seqLen, seqLenKv: seqLen }, context);
  } finally {
    await fleet.close();
  }
}

async function startFleet(
  ranks: number,
  { adapter, timeoutMs, checksum, signal, progress, log }: SuiteContext,
): Promise<RankFleet> {
  progress(`starting ${ranks} rank processes`);
  const command = moduleCommand('../ring-rank', import.meta.url);
  const fleet = await RankFleet.start({
    ranks,
    command,
    adapter,
    timeoutMs: timeoutMs ?? DEFAULT_TIMEOUT_MS,
    checksum,
  });
  log(formatAdapterReport(fleet.report));
  await fleet.joined(signal);
  return fleet;
}

async function ask<Reply>(fleet: RankFleet, request: RingRequest, { signal }: SuiteContext): Promise<Reply[]> {
  return (await fleet.coordinator.call(request, { signal })) as Reply[];
}

async function measure(fleet: RankFleet, wanted: BenchCase, context: SuiteContext): Promise<BenchRow> {
  const { iters, warmup, check, trace, progress } = context;
  const timeoutMs = context.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const call = describeCase(wanted);
  progress(`S=${wanted.seqLen}: making inputs, compiling`);
  const facts = await ask<PrepareReply>(fleet, { kind: 'prepare', call }, context);
  let verdict: Verdict | undefined;
  if (check) {
    progress(`S=${wanted.seqLen}: checking against the f64 reference`);
    verdict = (await ask<Verdict>(fleet, { kind: 'verify', timeoutMs }, context)).reduce(joinVerdicts);
  }
  const samples: Record<RingMode, number[]> = { ring: [], single: [], compute: [], communication: [] };
  let timelines: RankTimeline[] = [];
  for (let iteration = -warmup; iteration < iters; iteration++) {
    progress(`S=${wanted.seqLen}: run ${Math.max(0, iteration + 1)} of ${iters}`);
    for (const mode of MODES) {
      const isTraced = mode === 'ring' && trace !== undefined && iteration === iters - 1;
      const replies = await ask<RunReply>(fleet, { kind: 'run', mode, timeoutMs, trace: isTraced }, context);
      if (iteration >= 0) samples[mode].push(elapsedMs(mode, replies));
      if (isTraced) timelines = replies.flatMap(({ timeline }) => timeline ?? []);
    }
  }
  if (trace !== undefined) await writeBytes(trace, JSON.stringify(buildChromeTrace(timelines)));
  const exposedCommMs = median(samples.ring.map((ringMs, index) => ringMs - samples.compute[index]));
  const communicationMs = median(samples.communication);
  return {
    suite: 'ring',
    ...wanted,
    timeMs: summarize(samples.ring),
    tflops: tflops(usefulFlops(call, wanted.direction), median(samples.ring)),
    percentOfIdeal: median(samples.ring.map((ringMs, index) => percentOf(samples.single[index], ringMs))),
    commBytesPerRank: Math.max(...facts.map(({ kvPayloadBytes }) => kvPayloadBytes)),
    exposedCommMs: Math.max(0, exposedCommMs),
    overlapPercent: communicationMs > 0 ? 100 * Math.min(1, Math.max(0, 1 - exposedCommMs / communicationMs)) : null,
    kvSlots: Math.max(...facts.map(({ kvSlots }) => kvSlots)),
    peakGpuBytes: Math.max(...facts.map(({ peakGpuBytes }) => peakGpuBytes)),
    maxAbsError: verdict?.maxAbsError ?? null,
    wrong: verdict?.wrong ?? null,
    adapter: fleet.coordinator.labels[0],
  };
}

/** A ring takes from when its first rank began until its last rank ended; `single` is rank 0's alone. */
function elapsedMs(mode: RingMode, replies: readonly RunReply[]): number {
  const counted = mode === 'single' ? replies.slice(0, 1) : replies;
  return Math.max(...counted.map(({ endMs }) => endMs)) - Math.min(...counted.map(({ startMs }) => startMs));
}

/** Doubles the sequence until one rank alone needs a good part of a second for it. */
async function chooseSeqLen(fleet: RankFleet, context: SuiteContext): Promise<number> {
  let { seqLen } = MAIN_CASE;
  for (;;) {
    context.progress(`sizing the problem: S=${seqLen}`);
    await ask(fleet, { kind: 'prepare', call: describeCase({ ...MAIN_CASE, seqLen, seqLenKv: seqLen }) }, context);
    let timeMs = Infinity;
    for (let attempt = 0; attempt < 2; attempt++) {
      const run = { kind: 'run', mode: 'single', timeoutMs: DEFAULT_TIMEOUT_MS, trace: false } as const;
      timeMs = Math.min(timeMs, elapsedMs('single', await ask<RunReply>(fleet, run, context)));
    }
    // Twice the length is four times the work.
    if (4 * timeMs > MAIN_TARGET_MS || seqLen >= MAIN_MAX_SEQ_LEN) return seqLen;
    seqLen *= 2;
  }
}

function median(values: readonly number[]): number {
  return nearestRank(
    values.toSorted((a, b) => a - b),
    50,
  );
}

// What a bench suite is, and the row that it yields. Every suite verifies a case before it times it.
import type { Layout } from '../src/attention/layout.ts';
import type { MaskType, Window } from '../src/attention/mask.ts';
import type { FloatDType } from '../src/tensor/tensor.ts';

/** What of a call is timed; `backward` is alone, after a forward that is not. */
export const DIRECTIONS = ['forward', 'backward', 'forward_backward'] as const;
export type Direction = (typeof DIRECTIONS)[number];

/** Summary of the raw samples of one case, in ms; p50 and p95 are nearest-rank percentiles. */
export interface TimeSummary {
  p50: number;
  p95: number;
  min: number;
  max: number;
  samples: number[];
}

/** One point of the grid that the command line spans. */
export interface BenchCase {
  ranks: number;
  cpCommType: 'p2p';
  layout: Layout;
  batch: number;
  seqLen: number;
  /** Keys of the whole sequence: seqLen unless queries attend to another sequence. */
  seqLenKv: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  /** What tensors are rounded to and stored as; even head dims only for f16 and bf16. */
  dtype: FloatDType;
  maskType: MaskType;
  window: Window;
  direction: Direction;
}

/** What checking a case found. */
export interface Verdict {
  /** Largest |result − reference| over the checked rows; NaN when a checked element is NaN. */
  maxAbsError: number;
  /** Checked elements outside their tolerance. */
  wrong: number;
}

/** A row of `bench attention` and `bench ring`. A number that a suite does not measure is null, never 0. */
export interface BenchRow extends BenchCase {
  suite: string;
  timeMs: TimeSummary;
  tflops: number;
  /** 0 to 100 (and above, when noise favours the ring); see `percentOfIdeal` in the design's Measuring. */
  percentOfIdeal: number | null;
  commBytesPerRank: number | null;
  exposedCommMs: number | null;
  overlapPercent: number | null;
  kvSlots: number | null;
  peakGpuBytes: number;
  /** Largest |out − reference|, and |gradient − reference|, over the rows that were checked; null with --no-check. */
  maxAbsError: number | null;
  /** Checked elements outside the tolerance; null with --no-check. */
  wrong: number | null;
  adapter: string;
}

/** A row of `bench transport`: one payload size over one edge, beside a raw socket in the same minutes. */
export interface TransportRow {
  suite: 'transport';
  transport: string;
  bytes: number;
  chunkBytes: number;
  checksum: boolean;
  timeMs: TimeSummary;
  /** GB/s = 1e9 bytes a second, at the median. */
  bandwidthGBps: number;
  senderCpuSecondsPerGiB: number;
  receiverCpuSecondsPerGiB: number;
  /** Bandwidth ÷ the raw socket's, median over interleaved rounds. */
  ratioToRawSocket: number | null;
  wrong: number | null;
}

export interface SuiteContext {
  iters: number;
  warmup: number;
  check: boolean;
  /** A part of the adapter's name, as `--adapter` gives it. */
  adapter: string | undefined;
  timeoutMs: number | undefined;
  checksum: boolean | undefined;
  /** File for a Perfetto trace of the last timed iteration. */
  trace: string | undefined;
  signal: AbortSignal;
  /** One line for the person who waits; shown on stderr when that is a terminal. */
  progress(message: string): void;
  /** One line that stays on stderr, terminal or not. */
  log(message: string): void;
}

// The numbers that a row is made of. Pure: samples and counts in, numbers with a unit in their name out.
import { ConfigError } from '../src/errors.ts';
import type { TimeSummary } from './suite.ts';

/**
 * The nearest-rank percentile: the smallest sample that at least `percent` % of all samples do not exceed. It is always
 * one of the samples; p50 of an even number of samples is the lower of the two in the middle.
 *
 * @param sortedMs ascending, not empty
 * @param percent 0 to 100; 0 gives the smallest sample
 */
export function nearestRank(sortedMs: readonly number[], percent: number): number {
  return sortedMs[Math.max(0, Math.ceil((percent / 100) * sortedMs.length) - 1)];
}

/** Summarises the samples of one case, in ms; `samples` keeps them in the order in which they were taken. */
export function summarize(samplesMs: readonly number[]): TimeSummary {
  if (samplesMs.length === 0)
    throw new ConfigError('ERR_OPTION', 'bench: a case needs one sample or more, got iters=0');
  const sorted = samplesMs.toSorted((a, b) => a - b);
  return {
    p50: nearestRank(sorted, 50),
    p95: nearestRank(sorted, 95),
    min: nearestRank(sorted, 0),
    max: nearestRank(sorted, 100),
    samples: [...samplesMs],
  };
}

/** TFLOP/s: 1e12 floating-point operations a second. */
export function tflops(flops: number, timeMs: number): number {
  return flops / (timeMs * 1e9);
}

/** `part` as a percentage of `whole`: 0 to 100, or above. */
export function percentOf(part: number, whole: number): number {
  return (100 * part) / whole;
}

/** GB/s: 1e9 bytes a second. */
export function gigabytesPerSecond(bytes: number, timeMs: number): number {
  return bytes / (timeMs * 1e6);
}

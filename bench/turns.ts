// Timing of several things in turns: within an iteration each runs once, so that what slows the machine down for a while
// slows all of them, and their ratio stays fair.

export interface TurnOptions {
  /** Timed iterations, 1 or more. */
  iters: number;
  /** Untimed ones before them. */
  warmup: number;
  /** Looked at before every run. */
  signal: AbortSignal;
  /** Told each iteration as it begins, from 1; 0 is a warm-up. */
  onIteration?: (iteration: number) => void;
}

/** The wall times of each of `runs`, in ms, in the order in which they were taken. */
export async function timeInTurns(
  runs: readonly (() => Promise<void>)[],
  { iters, warmup, signal, onIteration }: TurnOptions,
): Promise<number[][]> {
  const samplesMs = runs.map((): number[] => []);
  for (let iteration = 1 - warmup; iteration <= iters; iteration++) {
    onIteration?.(Math.max(0, iteration));
    for (const [index, run] of runs.entries()) {
      signal.throwIfAborted();
      const startMs = performance.now();
      await run();
      if (iteration > 0) samplesMs[index].push(performance.now() - startMs);
    }
  }
  return samplesMs;
}

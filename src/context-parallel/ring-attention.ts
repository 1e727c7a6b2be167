// Ring attention, p2p, forward (Liu et al. 2023, arXiv 2310.01889; the zigzag form of ring-flash-attention and
// Transformer Engine): every rank keeps its queries, KV blocks travel round the ring while the block before is attended to.
import { observed } from '../errors.ts';
import type { Timeline } from '../trace/timeline.ts';
import { type BlockAttention, OWN_SLOT } from './block-attention.ts';
import type { KvSource } from './kv-source.ts';
import type { RingPlan } from './ring-plan.ts';

export interface RingAttentionOptions {
  plan: RingPlan;
  compute: BlockAttention;
  /** Not needed by a ring of one. */
  exchange: KvSource | undefined;
  timeline: Timeline;
  /** Told each step as the ring enters it. */
  onStep?: ((step: number) => void) | undefined;
}

/** Runs one forward on this rank; when it resolves, the running (out, lse) of `compute` hold the result. */
export async function ringAttention({
  plan,
  compute,
  exchange,
  timeline,
  onStep,
}: RingAttentionOptions): Promise<void> {
  exchange?.start();
  const steps: Promise<void>[] = [];
  for (const [step, { owner, arrives }] of plan.steps.entries()) {
    if (!arrives) continue;
    onStep?.(step);
    const slot = (await exchange?.block(step)) ?? OWN_SLOT;
    const startMs = performance.now();
    const attended = observed(compute.attend(step, slot));
    exchange?.release(step, attended);
    if (timeline.enabled) traceStep(timeline, step, owner, startMs, steps.at(-1), attended);
    steps.push(attended);
  }
  await Promise.all(steps);
  await exchange?.finish();
}

/** The device works in order: a step's compute starts when it was asked for or when the step before has ended. */
function traceStep(
  timeline: Timeline,
  step: number,
  owner: number,
  askedMs: number,
  before: Promise<void> | undefined,
  attended: Promise<void>,
): void {
  let startMs = askedMs;
  if (before) observed(before.then(() => (startMs = Math.max(askedMs, performance.now()))));
  observed(
    attended.then(() => timeline.span('compute', `attend kv ${owner}`, startMs, performance.now(), { args: { step } })),
  );
}

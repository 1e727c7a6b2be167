// The engine of one rank: no process, no socket, the plain kernel on one device. The same in Node and in a page.
import type { AttentionInputs, AttentionResult } from '../attention/shape.ts';
import type { Gpu } from '../gpu/device.ts';
import { type RankMetrics, createRankMetrics } from '../trace/counters.ts';
import { type RankTimeline, type Timeline, createTimeline } from '../trace/timeline.ts';
import { CallQueue } from './call-queue.ts';
import { type Engine, type EngineOptions, type ForwardOptions, validateForward } from './engine-options.ts';
import { RankAttention } from './rank-attention.ts';
import { createCall, createResult, cutKv, cutQ, finishLse } from './ring-driver.ts';

export class LocalEngine implements Engine {
  readonly ranks = 1;
  readonly adapters: readonly string[];
  readonly #gpu: Gpu;
  readonly #options: EngineOptions;
  readonly #attention: RankAttention;
  readonly #timeline: Timeline;
  readonly #queue = new CallQueue();
  #metrics: RankMetrics = createRankMetrics(0);
  #timelines: RankTimeline[] = [];
  #closed: Promise<void> | undefined;

  /** Takes over `gpu`, and closes it with the engine. */
  constructor(gpu: Gpu, options: EngineOptions) {
    this.#gpu = gpu;
    this.#options = options;
    this.adapters = [gpu.adapter.name];
    this.#attention = new RankAttention(gpu);
    const { trace = false } = options;
    this.#timeline = createTimeline({
      rank: 0,
      label: gpu.adapter.name,
      enabled: trace,
      clockOffsetMs: performance.timeOrigin,
    });
  }

  async forward(inputs: AttentionInputs, options: ForwardOptions = {}): Promise<AttentionResult> {
    validateForward(inputs, options);
    const call = createCall(inputs, { ...options, layout: this.#options.layout ?? 'zigzag' });
    const { signal } = options;
    return this.#queue.run(async () => {
      signal?.throwIfAborted();
      const prepared = await this.#attention.prepare(call, 0, 1);
      const { plan, compute } = prepared;
      compute.writeQ(0, cutQ(inputs, plan));
      compute.writeOwnKv(cutKv(inputs, plan));
      this.#metrics = await this.#attention.run(prepared, { link: undefined, timeline: this.#timeline });
      const bytes = await compute.readResult();
      signal?.throwIfAborted();
      this.#timelines = this.#timeline.enabled ? [this.#timeline.take()] : [];
      const result = createResult(call);
      new Uint8Array(result.out.data.buffer).set(bytes.out);
      new Uint8Array(result.lse.data.buffer).set(bytes.lse);
      finishLse(result.lse.data);
      return result;
    });
  }

  metrics(): { ranks: RankMetrics[] } {
    return { ranks: [this.#metrics] };
  }

  timelines(): RankTimeline[] {
    return this.#timelines;
  }

  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#queue.close();
    await this.#queue.idle();
    this.#attention.close();
    this.#gpu.close();
  }
}

// The engine of several ranks: one process per rank on this machine, and the driver in this one. When a rank is lost the
// engine ends the others; what it was asked after that rejects with the same RingAbortError.
import type { AttentionGradients, AttentionInputs, AttentionResult } from '../attention/call.ts';
import { CallQueue } from '../context-parallel/call-queue.ts';
import {
  DEFAULT_TIMEOUT_MS,
  type Engine,
  type EngineOptions,
  type ForwardOptions,
  type BackwardOptions,
  createRingCall,
  validateBackward,
} from '../context-parallel/engine-options.ts';
import type { ForwardReply } from '../context-parallel/rank-service.ts';
import { RingDriver } from '../context-parallel/ring-driver.ts';
import { ConfigError } from '../errors.ts';
import type { HostTensor } from '../tensor/tensor.ts';
import { type RankMetrics, createRankMetrics } from '../trace/counters.ts';
import type { RankTimeline } from '../trace/timeline.ts';
import type { BlockTransport } from '../transport/block-transport.ts';
import { hashText } from '../transport/checksum.ts';
import { acceptEdge, createNodeTransport } from './node-transport.ts';
import { FLEET_RUN_ID, RankFleet } from './rank-fleet.ts';
import { moduleCommand } from './rank-processes.ts';

export class ProcessEngine implements Engine {
  readonly ranks: number;
  readonly #options: EngineOptions;
  readonly #fleet: RankFleet;
  readonly #transport: BlockTransport;
  readonly #driver: RingDriver;
  readonly #queue = new CallQueue();
  #replies: ForwardReply[] = [];
  #closed: Promise<void> | undefined;

  private constructor(options: EngineOptions & { ranks: number }, fleet: RankFleet, transport: BlockTransport) {
    this.ranks = options.ranks;
    this.#options = options;
    this.#fleet = fleet;
    this.#transport = transport;
    const { timeoutMs = DEFAULT_TIMEOUT_MS, trace = false } = options;
    this.#driver = new RingDriver({ coordinator: fleet.coordinator, transport, timeoutMs, trace });
  }

  /** Starts the rank processes and waits until all have joined. */
  static async create(options: EngineOptions & { ranks: number }): Promise<ProcessEngine> {
    const { ranks, timeoutMs = DEFAULT_TIMEOUT_MS, heartbeatMs, chunkBytes, checksum, adapter, signal } = options;
    const fleet = await RankFleet.start({
      ranks,
      command: moduleCommand('./rank-process', import.meta.url),
      timeoutMs,
      heartbeatMs,
      chunkBytes,
      checksum,
      adapter,
      // Ranks dial the driver only for a call, and calls need the transport below.
      onEdge: (socket) => acceptEdge(transport, socket),
      onAbort: (error, epoch) => transport.reset(epoch, error),
    });
    const { coordinator, token } = fleet;
    const transport = createNodeTransport({
      rank: ranks,
      worldSize: ranks,
      epoch: coordinator.epoch,
      runHash: hashText(FLEET_RUN_ID),
      token,
      peerUrl: (rank) => coordinator.urls[rank],
      chunkBytes,
      checksum,
    });
    await fleet.joined(signal);
    return new ProcessEngine(options, fleet, transport);
  }

  get adapters(): readonly string[] {
    return this.#fleet.coordinator.labels;
  }

  /** Process ids, by rank. */
  get pids(): ReadonlyMap<number, number> {
    return this.#fleet.pids;
  }

  async forward(inputs: AttentionInputs, options: ForwardOptions = {}): Promise<AttentionResult> {
    const call = createRingCall(inputs, options, this.#options);
    const { signal, timeoutMs } = options;
    return this.#queue.run(async () => {
      const { replies, ...result } = await this.#driver.forward(inputs, call, { signal, timeoutMs });
      this.#replies = replies;
      return result;
    });
  }

  async backward(_dout: HostTensor, options: BackwardOptions = {}): Promise<AttentionGradients> {
    validateBackward(options);
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      `backward: this version computes gradients on one rank, got ranks=${this.ranks}; use ranks: 1`,
    );
  }

  metrics(): { ranks: RankMetrics[] } {
    const empty = Array.from({ length: this.ranks }, (_, rank) => createRankMetrics(rank));
    return { ranks: this.#replies.length > 0 ? this.#replies.map(({ metrics }) => metrics) : empty };
  }

  timelines(): RankTimeline[] {
    return this.#replies.flatMap(({ timeline }) => timeline ?? []);
  }

  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#queue.close();
    await this.#fleet.close();
    await this.#transport.close();
    await this.#queue.idle();
  }
}

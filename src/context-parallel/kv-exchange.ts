// The communication half of a ring: KV blocks come from the rank before and go on to the rank after, chunk by chunk as
// they arrive, from host memory, verbatim. Holds two received blocks at most: a receive is posted (which grants the
// sender a block) only when its slot is free, that is when the block before it has been attended to and sent on.
import { observed } from '../errors.ts';
import type { FlowKey, Timeline } from '../trace/timeline.ts';
import {
  type BlockDescriptor,
  type BlockWriter,
  type TransferOptions,
  type Transport,
  writeBlock,
} from '../transport/transport.ts';
import { type BlockAttention, OWN_SLOT } from './block-attention.ts';
import type { KvSource } from './kv-source.ts';
import type { RingPlan } from './ring-plan.ts';

/** What the bytes of a block are: the `tensor` field of its descriptor. */
export const TENSOR = { kv: 0, q: 1, out: 2, lse: 3, bias: 4, heads: 5 } as const;

/** Received blocks that a rank has room for: the double buffer. */
export const RECEIVE_SLOTS = 2;

export interface KvExchangeOptions {
  plan: RingPlan;
  transport: Transport;
  /** Transport ranks of the context-parallel group, in ring order. */
  group: readonly number[];
  compute: BlockAttention;
  /** Counts the operations of this group, the same on every rank. */
  opSeq: number;
  timeline: Timeline;
  transfer: TransferOptions;
}

export class KvExchange implements KvSource {
  /** How often a block had not come when the ring asked for it, and for how long altogether, in ms. */
  waits = 0;
  waitMs = 0;
  readonly #options: KvExchangeOptions;
  /** Steps whose block is received, in order; the receive slots take them in turn. */
  readonly #arriving: number[];
  /** By step: settled when the block has come. There from the start, while its receive is posted only later. */
  readonly #received = new Map<number, Deferred>();
  readonly #sent = new Map<number, Promise<void>>();
  readonly #here = new Set<number>();
  #posted = 0;

  constructor(options: KvExchangeOptions) {
    this.#options = options;
    this.#arriving = options.plan.steps.flatMap(({ arrives }, step) => (arrives && step > 0 ? [step] : []));
    for (const step of this.#arriving) this.#received.set(step, createDeferred());
  }

  /** Starts sending the own block and posts the first receives. */
  start(): void {
    if (this.#options.plan.steps[0].forwards) this.#sent.set(0, observed(this.#sendOwn()));
    for (let slot = 0; slot < RECEIVE_SLOTS; slot++) this.#postReceive();
  }

  async block(step: number): Promise<number> {
    if (step === 0) return OWN_SLOT;
    if (!this.#here.has(step)) {
      const startMs = performance.now();
      await this.#received.get(step)!.promise;
      this.waits++;
      this.waitMs += performance.now() - startMs;
    }
    return this.#slotOf(step);
  }

  /** A slot is also kept until its block has been sent on. */
  release(step: number, attended: Promise<void>): void {
    if (step === 0) return;
    Promise.all([attended, this.#sent.get(step)]).then(
      () => this.#postReceive(),
      (error: unknown) => this.#fail(error),
    );
  }

  async finish(): Promise<void> {
    await Promise.all(this.#sent.values());
  }

  get #sendRank(): number {
    const { plan, group } = this.#options;
    return group[(plan.cpRank + 1) % plan.cpSize];
  }

  get #recvRank(): number {
    const { plan, group } = this.#options;
    return group[(plan.cpRank - 1 + plan.cpSize) % plan.cpSize];
  }

  #slotOf(step: number): number {
    return OWN_SLOT + 1 + (this.#arriving.indexOf(step) % RECEIVE_SLOTS);
  }

  /** Blocks are numbered by the step of the rank that receives them; the sender stands one step before. */
  #describe(step: number, wireStep: number): BlockDescriptor {
    const { plan, opSeq } = this.#options;
    const byteLength = plan.steps[step].blockBytes;
    return { opSeq, step: wireStep, tensor: TENSOR.kv, byteLength, shapeHash: plan.shapeHash };
  }

  async #sendOwn(): Promise<void> {
    const { compute, transport, transfer } = this.#options;
    // Taken before the first await: blocks leave in the order in which their writers were made.
    const writer = transport.send(this.#sendRank, this.#describe(0, 1), transfer);
    const bytes = await compute.ownKv();
    const startMs = performance.now();
    await writeBlock(writer, bytes, transport.chunkBytes);
    this.#traceSend(0, startMs);
  }

  #postReceive(): void {
    const step = this.#arriving[this.#posted++];
    if (step === undefined) return;
    const { plan, transport, transfer, compute, timeline } = this.#options;
    const { computes, forwards, owner } = plan.steps[step];
    const slot = this.#slotOf(step);
    const writer = forwards ? transport.send(this.#sendRank, this.#describe(step, step + 1), transfer) : undefined;
    let startMs = 0;
    const take = (chunk: Uint8Array, byteOffset: number): void => {
      const arrivedMs = performance.now();
      if (byteOffset === 0) startMs = arrivedMs;
      if (writer) observed(writer.write(chunk));
      if (!computes) return;
      compute.writeKv(step, slot, byteOffset, chunk);
      const args = { step, byteLength: chunk.length };
      timeline.span('upload', `kv ${owner}`, arrivedMs, performance.now(), { args });
    };
    transport.receive(this.#recvRank, this.#describe(step, step), take, transfer).then(
      () => {
        this.#here.add(step);
        this.#traceReceive(step, startMs);
        this.#received.get(step)!.resolve();
      },
      (error: unknown) => this.#fail(error),
    );
    if (writer) this.#sent.set(step, observed(this.#finishForward(writer, step)));
  }

  async #finishForward(writer: BlockWriter, step: number): Promise<void> {
    const startMs = performance.now();
    await writer.done;
    this.#traceSend(step, startMs);
  }

  /** What fails one block fails every block that has not come. */
  #fail(error: unknown): void {
    for (const { reject } of this.#received.values()) reject(error);
  }

  #traceSend(step: number, startMs: number): void {
    const { plan, opSeq, timeline } = this.#options;
    const { owner, blockBytes } = plan.steps[step];
    const sends: FlowKey = { opSeq, step: step + 1, from: plan.cpRank, to: (plan.cpRank + 1) % plan.cpSize };
    const args = { step, byteLength: blockBytes };
    timeline.span('send', `kv ${owner}`, startMs, performance.now(), { args, sends });
  }

  #traceReceive(step: number, startMs: number): void {
    const { plan, opSeq, timeline } = this.#options;
    const { owner, blockBytes } = plan.steps[step];
    const receives: FlowKey = { opSeq, step, from: (plan.cpRank - 1 + plan.cpSize) % plan.cpSize, to: plan.cpRank };
    const args = { step, byteLength: blockBytes };
    timeline.span('receive', `kv ${owner}`, startMs, performance.now(), { args, receives });
  }
}

interface Deferred {
  promise: Promise<void>;
  resolve(): void;
  reject(error: unknown): void;
}

function createDeferred(): Deferred {
  let settle!: Omit<Deferred, 'promise'>;
  const promise = observed(new Promise<void>((resolve, reject) => (settle = { resolve, reject })));
  return { promise, ...settle };
}

// A rank as the engine uses it: takes its shards from the driver, runs its part of the ring, gives its shards of the
// result back. The same code serves a Node process and a browser tab.
import { invariant } from '../errors.ts';
import type { Gpu } from '../gpu/device.ts';
import { HEADS_BYTES } from '../gpu/heads-buffer.ts';
import type { RankMetrics } from '../trace/counters.ts';
import { type RankTimeline, createTimeline } from '../trace/timeline.ts';
import { type BlockDescriptor, type TransferOptions, type Transport, writeBlock } from '../transport/transport.ts';
import { TENSOR } from './kv-exchange.ts';
import { RankAttention } from './rank-attention.ts';
import { hasHeadValues, type RingCall, type RingPlan, shardBytes } from './ring-plan.ts';

/** What the driver asks of every rank. */
export interface ForwardRequest {
  kind: 'forward';
  call: RingCall;
  timeoutMs: number;
  trace: boolean;
}

/** What a rank answers once its results are on their way. */
export interface ForwardReply {
  metrics: RankMetrics;
  timeline: RankTimeline | null;
}

export interface RankServiceOptions {
  gpu: Gpu;
  transport: Transport;
  /** For traces: the adapter. */
  label: string;
  /** Told each ring step as it begins, and −1 when the ring is done. */
  onStep: (step: number) => void;
}

export class RankService {
  readonly #options: RankServiceOptions;
  readonly #attention: RankAttention;
  /** Host memory of the own KV block, kept from call to call. */
  #kv = new Uint8Array(0);

  constructor(options: RankServiceOptions) {
    this.#options = options;
    this.#attention = new RankAttention(options.gpu);
  }

  /** Serves one call. `signal` ends it when the ring is aborted. */
  async forward({ call, timeoutMs, trace }: ForwardRequest, opSeq: number, signal: AbortSignal): Promise<ForwardReply> {
    const { transport, label, onStep } = this.#options;
    const { rank, worldSize } = transport;
    const transfer: TransferOptions = { signal, timeoutMs };
    const timeline = createTimeline({ rank, label, enabled: trace, clockOffsetMs: performance.timeOrigin });
    const prepared = await this.#attention.prepare(call, rank, worldSize);
    signal.throwIfAborted();
    const { plan, compute } = prepared;
    const driver = worldSize;
    const bytes = shardBytes(plan);
    const describe = (tensor: number, byteLength: number): BlockDescriptor => {
      return { opSeq, step: 0, tensor, byteLength, shapeHash: plan.shapeHash };
    };

    const kv = this.#hostKv(plan);
    const receive = (tensor: number, byteLength: number, write: (offset: number, chunk: Uint8Array) => void) =>
      transport.receive(driver, describe(tensor, byteLength), (chunk, offset) => write(offset, chunk), transfer);
    await Promise.all([
      receive(TENSOR.kv, bytes.kv, (offset, chunk) => kv.set(chunk, offset)),
      receive(TENSOR.q, bytes.q, (offset, chunk) => compute.writeQ(offset, chunk)),
      call.bias && receive(TENSOR.bias, bytes.bias, (offset, chunk) => compute.writeBias(offset, chunk)),
      hasHeadValues(call) && receive(TENSOR.heads, HEADS_BYTES, (offset, chunk) => compute.writeHeads(offset, chunk)),
    ]);
    compute.writeOwnKv(kv);

    const group = Array.from({ length: worldSize }, (_, index) => index);
    const metrics = await this.#attention.run(prepared, {
      link: { transport, group, opSeq, transfer },
      timeline,
      onStep,
    });
    onStep(-1);
    const { out, lse } = await compute.readResult();
    await Promise.all([
      writeBlock(transport.send(driver, describe(TENSOR.out, bytes.out), transfer), out, transport.chunkBytes),
      writeBlock(transport.send(driver, describe(TENSOR.lse, bytes.lse), transfer), lse, transport.chunkBytes),
    ]);
    return { metrics, timeline: trace ? timeline.take() : null };
  }

  close(): void {
    this.#attention.close();
  }

  #hostKv(plan: RingPlan): Uint8Array<ArrayBuffer> {
    const { kv } = shardBytes(plan);
    if (this.#kv.length < kv) this.#kv = new Uint8Array(kv);
    const bytes = this.#kv.subarray(0, kv);
    invariant(bytes.length === kv, 'the host block holds the shard');
    return bytes;
  }
}

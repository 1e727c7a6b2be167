// The engine's end of the ring: cuts whole tensors into shards, hands every rank its own, asks for the call, and puts
// the results together. Returns a whole result or throws; never a part of one.
import type { AttentionInputs, AttentionResult } from '../attention/call.ts';
import type { Coordinator } from '../cluster/coordinator.ts';
import { TransportError, observed } from '../errors.ts';
import { type BlockDescriptor, type TransferOptions, type Transport, writeBlock } from '../transport/transport.ts';
import { TENSOR } from './kv-exchange.ts';
import type { ForwardReply, ForwardRequest } from './rank-service.ts';
import { hasHeadValues, type RingCall, type RingPlan, planRing, shardBytes } from './ring-plan.ts';
import { cutBias, cutKv, cutQ, headBytes, ResultAssembly } from './shard-tensors.ts';

export interface RingDriverOptions {
  coordinator: Coordinator;
  /** The transport of end point worldSize. */
  transport: Transport;
  /** The deadline of a step, in ms. */
  timeoutMs: number;
  trace: boolean;
}

export interface DriverResult extends AttentionResult {
  replies: ForwardReply[];
}

export class RingDriver {
  readonly #options: RingDriverOptions;

  constructor(options: RingDriverOptions) {
    this.#options = options;
  }

  /** Runs one forward on all ranks. Rejects with RingAbortError, or with the signal's reason. */
  async forward(
    inputs: AttentionInputs,
    call: RingCall,
    { signal, timeoutMs = this.#options.timeoutMs }: TransferOptions = {},
  ): Promise<DriverResult> {
    signal?.throwIfAborted();
    const { coordinator, transport, trace } = this.#options;
    const { worldSize } = transport;
    const plans = Array.from({ length: worldSize }, (_, rank) => planRing(call, rank, worldSize));
    const result = new ResultAssembly(call);
    const request: ForwardRequest = { kind: 'forward', call, timeoutMs, trace };
    try {
      let transfers: Promise<unknown> = Promise.resolve();
      const start = (opSeq: number): void => {
        transfers = Promise.all(
          plans.map((plan, rank) => this.#exchange(rank, plan, opSeq, inputs, result, timeoutMs)),
        );
        // Trouble with a rank's data link ends the call even while its control connection lives.
        observed(transfers).catch((error: unknown) => coordinator.report(suspectOf(error), error as Error));
      };
      const replies = await coordinator.call(request, { start, signal });
      await transfers;
      return { ...result.finish(), replies: replies as ForwardReply[] };
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw error;
    }
  }

  async #exchange(
    rank: number,
    plan: RingPlan,
    opSeq: number,
    inputs: AttentionInputs,
    result: ResultAssembly,
    timeoutMs: number,
  ): Promise<void> {
    const { transport } = this.#options;
    const bytes = shardBytes(plan);
    // A rank is quiet for as long as its whole ring takes; the step deadline holds within the ring, not here.
    const transfer: TransferOptions = { timeoutMs: timeoutMs * (plan.cpSize + 1) };
    const describe = (tensor: number, byteLength: number): BlockDescriptor => {
      return { opSeq, step: 0, tensor, byteLength, shapeHash: plan.shapeHash };
    };
    const receive = (tensor: number, target: Uint8Array): Promise<void> => {
      const take = (chunk: Uint8Array, byteOffset: number): void => target.set(chunk, byteOffset);
      return transport.receive(rank, describe(tensor, target.length), take, transfer);
    };
    const send = (tensor: number, data: Uint8Array<ArrayBuffer>): Promise<void> =>
      writeBlock(transport.send(rank, describe(tensor, data.length), transfer), data, transport.chunkBytes);
    const [out, lse] = [new Uint8Array(bytes.out), new Uint8Array(bytes.lse)];
    await Promise.all([
      receive(TENSOR.out, out),
      receive(TENSOR.lse, lse),
      send(TENSOR.kv, cutKv(inputs, plan)),
      send(TENSOR.q, cutQ(inputs, plan)),
      plan.call.bias && send(TENSOR.bias, cutBias(inputs, plan)),
      hasHeadValues(plan.call) && send(TENSOR.heads, headBytes(inputs)),
    ]);
    result.add(plan, out, lse);
  }
}

function suspectOf(error: unknown): number {
  return error instanceof TransportError ? (error.peerRank ?? -1) : -1;
}

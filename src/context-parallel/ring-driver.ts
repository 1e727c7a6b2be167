// The engine's end of the ring: cuts whole tensors into shards, hands every rank its own, asks for the call, and puts
// the results together. Returns a whole result or throws; never a part of one.
import { gatherShard, scatterShard, shardLength } from '../attention/layout.ts';
import { isMasked } from '../attention/merge.ts';
import { type AttentionInputs, type AttentionResult, inferShape } from '../attention/shape.ts';
import type { Coordinator } from '../cluster/coordinator.ts';
import { TransportError, observed } from '../errors.ts';
import { f32Tensor } from '../tensor/tensor.ts';
import { type BlockDescriptor, type TransferOptions, type Transport, writeBlock } from '../transport/transport.ts';
import { TENSOR } from './kv-exchange.ts';
import type { ForwardReply, ForwardRequest } from './rank-service.ts';
import { type AttentionCall, type RingPlan, planRing, shardBytes } from './ring-plan.ts';

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
    call: AttentionCall,
    { signal, timeoutMs = this.#options.timeoutMs }: TransferOptions = {},
  ): Promise<DriverResult> {
    signal?.throwIfAborted();
    const { coordinator, transport, trace } = this.#options;
    const { worldSize } = transport;
    const plans = Array.from({ length: worldSize }, (_, rank) => planRing(call, rank, worldSize));
    const result = createResult(call);
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
      finishLse(result.lse.data);
      return { ...result, replies: replies as ForwardReply[] };
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
    result: AttentionResult,
    timeoutMs: number,
  ): Promise<void> {
    const { transport } = this.#options;
    const bytes = shardBytes(plan);
    // A rank is quiet for as long as its whole ring takes; the step deadline holds within the ring, not here.
    const transfer: TransferOptions = { timeoutMs: timeoutMs * (plan.cpSize + 1) };
    const describe = (tensor: number, byteLength: number): BlockDescriptor => {
      return { opSeq, step: 0, tensor, byteLength, shapeHash: plan.shapeHash };
    };
    const out = new Float32Array(bytes.out / Float32Array.BYTES_PER_ELEMENT);
    const lse = new Float32Array(bytes.lse / Float32Array.BYTES_PER_ELEMENT);
    const receive = (tensor: number, target: Float32Array<ArrayBuffer>): Promise<void> => {
      const view = new Uint8Array(target.buffer);
      const take = (chunk: Uint8Array, byteOffset: number): void => view.set(chunk, byteOffset);
      return transport.receive(rank, describe(tensor, view.length), take, transfer);
    };
    await Promise.all([
      receive(TENSOR.out, out),
      receive(TENSOR.lse, lse),
      writeBlock(
        transport.send(rank, describe(TENSOR.kv, bytes.kv), transfer),
        cutKv(inputs, plan),
        transport.chunkBytes,
      ),
      writeBlock(transport.send(rank, describe(TENSOR.q, bytes.q), transfer), cutQ(inputs, plan), transport.chunkBytes),
    ]);
    const { batch, seqLenQ, numHeads, headDimV } = plan.call.shape;
    scatterShard(result.out.data, out, plan.queryShard, batch, seqLenQ, numHeads * headDimV);
    scatterShard(result.lse.data, lse, plan.queryShard, batch * numHeads, seqLenQ, 1);
  }
}

/** The call that inputs and options make. Throws ConfigError before anything is asked of a rank. */
export function createCall(
  inputs: AttentionInputs,
  {
    maskType,
    softmaxScale,
    layout,
  }: {
    maskType?: 'no_mask' | 'causal' | undefined;
    softmaxScale?: number | undefined;
    layout: AttentionCall['layout'];
  },
): AttentionCall {
  const shape = inferShape(inputs.q, inputs.k, inputs.v);
  const options = { maskType: maskType ?? 'no_mask', softmaxScale: softmaxScale ?? 1 / Math.sqrt(shape.headDimQk) };
  return { shape, options, layout };
}

/** Empty tensors for the result of a call. */
export function createResult({ shape }: AttentionCall): AttentionResult {
  const { batch, seqLenQ, numHeads, headDimV } = shape;
  return { out: f32Tensor([batch, seqLenQ, numHeads, headDimV]), lse: f32Tensor([batch, numHeads, seqLenQ]) };
}

/** On the host a row without a key has lse −Infinity; on the device it has a finite stand-in. */
export function finishLse(lse: Float32Array): void {
  for (let index = 0; index < lse.length; index++) if (isMasked(lse[index])) lse[index] = -Infinity;
}

/** The shard of q of a plan's rank, [B, rows, H, Dqk]. */
export function cutQ({ q }: AttentionInputs, { call, queryShard }: RingPlan): Uint8Array<ArrayBuffer> {
  const { batch, seqLenQ, numHeads, headDimQk } = call.shape;
  return bytesOf(gatherShard(q.data as Float32Array, queryShard, batch, seqLenQ, numHeads * headDimQk));
}

/** The own KV block of a plan's rank as it travels: K [B, rows, Hkv, Dqk], then V [B, rows, Hkv, Dv]. */
export function cutKv({ k, v }: AttentionInputs, plan: RingPlan): Uint8Array<ArrayBuffer> {
  const { batch, seqLenKv, numKvHeads, headDimQk, headDimV } = plan.call.shape;
  const shard = plan.kvShards[plan.cpRank];
  const rows = batch * shardLength(shard) * numKvHeads;
  const block = new Float32Array(rows * (headDimQk + headDimV));
  block.set(gatherShard(k.data as Float32Array, shard, batch, seqLenKv, numKvHeads * headDimQk));
  block.set(gatherShard(v.data as Float32Array, shard, batch, seqLenKv, numKvHeads * headDimV), rows * headDimQk);
  return bytesOf(block);
}

function bytesOf(data: Float32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function suspectOf(error: unknown): number {
  return error instanceof TransportError ? (error.peerRank ?? -1) : -1;
}

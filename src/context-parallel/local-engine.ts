// The engine of one rank: no process, no socket, the plain kernels on one device. The same in Node and in a page.
import {
  type AttentionGradients,
  type AttentionInputs,
  type AttentionResult,
  checkDout,
  kvShape,
  queryShape,
} from '../attention/call.ts';
import { ConfigError } from '../errors.ts';
import type { Gpu } from '../gpu/device.ts';
import { f32Tensor, type HostTensor } from '../tensor/tensor.ts';
import { type RankMetrics, createRankMetrics } from '../trace/counters.ts';
import { type RankTimeline, type Timeline, createTimeline } from '../trace/timeline.ts';
import { CallQueue } from './call-queue.ts';
import {
  type BackwardOptions,
  createRingCall,
  type Engine,
  type EngineOptions,
  type ForwardOptions,
  validateBackward,
} from './engine-options.ts';
import { GpuBlockBackward, type ShardGradients } from './gpu-block-backward.ts';
import { type PreparedCall, RankAttention } from './rank-attention.ts';
import { hasHeadValues, resultDType } from './ring-plan.ts';
import { cutBias, cutDout, cutKv, cutQ, headBytes, restoreTensor, ResultAssembly, viewData } from './shard-tensors.ts';

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
  /** The last forward that gave a result: what backward is of. */
  #forwardCall: PreparedCall | undefined;
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
    const call = createRingCall(inputs, options, this.#options);
    const { signal } = options;
    return this.#queue.run(async () => {
      signal?.throwIfAborted();
      this.#forwardCall = undefined;
      const prepared = await this.#attention.prepare(call, 0, 1);
      const { plan, compute } = prepared;
      compute.writeQ(0, cutQ(inputs, plan));
      compute.writeOwnKv(cutKv(inputs, plan));
      if (call.bias) compute.writeBias(0, cutBias(inputs, plan));
      if (hasHeadValues(call)) compute.writeHeads(0, headBytes(inputs));
      this.#metrics = await this.#attention.run(prepared, { link: undefined, timeline: this.#timeline });
      const { out, lse } = await compute.readResult();
      signal?.throwIfAborted();
      this.#timelines = this.#timeline.enabled ? [this.#timeline.take()] : [];
      this.#forwardCall = prepared;
      const result = new ResultAssembly(call);
      result.add(plan, out, lse);
      return result.finish();
    });
  }

  async backward(dout: HostTensor, options: BackwardOptions = {}): Promise<AttentionGradients> {
    validateBackward(options);
    const { signal } = options;
    return this.#queue.run(async () => {
      signal?.throwIfAborted();
      if (!this.#forwardCall) {
        throw new ConfigError('ERR_ORDER', 'backward: there is no forward to be the backward of; call forward first');
      }
      const { plan, compute } = this.#forwardCall;
      checkDout(dout, plan.call);
      const startMs = performance.now();
      const backward = await GpuBlockBackward.create(this.#gpu, compute);
      try {
        const computeStartMs = performance.now();
        backward.writeDout(cutDout(dout, plan));
        await backward.compute();
        const computeMs = performance.now() - computeStartMs;
        const gradients = await backward.readGradients();
        signal?.throwIfAborted();
        this.#timeline.span('compute', 'backward', startMs, performance.now());
        this.#timelines = this.#timeline.enabled ? [this.#timeline.take()] : [];
        const { peakBytes } = this.#gpu.pool;
        this.#metrics = { ...this.#metrics, peakGpuBytes: peakBytes, computeMs };
        return restoreGradients(gradients, this.#forwardCall);
      } finally {
        backward.destroy();
      }
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

function restoreGradients({ dq, dkv, dbias, dsink }: ShardGradients, { plan }: PreparedCall): AttentionGradients {
  const { call } = plan;
  const { headDimQk, headDimV, seqLenQ, seqLenKv, numHeads } = call.shape;
  const kBytes = (dkv.length / (headDimQk + headDimV)) * headDimQk;
  const restore = (bytes: Uint8Array<ArrayBuffer>, shape: readonly number[]): HostTensor =>
    restoreTensor(viewData(bytes, resultDType(call)), shape, call);
  const f32 = (bytes: Uint8Array<ArrayBuffer>, shape: readonly number[]) =>
    f32Tensor(shape, viewData(bytes, 'f32') as Float32Array<ArrayBuffer>);
  return {
    dq: restore(dq, queryShape(call, headDimQk)),
    dk: restore(dkv.slice(0, kBytes), kvShape(call, headDimQk)),
    dv: restore(dkv.slice(kBytes), kvShape(call, headDimV)),
    ...(dbias && { dbias: f32(dbias, [call.bias!.batch, call.bias!.heads, seqLenQ, seqLenKv]) }),
    ...(dsink && { dsink: f32(dsink, [numHeads]) }),
  };
}

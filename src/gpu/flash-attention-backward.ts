// Driver of flash-attention-backward-dq.wgsl and -dkv.wgsl and of their subgroup variants: gradients of a query shard and one
// KV block, from the final out and lse by way of AttentionDelta. One instance per pair of head dims and set of features; it
// encodes, and neither submits nor allocates tensors.
import {
  type BackwardKernel,
  type BackwardKernelOptions,
  type BackwardKernels,
  type BackwardVariant,
  chooseBackwardKernels,
} from './backward-kernel-choice.ts';
import {
  BACKWARD_ACCESS,
  type BackwardInputs,
  checkBackwardRequest,
  checkBackwardTensors,
  type KeyGradientTensors,
  orderBindings,
  type QueryGradientTensors,
} from './backward-tensors.ts';
import { BindGroupCache, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { checkHeadDims } from './step-checks.ts';
import { type BlockRequest, checkDispatch, createBlockLayout, PreparedBlock } from './prepared-block.ts';

export type { KeyGradientTensors, QueryGradientTensors } from './backward-tensors.ts';

interface CompiledBackward {
  kernels: BackwardKernels;
  options: BackwardKernelOptions;
  queryPipeline: GPUComputePipeline;
  keyPipeline: GPUComputePipeline;
  bindGroups: BindGroupCache;
}

export class FlashAttentionBackward {
  readonly #gpu: Gpu;
  readonly #compiled: CompiledBackward;

  private constructor(gpu: Gpu, compiled: CompiledBackward) {
    this.#gpu = gpu;
    this.#compiled = compiled;
  }

  /**
   * Chooses and compiles both kernels for head dims from 1 to 256. Throws ConfigError ERR_SHAPE for other head dims, and for
   * odd ones with 16-bit elements; DeviceError when the adapter lacks what a forced variant needs or a kernel does not
   * compile.
   */
  static async create(gpu: Gpu, options: BackwardKernelOptions): Promise<FlashAttentionBackward> {
    checkHeadDims('FlashAttentionBackward', options, options.features?.dtype);
    const kernels = chooseBackwardKernels(gpu.adapter, options);
    const layout = createStorageLayout(gpu.device, 'flash-attention-backward', BACKWARD_ACCESS);
    const compile = ({ shader, specialization, overrides }: BackwardKernel): Promise<GPUComputePipeline> => {
      const bindGroupLayouts = [layout, createBlockLayout(gpu.device)];
      return gpu.pipelines.get({ ...specialization, shader, overrides, bindGroupLayouts });
    };
    const [queryPipeline, keyPipeline] = await Promise.all([
      compile(kernels.queryGradients),
      compile(kernels.keyGradients),
    ]);
    const bindGroups = new BindGroupCache(gpu.device, layout);
    return new FlashAttentionBackward(gpu, { kernels, options, queryPipeline, keyPipeline, bindGroups });
  }

  get variant(): BackwardVariant {
    return this.#compiled.kernels.variant;
  }

  /** Query rows of a tile: what a schedule of query tiles must be made with. */
  get queryTileRows(): number {
    return this.#compiled.kernels.queryGradients.tileRows;
  }

  /** KV rows of a tile: what a schedule of key tiles must be made with. */
  get keyTileRows(): number {
    return this.#compiled.kernels.keyGradients.tileRows;
  }

  /** Uploads the work list of a ring step for dq, made by scheduleQueries. The caller destroys the result. */
  prepareQueries(request: BlockRequest): PreparedBlock {
    return this.#prepare(request, this.queryTileRows, { numHeads: request.shape.numHeads });
  }

  /** Uploads the work list of a ring step for dk and dv, made by scheduleKeys. The caller destroys the result. */
  prepareKeys(request: BlockRequest): PreparedBlock {
    return this.#prepare(request, this.keyTileRows, { numKvHeads: request.shape.numKvHeads });
  }

  /** Records dq of the step into `pass`. A block with no tiles records nothing. */
  encodeQueryGradients(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: QueryGradientTensors): void {
    if (block.numTiles === 0) return;
    pass.setPipeline(this.#compiled.queryPipeline);
    this.#bind(pass, block, tensors, tensors.dq);
    pass.dispatchWorkgroups(block.numTiles, block.request.shape.numHeads);
  }

  /** Records dk and dv of the step into `pass`. A block with no tiles records nothing. */
  encodeKeyGradients(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: KeyGradientTensors): void {
    if (block.numTiles === 0) return;
    pass.setPipeline(this.#compiled.keyPipeline);
    this.#bind(pass, block, tensors, tensors.dkv);
    pass.dispatchWorkgroups(block.numTiles, block.request.shape.numKvHeads);
  }

  #prepare(request: BlockRequest, tileRows: number, heads: Readonly<Record<string, number>>): PreparedBlock {
    const { headDimQk, headDimV, features = {} } = this.#compiled.options;
    checkBackwardRequest(this.#gpu, request, { headDimQk, headDimV, features, tileRows });
    checkDispatch(this.#gpu, { tiles: request.schedule.tiles.length, ...heads });
    return new PreparedBlock(this.#gpu, request);
  }

  #bind(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: BackwardInputs, gradient: TensorBinding): void {
    const { options, bindGroups } = this.#compiled;
    checkBackwardTensors('FlashAttentionBackward', block.request, options.features ?? {}, tensors);
    pass.setBindGroup(0, bindGroups.get(orderBindings(tensors, gradient)));
    pass.setBindGroup(1, block.bindGroup);
  }
}

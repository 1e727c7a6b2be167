// Driver of flash-attention-forward.wgsl and flash-attention-forward-subgroup.wgsl: attention of a query shard against
// one KV block. One instance per pair of head dims and set of features; it encodes, and neither submits nor allocates
// tensors.
import { BindGroupCache, createStorageLayout } from './bindings.ts';
import type { Gpu } from './device.ts';
import { checkForwardRequest, checkForwardTensors, type ForwardTensors } from './forward-tensors.ts';
import { checkHeadDims } from './step-checks.ts';
import {
  chooseForwardKernel,
  type ForwardKernel,
  type ForwardKernelOptions,
  type ForwardVariant,
} from './forward-kernel-choice.ts';
import { type BlockRequest, checkDispatch, createBlockLayout, PreparedBlock } from './prepared-block.ts';

export type { ForwardTensors } from './forward-tensors.ts';
export type { PreparedBlock } from './prepared-block.ts';

interface CompiledForward {
  kernel: ForwardKernel;
  options: ForwardKernelOptions;
  pipeline: GPUComputePipeline;
  bindGroups: BindGroupCache;
}

export class FlashAttentionForward {
  readonly #gpu: Gpu;
  readonly #compiled: CompiledForward;

  private constructor(gpu: Gpu, compiled: CompiledForward) {
    this.#gpu = gpu;
    this.#compiled = compiled;
  }

  /**
   * Chooses and compiles the kernel for head dims from 1 to 256. Throws ConfigError ERR_SHAPE for other head dims, and
   * for odd ones with 16-bit elements; DeviceError when the adapter lacks what a forced variant needs or the kernel
   * does not compile.
   */
  static async create(gpu: Gpu, options: ForwardKernelOptions): Promise<FlashAttentionForward> {
    checkHeadDims('FlashAttentionForward', options, options.features?.dtype);
    const kernel = chooseForwardKernel(gpu.adapter, options);
    const access = ['read', 'read', 'read', 'read_write', 'read_write', 'read'] as const;
    const layout = createStorageLayout(gpu.device, 'flash-attention-forward', access);
    const pipeline = await gpu.pipelines.get({
      ...kernel.specialization,
      shader: kernel.shader,
      overrides: kernel.overrides,
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    const bindGroups = new BindGroupCache(gpu.device, layout);
    return new FlashAttentionForward(gpu, { kernel, options, pipeline, bindGroups });
  }

  get variant(): ForwardVariant {
    return this.#compiled.kernel.variant;
  }

  /** Query rows of a tile: what a schedule for this kernel must be made with. */
  get tileRows(): number {
    return this.#compiled.kernel.tileRows;
  }

  /** Keys that a tile takes at a time. */
  get tileKeys(): number {
    return this.#compiled.kernel.tileKeys;
  }

  /** Uploads the work list of a ring step, for this kernel and for MergeBlock. The caller destroys the result. */
  prepareBlock(request: BlockRequest): PreparedBlock {
    const { headDimQk, headDimV, features = {} } = this.#compiled.options;
    checkForwardRequest(this.#gpu, request, { headDimQk, headDimV, features, tileRows: this.tileRows });
    checkDispatch(this.#gpu, { tiles: request.schedule.tiles.length, numHeads: request.shape.numHeads });
    return new PreparedBlock(this.#gpu, request);
  }

  /** Records the step into `pass`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: ForwardTensors): void {
    if (block.numTiles === 0) return;
    const { pipeline, bindGroups, options } = this.#compiled;
    checkForwardTensors('FlashAttentionForward', block.request, options.features ?? {}, tensors);
    const { q, k, v, out, lse, bias } = tensors;
    pass.setPipeline(pipeline);
    // Without a bias nothing reads that binding: any buffer that is only read will do.
    pass.setBindGroup(0, bindGroups.get([q, k, v, out, lse, bias ?? k]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(block.numTiles, block.request.shape.numHeads);
  }
}

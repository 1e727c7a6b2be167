// Driver of flash-attention-forward.wgsl and flash-attention-forward-subgroup.wgsl: attention of a query shard against
// one KV block. One instance per pair of head dims; it encodes, and neither submits nor allocates tensors.
import { MAX_HEAD_DIM } from '../attention/shape.ts';
import { ConfigError } from '../errors.ts';
import { BindGroupCache, checkBindings, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import {
  chooseForwardKernel,
  type ForwardKernel,
  type ForwardKernelOptions,
  type ForwardVariant,
} from './kernel-choice.ts';
import { type BlockRequest, createBlockLayout, PreparedBlock } from './prepared-block.ts';

/** Tensors of one ring step, f32. Offsets are multiples of the device's minStorageBufferOffsetAlignment. */
export interface ForwardTensors {
  /** [B, rowsQ, H, Dqk] */
  q: TensorBinding;
  /** [B, rowsKv, Hkv, Dqk] */
  k: TensorBinding;
  /** [B, rowsKv, Hkv, Dv] */
  v: TensorBinding;
  /** [B, rowsQ, H, Dv], written for the rows of the block's tiles; 0 in a row that saw no key. */
  out: TensorBinding;
  /** [B, H, rowsQ], natural log, written for the same rows; MASKED_LSE in a row that saw no key. */
  lse: TensorBinding;
}

export type { PreparedBlock } from './prepared-block.ts';

export class FlashAttentionForward {
  readonly #gpu: Gpu;
  readonly #kernel: ForwardKernel;
  readonly #options: ForwardKernelOptions;
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;

  private constructor(
    gpu: Gpu,
    kernel: ForwardKernel,
    options: ForwardKernelOptions,
    pipeline: GPUComputePipeline,
    bindGroups: BindGroupCache,
  ) {
    this.#gpu = gpu;
    this.#kernel = kernel;
    this.#options = options;
    this.#pipeline = pipeline;
    this.#bindGroups = bindGroups;
  }

  /**
   * Chooses and compiles the kernel for head dims from 1 to {@link MAX_HEAD_DIM}. Throws ConfigError ERR_SHAPE for other
   * head dims, and DeviceError when the adapter lacks what a forced variant needs or the kernel does not compile.
   */
  static async create(gpu: Gpu, options: ForwardKernelOptions): Promise<FlashAttentionForward> {
    for (const name of ['headDimQk', 'headDimV'] as const) {
      const value = options[name];
      if (!Number.isSafeInteger(value) || value < 1 || value > MAX_HEAD_DIM) {
        throw new ConfigError(
          'ERR_SHAPE',
          `FlashAttentionForward: ${name} must be an integer from 1 to ${MAX_HEAD_DIM}, got ${name}=${value}`,
        );
      }
    }
    const kernel = chooseForwardKernel(gpu.adapter, options);
    const access = ['read', 'read', 'read', 'read_write', 'read_write'] as const;
    const layout = createStorageLayout(gpu.device, 'flash-attention-forward', access);
    const pipeline = await gpu.pipelines.get({
      ...kernel.specialization,
      shader: kernel.shader,
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new FlashAttentionForward(gpu, kernel, options, pipeline, new BindGroupCache(gpu.device, layout));
  }

  get variant(): ForwardVariant {
    return this.#kernel.variant;
  }

  /** Query rows of a tile: what a schedule for this kernel must be made with. */
  get tileRows(): number {
    return this.#kernel.tileRows;
  }

  /** Keys that a tile takes at a time. */
  get tileKeys(): number {
    return this.#kernel.tileKeys;
  }

  /** Uploads the work list of a ring step, for this kernel and for MergeBlock. The caller destroys the result. */
  prepareBlock(request: BlockRequest): PreparedBlock {
    const tooLarge = request.schedule.tiles.find(({ rowCount }) => rowCount > this.tileRows);
    if (tooLarge) {
      throw new ConfigError(
        'ERR_OPTION',
        `prepareBlock: tiles must have at most tileRows=${this.tileRows} rows, got rowCount=${tooLarge.rowCount}`,
      );
    }
    return new PreparedBlock(this.#gpu, request, this.#options);
  }

  /** Records the step into `pass`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, { q, k, v, out, lse }: ForwardTensors): void {
    if (block.workgroups[0] === 0) return;
    checkBindings('FlashAttentionForward', { q, k, v, out, lse }, { ...block.tensorSizes });
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get([q, k, v, out, lse]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(...block.workgroups);
  }
}

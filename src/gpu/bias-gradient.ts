// Driver of bias-gradient.wgsl: the gradient of the additive bias, from one KV block. One instance per pair of head dims and
// set of features; it encodes, and neither submits nor allocates tensors.
import { featureSpecialization } from './backward-kernel-choice.ts';
import {
  BACKWARD_ACCESS,
  type BiasGradientTensors,
  checkBackwardRequest,
  checkBackwardTensors,
  orderBindings,
} from './backward-tensors.ts';
import { BindGroupCache, createStorageLayout } from './bindings.ts';
import type { Gpu } from './device.ts';
import { checkHeadDims } from './step-checks.ts';
import type { HeadDims, KernelFeatures } from './kernel-features.ts';
import { type BlockRequest, checkDispatch, createBlockLayout, PreparedBlock } from './prepared-block.ts';

export interface BiasGradientOptions extends HeadDims {
  /** What the calls to come use; `bias` is true. */
  features: KernelFeatures;
}

/** ROW_GROUPS · ROWS of bias-gradient.wgsl. */
const TILE_ROWS = 64;

export class BiasGradient {
  readonly #gpu: Gpu;
  readonly #options: BiasGradientOptions;
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;

  private constructor(
    gpu: Gpu,
    options: BiasGradientOptions,
    pipeline: GPUComputePipeline,
    layout: GPUBindGroupLayout,
  ) {
    this.#gpu = gpu;
    this.#options = options;
    this.#pipeline = pipeline;
    this.#bindGroups = new BindGroupCache(gpu.device, layout);
  }

  /** Compiles the kernel. Throws ConfigError ERR_SHAPE like FlashAttentionBackward.create. */
  static async create(gpu: Gpu, options: BiasGradientOptions): Promise<BiasGradient> {
    const { headDimQk, headDimV, features } = options;
    checkHeadDims('BiasGradient', options, features.dtype);
    const layout = createStorageLayout(gpu.device, 'bias-gradient', BACKWARD_ACCESS);
    const { constants, overrides } = featureSpecialization(features);
    const pipeline = await gpu.pipelines.get({
      shader: 'bias-gradient.wgsl',
      constants: { ...constants, HEAD_DIM_QK: headDimQk, HEAD_DIM_V: headDimV },
      overrides,
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new BiasGradient(gpu, options, pipeline, layout);
  }

  /** Query rows of a tile: what a schedule for this kernel must be made with. */
  get tileRows(): number {
    return TILE_ROWS;
  }

  /** Uploads the work list of a ring step, made by scheduleQueries. The caller destroys the result. */
  prepareBlock(request: BlockRequest): PreparedBlock {
    checkBackwardRequest(this.#gpu, request, { ...this.#options, tileRows: TILE_ROWS });
    checkDispatch(this.#gpu, { tiles: request.schedule.tiles.length, biasHeads: request.bias?.heads ?? 0 });
    return new PreparedBlock(this.#gpu, request);
  }

  /** Records the step into `pass`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: BiasGradientTensors): void {
    if (block.numTiles === 0) return;
    checkBackwardTensors('BiasGradient', block.request, this.#options.features, tensors);
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get(orderBindings(tensors, tensors.dbias)));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(block.numTiles, block.request.bias?.heads ?? 0);
  }
}

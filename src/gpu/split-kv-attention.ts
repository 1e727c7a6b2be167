// Driver of the attention of few query rows against many keys: splits of the keys by split-kv-attention.wgsl, or by
// flash-attention-forward-subgroup.wgsl on a software adapter, and merge-splits.wgsl. It encodes, and does not submit;
// the partial results of a block live as long as the block.
import { invariant } from '../errors.ts';
import { BindGroupCache, createStorageLayout } from './bindings.ts';
import type { Gpu } from './device.ts';
import { checkForwardRequest, checkForwardTensors, type ForwardTensors } from './forward-tensors.ts';
import { checkHeadDims } from './step-checks.ts';
import { chooseSplitKernel, type SplitKernel, type SplitKernelOptions } from './split-kernel-choice.ts';
import { type BlockRequest, checkDispatch, createBlockLayout, type PreparedBlock } from './prepared-block.ts';
import { SplitKvBlock } from './split-kv-block.ts';

interface CompiledSplit {
  kernel: SplitKernel;
  options: SplitKernelOptions;
  split: GPUComputePipeline;
  merge: GPUComputePipeline;
  splitGroups: BindGroupCache;
  mergeGroups: BindGroupCache;
}

export class SplitKvAttention {
  readonly #gpu: Gpu;
  readonly #compiled: CompiledSplit;

  private constructor(gpu: Gpu, compiled: CompiledSplit) {
    this.#gpu = gpu;
    this.#compiled = compiled;
  }

  /** Compiles both kernels. Throws ConfigError ERR_SHAPE as {@link checkHeadDims} does. */
  static async create(gpu: Gpu, options: SplitKernelOptions): Promise<SplitKvAttention> {
    checkHeadDims('SplitKvAttention', options, options.features?.dtype);
    const { device, pipelines } = gpu;
    const kernel = chooseSplitKernel(gpu.adapter, options);
    const access = ['read', 'read', 'read', 'read_write', 'read_write', 'read'] as const;
    const splitLayout = createStorageLayout(device, 'split-kv-attention', access);
    const mergeLayout = createStorageLayout(device, 'merge-splits', ['read', 'read', 'read_write', 'read_write']);
    const blockLayout = createBlockLayout(device);
    const [split, merge] = await Promise.all([
      pipelines.get({
        ...kernel.specialization,
        shader: kernel.shader,
        overrides: kernel.overrides,
        bindGroupLayouts: [splitLayout, blockLayout],
      }),
      pipelines.get({
        shader: 'merge-splits.wgsl',
        overrides: kernel.mergeOverrides,
        bindGroupLayouts: [mergeLayout, blockLayout],
      }),
    ]);
    const splitGroups = new BindGroupCache(device, splitLayout);
    const mergeGroups = new BindGroupCache(device, mergeLayout);
    return new SplitKvAttention(gpu, { kernel, options, split, merge, splitGroups, mergeGroups });
  }

  /** Query rows of a tile: what a schedule for this kernel must be made with. */
  get tileRows(): number {
    return this.#compiled.kernel.tileRows;
  }

  /** Keys that a workgroup takes at a time. */
  get tileKeys(): number {
    return this.#compiled.kernel.tileKeys;
  }

  /** Uploads the work list of a ring step, for this kernel and for MergeBlock. The caller destroys the result. */
  prepareBlock(request: BlockRequest): PreparedBlock {
    const { headDimQk, headDimV, features = {} } = this.#compiled.options;
    checkForwardRequest(this.#gpu, request, { headDimQk, headDimV, features, tileRows: this.tileRows });
    const block = new SplitKvBlock(this.#gpu, request, this.tileRows);
    checkDispatch(this.#gpu, { splits: block.splits.numTiles, numHeads: request.shape.numHeads });
    return block;
  }

  /** Records the splits and their merge into `pass`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: ForwardTensors): void {
    if (block.numTiles === 0) return;
    invariant(block instanceof SplitKvBlock, 'SplitKvAttention: the block must be one of its own prepareBlock');
    const { kernel, options, split, merge, splitGroups, mergeGroups } = this.#compiled;
    checkForwardTensors('SplitKvAttention', block.request, options.features ?? {}, tensors);
    const { q, k, v, out, lse, bias } = tensors;
    const { splits, splitOut, splitState } = block;
    const { numHeads, numKvHeads } = block.request.shape;
    if (splits.numTiles > 0) {
      pass.setPipeline(split);
      // Without a bias nothing reads that binding: any buffer that is only read will do.
      pass.setBindGroup(0, splitGroups.get([q, k, v, splitOut, splitState, bias ?? k]));
      pass.setBindGroup(1, splits.bindGroup);
      const packedRows = this.tileRows * (numHeads / numKvHeads);
      pass.dispatchWorkgroups(splits.numTiles, numKvHeads, Math.ceil(packedRows / kernel.workgroupRows));
    }
    pass.setPipeline(merge);
    pass.setBindGroup(0, mergeGroups.get([splitOut, splitState, out, lse]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(block.numTiles, numHeads);
  }
}

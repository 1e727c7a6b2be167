// Driver of merge-block.wgsl: merges one ring step's partial result into the running one, for the rows of the step's
// tiles. One instance serves every shape; it encodes, and neither submits nor allocates tensors.
import { BindGroupCache, checkBindings, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { createBlockLayout, type PreparedBlock } from './prepared-block.ts';

/** Tensors of a merge, f32. The four buffers do not overlap. */
export interface MergeTensors {
  /** [B, rowsQ, H, Dv], the running result: read and written. */
  out: TensorBinding;
  /** [B, H, rowsQ] */
  lse: TensorBinding;
  /** [B, rowsQ, H, Dv], the step's result. */
  blockOut: TensorBinding;
  /** [B, H, rowsQ] */
  blockLse: TensorBinding;
}

export class MergeBlock {
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;

  private constructor(pipeline: GPUComputePipeline, bindGroups: BindGroupCache) {
    this.#pipeline = pipeline;
    this.#bindGroups = bindGroups;
  }

  /** Compiles the kernel; it is the same for every head dim. */
  static async create(gpu: Gpu): Promise<MergeBlock> {
    const layout = createStorageLayout(gpu.device, 'merge-block', ['read', 'read', 'read_write', 'read_write']);
    const pipeline = await gpu.pipelines.get({
      shader: 'merge-block.wgsl',
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new MergeBlock(pipeline, new BindGroupCache(gpu.device, layout));
  }

  /** Records the merge into `pass`, for the block that produced `blockOut`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, { out, lse, blockOut, blockLse }: MergeTensors): void {
    if (block.workgroups[0] === 0) return;
    const sizes = block.tensorSizes;
    checkBindings(
      'MergeBlock',
      { out, lse, blockOut, blockLse },
      { out: sizes.out, lse: sizes.lse, blockOut: sizes.out, blockLse: sizes.lse },
    );
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get([blockOut, blockLse, out, lse]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(...block.workgroups);
  }
}

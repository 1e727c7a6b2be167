// Driver of merge-block.wgsl: merges one ring step's partial result into the running one, for the rows of the step's
// tiles. One instance serves every shape; it encodes, and neither submits nor allocates tensors.
import { BindGroupCache, checkBindings, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { lseSize, outSize } from './forward-tensors.ts';
import { createBlockLayout, type PreparedBlock } from './prepared-block.ts';

/** Tensors of a merge, f32. The four buffers do not overlap. */
export interface MergeTensors {
  /** [B, rowsQ, H, Dv], the running result: read and written. */
  out: TensorBinding;
  /** [B, H, rowsQ]; with max logit twice as long: the largest scores follow. */
  lse: TensorBinding;
  /** [B, rowsQ, H, Dv], the step's result. */
  blockOut: TensorBinding;
  /** Like lse. */
  blockLse: TensorBinding;
}

export interface MergeOptions {
  /** Also merge the largest score of each row, behind lse. Default false. */
  maxLogit?: boolean;
  /**
   * Invocations that share a row. Default: 16 on a GPU, so that neighbours read neighbours; 1 on a software adapter, where
   * nothing then waits.
   */
  columns?: 1 | 16;
}

/** Invocations of a workgroup whose rows are shared. */
const SHARED_WORKGROUP_SIZE = 256;

export class MergeBlock {
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;
  readonly #maxLogit: boolean;

  private constructor(pipeline: GPUComputePipeline, bindGroups: BindGroupCache, maxLogit: boolean) {
    this.#pipeline = pipeline;
    this.#bindGroups = bindGroups;
    this.#maxLogit = maxLogit;
  }

  /** Compiles the kernel; it is the same for every head dim. */
  static async create(gpu: Gpu, options: MergeOptions = {}): Promise<MergeBlock> {
    const { maxLogit = false, columns = gpu.adapter.isSoftware ? 1 : 16 } = options;
    const layout = createStorageLayout(gpu.device, 'merge-block', ['read', 'read', 'read_write', 'read_write']);
    const shared = columns === 1 ? {} : { WORKGROUP_SIZE: SHARED_WORKGROUP_SIZE, COLUMNS: columns };
    const pipeline = await gpu.pipelines.get({
      shader: 'merge-block.wgsl',
      overrides: { ...shared, TRACKS_MAX: Number(maxLogit) },
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new MergeBlock(pipeline, new BindGroupCache(gpu.device, layout), maxLogit);
  }

  /** Records the merge into `pass`, for the block that produced `blockOut`. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, { out, lse, blockOut, blockLse }: MergeTensors): void {
    if (block.numTiles === 0) return;
    const [outBytes, lseBytes] = [outSize(block.request), lseSize(block.request, this.#maxLogit)];
    checkBindings(
      'MergeBlock',
      { out, lse, blockOut, blockLse },
      { out: outBytes, lse: lseBytes, blockOut: outBytes, blockLse: lseBytes },
    );
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get([blockOut, blockLse, out, lse]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(block.numTiles, block.request.shape.numHeads);
  }
}

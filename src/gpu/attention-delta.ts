// Driver of attention-delta.wgsl: what the backward kernels need of each query row, from the final out and lse. One
// instance per dtype serves every shape; it encodes, and neither submits nor allocates tensors.
import { BYTES_PER_ELEMENT } from '../tensor/tensor.ts';
import { BindGroupCache, checkBindings, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { elementFormat, type KernelFeatures } from './kernel-features.ts';
import { createBlockLayout, type PreparedBlock } from './prepared-block.ts';

/** Offsets are multiples of the device's minStorageBufferOffsetAlignment. */
export interface DeltaTensors {
  /** [B, rowsQ, H, Dv] f32: of all keys, not of one block. */
  out: TensorBinding;
  /** [B, rowsQ, H, Dv], stored as the kernel's dtype says. */
  dout: TensorBinding;
  /** [B, H, rowsQ] f32, natural log, MASKED_LSE in a row without a key; what lies behind it is not looked at. */
  lse: TensorBinding;
  /** [B, H, rowsQ] of two f32, written for the rows of the block's tiles: lse · log2(e), and Σ_d dout · out. */
  rowStats: TensorBinding;
}

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

export class AttentionDelta {
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;
  readonly #elementBytes: number;

  private constructor(pipeline: GPUComputePipeline, bindGroups: BindGroupCache, elementBytes: number) {
    this.#pipeline = pipeline;
    this.#bindGroups = bindGroups;
    this.#elementBytes = elementBytes;
  }

  /** Compiles the kernel; it is the same for every head dim. Of the features only the dtype matters. */
  static async create(gpu: Gpu, { features = {} }: { features?: KernelFeatures } = {}): Promise<AttentionDelta> {
    const { dtype = 'f32' } = features;
    const layout = createStorageLayout(gpu.device, 'attention-delta', ['read', 'read', 'read', 'read_write']);
    const pipeline = await gpu.pipelines.get({
      shader: 'attention-delta.wgsl',
      constants: { ELEMENT_FORMAT: elementFormat(dtype).format },
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new AttentionDelta(pipeline, new BindGroupCache(gpu.device, layout), BYTES_PER_ELEMENT[dtype]);
  }

  /**
   * Records the step into `pass`, for a block of query tiles with any number of rows. The block lists every row of the shard
   * (`everyRow`): rows of no tile keep what was there. A block with no tiles records nothing.
   */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, { out, dout, lse, rowStats }: DeltaTensors): void {
    if (block.numTiles === 0) return;
    const { shape, rowsQ } = block.request;
    const rows = shape.batch * shape.numHeads * rowsQ;
    checkBindings(
      'AttentionDelta',
      { out, dout, lse, rowStats },
      {
        out: rows * shape.headDimV * F32_BYTES,
        dout: rows * shape.headDimV * this.#elementBytes,
        lse: rows * F32_BYTES,
        rowStats: rows * 2 * F32_BYTES,
      },
    );
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get([out, dout, lse, rowStats]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(block.numTiles, shape.numHeads);
  }
}

// Driver of sink-gradient.wgsl: the gradient of the sinks' logits. One instance serves every shape; it encodes, and neither
// submits nor allocates tensors.
import { BindGroupCache, checkBindings, createStorageLayout, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { createBlockLayout, type PreparedBlock } from './prepared-block.ts';

/** Offsets are multiples of the device's minStorageBufferOffsetAlignment. */
export interface SinkGradientTensors {
  /** [B, H, rowsQ] of two f32: what AttentionDelta writes. */
  rowStats: TensorBinding;
  /** [H] f32, written. */
  dsink: TensorBinding;
}

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

export class SinkGradient {
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;

  private constructor(pipeline: GPUComputePipeline, bindGroups: BindGroupCache) {
    this.#pipeline = pipeline;
    this.#bindGroups = bindGroups;
  }

  static async create(gpu: Gpu): Promise<SinkGradient> {
    const layout = createStorageLayout(gpu.device, 'sink-gradient', ['read', 'read_write']);
    const pipeline = await gpu.pipelines.get({
      shader: 'sink-gradient.wgsl',
      bindGroupLayouts: [layout, createBlockLayout(gpu.device)],
    });
    return new SinkGradient(pipeline, new BindGroupCache(gpu.device, layout));
  }

  /**
   * Records the sum over this shard's rows into `pass`. `block` has the query tiles that AttentionDelta was given: every row
   * of the shard that is in a sequence. The sinks are those of its `Heads`. With no tiles dsink is 0.
   */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, { rowStats, dsink }: SinkGradientTensors): void {
    const { shape, rowsQ } = block.request;
    checkBindings(
      'SinkGradient',
      { rowStats, dsink },
      { rowStats: shape.batch * shape.numHeads * rowsQ * 2 * F32_BYTES, dsink: shape.numHeads * F32_BYTES },
    );
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindGroups.get([rowStats, dsink]));
    pass.setBindGroup(1, block.bindGroup);
    pass.dispatchWorkgroups(shape.numHeads);
  }
}

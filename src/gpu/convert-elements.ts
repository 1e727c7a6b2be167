// Driver of convert-elements.wgsl: rounds f32 results to the 16-bit dtype of a call, bit for bit as
// src/tensor/float16.ts does. It encodes, and neither submits nor allocates.
import { ConfigError } from '../errors.ts';
import type { FloatDType } from '../tensor/tensor.ts';
import { BindGroupCache, checkBindings, createStorageLayout, resolveBinding, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import { elementFormat } from './kernel-features.ts';

export interface ConvertRequest {
  /** `numElements` f32. */
  source: TensorBinding;
  /** `numElements` elements of the dtype. Does not overlap the source. */
  target: TensorBinding;
  /** Even: two elements share a word. */
  numElements: number;
}

const F32_BYTES = 4;
const ELEMENT_BYTES = 2;
const WORKGROUP_SIZE = 64;

export class ConvertElements {
  readonly #pipeline: GPUComputePipeline;
  readonly #bindGroups: BindGroupCache;
  readonly #maxWorkgroups: number;

  private constructor(gpu: Gpu, pipeline: GPUComputePipeline, layout: GPUBindGroupLayout) {
    this.#pipeline = pipeline;
    this.#bindGroups = new BindGroupCache(gpu.device, layout);
    this.#maxWorkgroups = gpu.adapter.limits.maxComputeWorkgroupsPerDimension;
  }

  /** Compiles the kernel for a dtype. */
  static async create(gpu: Gpu, { dtype }: { dtype: Exclude<FloatDType, 'f32'> }): Promise<ConvertElements> {
    const layout = createStorageLayout(gpu.device, 'convert-elements', ['read', 'read_write']);
    const pipeline = await gpu.pipelines.get({
      shader: 'convert-elements.wgsl',
      constants: { ELEMENT_FORMAT: elementFormat(dtype).format },
      overrides: { WORKGROUP_SIZE },
      bindGroupLayouts: [layout],
    });
    return new ConvertElements(gpu, pipeline, layout);
  }

  /** Records the conversion into `pass`. Throws ConfigError ERR_SHAPE for an odd number of elements or short tensors. */
  encode(pass: GPUComputePassEncoder, { source, target, numElements }: ConvertRequest): void {
    if (!Number.isSafeInteger(numElements) || numElements < 0 || numElements % 2 !== 0) {
      throw new ConfigError(
        'ERR_SHAPE',
        `ConvertElements: numElements must be even, since two share a word, got numElements=${numElements}`,
      );
    }
    if (numElements === 0) return;
    const sizes = { source: numElements * F32_BYTES, target: numElements * ELEMENT_BYTES };
    checkBindings('ConvertElements', { source, target }, sizes);
    pass.setPipeline(this.#pipeline);
    // The kernel takes the number of elements from the size of its bindings: pooled buffers are longer.
    const bindings = [
      { ...resolveBinding(source), size: sizes.source },
      { ...resolveBinding(target), size: sizes.target },
    ];
    pass.setBindGroup(0, this.#bindGroups.get(bindings));
    const workgroups = Math.ceil(numElements / 2 / WORKGROUP_SIZE);
    pass.dispatchWorkgroups(Math.min(workgroups, this.#maxWorkgroups));
  }
}

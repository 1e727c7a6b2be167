// Bind group layouts of storage buffers, and a cache of bind groups, so that a steady ring step creates no GPU object.
import { ConfigError } from '../errors.ts';
import { SHADER_STAGE_COMPUTE } from './webgpu-constants.ts';

/** How a kernel uses each of its tensors, in binding order. */
export type StorageAccess = 'read' | 'read_write';

/** A tensor as a kernel binds it: a whole buffer, or a range of one. */
export type TensorBinding = GPUBuffer | GPUBufferBinding;

/** The layout of group 0: one storage buffer per entry of `access`. */
export function createStorageLayout(
  device: GPUDevice,
  label: string,
  access: readonly StorageAccess[],
): GPUBindGroupLayout {
  return device.createBindGroupLayout({
    label,
    entries: access.map((mode, binding) => ({
      binding,
      visibility: SHADER_STAGE_COMPUTE,
      buffer: { type: mode === 'read' ? 'read-only-storage' : 'storage' },
    })),
  });
}

/** The buffer, offset and size of a binding, with the defaults of WebGPU filled in. */
export function resolveBinding(binding: TensorBinding): Required<GPUBufferBinding> {
  if (!('buffer' in binding)) return { buffer: binding, offset: 0, size: binding.size };
  const { buffer, offset = 0, size = buffer.size - offset } = binding;
  return { buffer, offset, size };
}

/**
 * Throws a ConfigError ERR_SHAPE unless each binding spans at least the bytes that its tensor needs: a shader's access
 * past the end of a binding is silently redirected, so that a short buffer would give wrong numbers and no error.
 */
export function checkBindings(
  operation: string,
  bindings: Readonly<Record<string, TensorBinding>>,
  needed: Readonly<Record<string, number>>,
): void {
  for (const [name, binding] of Object.entries(bindings)) {
    const { size } = resolveBinding(binding);
    if (size < needed[name]) {
      throw new ConfigError('ERR_SHAPE', `${operation}: ${name} must span ${needed[name]} bytes, got size=${size}`);
    }
  }
}

/** Ring steps alternate between a few sets of buffers; a caller with more pays for a new bind group now and then. */
const MAX_BIND_GROUPS = 64;

/** Bind groups of one layout, by the buffers, offsets and sizes that they bind. */
export class BindGroupCache {
  readonly #device: GPUDevice;
  readonly #layout: GPUBindGroupLayout;
  readonly #bufferIds = new WeakMap<GPUBuffer, number>();
  readonly #groups = new Map<string, GPUBindGroup>();
  #nextId = 0;

  constructor(device: GPUDevice, layout: GPUBindGroupLayout) {
    this.#device = device;
    this.#layout = layout;
  }

  /** The bind group of these bindings, in binding order. */
  get(bindings: readonly TensorBinding[]): GPUBindGroup {
    const resources = bindings.map(resolveBinding);
    const key = resources.map((resource) => this.#keyOf(resource)).join();
    let group = this.#groups.get(key);
    if (!group) {
      if (this.#groups.size >= MAX_BIND_GROUPS) this.#groups.clear();
      group = this.#device.createBindGroup({
        layout: this.#layout,
        entries: resources.map((resource, binding) => ({ binding, resource })),
      });
      this.#groups.set(key, group);
    }
    return group;
  }

  #keyOf({ buffer, offset, size }: Required<GPUBufferBinding>): string {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) {
      id = this.#nextId++;
      this.#bufferIds.set(buffer, id);
    }
    return `${id}:${offset}:${size}`;
  }
}

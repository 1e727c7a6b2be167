// One WebGPU device and what belongs to it: adapter facts, buffer pool, pipeline cache. Loss of the device and errors
// that no error scope catches surface as DeviceError; nothing is printed.
import { DeviceError } from '../errors.ts';
import { type AdapterFacts, readAdapterFacts } from './adapter-facts.ts';
import { BufferPool } from './buffer-pool.ts';
import { PipelineCache } from './pipeline-cache.ts';
import { type BufferPart, readBuffers } from './readback.ts';
import type { ShaderLibrary } from './shader-library.ts';

/** A device that is ready for kvring's kernels. */
export interface Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterFacts;
  readonly pool: BufferPool;
  readonly pipelines: PipelineCache;
  /** Resolves with ERR_DEVICE_LOST when the device is lost for any other reason than {@link close}. Never rejects. */
  readonly lost: Promise<DeviceError>;
  /**
   * The bytes of some buffers, one part after another, once all work that was submitted before is done. One submit, one
   * pooled staging buffer. Throws DeviceError when the device failed meanwhile.
   */
  read(parts: readonly BufferPart[]): Promise<Uint8Array<ArrayBuffer>>;
  /** Resolves when all work that was submitted so far is done; throws DeviceError when the device failed meanwhile. */
  submittedWorkDone(): Promise<void>;
  /** Throws the DeviceError of a lost device, or the first error that no error scope caught. Cheap: call it per step. */
  throwIfFailed(): void;
  /** Frees the pool's buffers, and the device unless the caller brought it. Idempotent. */
  close(): void;
}

export interface RequestGpuOptions {
  /** Default `high-performance`. */
  powerPreference?: GPUPowerPreference;
}

/** Features that kernels use when the adapter has them. */
const WANTED_FEATURES: readonly string[] = ['subgroups', 'shader-f16', 'timestamp-query'];

/** Limits that a device only gets when it asks: all are raised to what the adapter has. */
const RAISED_LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
] as const satisfies readonly (keyof GPUSupportedLimits)[];

/**
 * A device of `gpu`'s preferred adapter, with every limit that kernels care about raised to the adapter's. The result
 * keeps `gpu` reachable: Dawn in Node crashes when that object is collected before its devices.
 * Throws DeviceError ERR_NO_ADAPTER when there is no adapter.
 */
export async function requestGpu(gpu: GPU, shaders: ShaderLibrary, options: RequestGpuOptions = {}): Promise<Gpu> {
  const powerPreference = options.powerPreference ?? 'high-performance';
  const adapter = await gpu.requestAdapter({ powerPreference });
  if (!adapter) {
    throw new DeviceError('ERR_NO_ADAPTER', 'requestGpu: no WebGPU adapter; `kvring doctor` says what is missing');
  }
  const requiredFeatures = WANTED_FEATURES.filter((name) => adapter.features.has(name)) as GPUFeatureName[];
  const requiredLimits = Object.fromEntries(RAISED_LIMITS.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ label: 'kvring', requiredFeatures, requiredLimits });
  return new GpuContext(device, shaders, gpu);
}

/** Wraps a caller's device, with the features and limits that it has. `close()` leaves the device alone. */
export function adoptDevice(device: GPUDevice, shaders: ShaderLibrary): Gpu {
  return new GpuContext(device, shaders, undefined);
}

class GpuContext implements Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterFacts;
  readonly pool: BufferPool;
  readonly pipelines: PipelineCache;
  readonly lost: Promise<DeviceError>;
  /** Set exactly when this object owns the device. */
  readonly #instance: GPU | undefined;
  #failure: DeviceError | undefined;
  #closed = false;

  constructor(device: GPUDevice, shaders: ShaderLibrary, instance: GPU | undefined) {
    this.device = device;
    this.#instance = instance;
    this.adapter = readAdapterFacts(device);
    this.pool = new BufferPool(device);
    this.pipelines = new PipelineCache(device, shaders);
    this.lost = new Promise((resolve) => {
      void device.lost.then(({ reason, message }) => {
        if (this.#closed) return;
        const error = new DeviceError('ERR_DEVICE_LOST', `the GPU device was lost (${reason}): ${message}`);
        this.#failure = error;
        resolve(error);
      });
    });
    device.addEventListener('uncapturederror', this.#onUncapturedError);
  }

  async read(parts: readonly BufferPart[]): Promise<Uint8Array<ArrayBuffer>> {
    try {
      const bytes = await readBuffers(this.device, this.pool, parts);
      this.throwIfFailed();
      return bytes;
    } catch (cause) {
      this.throwIfFailed();
      if (cause instanceof DeviceError) throw cause;
      throw new DeviceError('ERR_GPU', `Gpu.read: the GPU gave no result: ${(cause as Error).message}`, { cause });
    }
  }

  async submittedWorkDone(): Promise<void> {
    await this.device.queue.onSubmittedWorkDone();
    this.throwIfFailed();
  }

  throwIfFailed(): void {
    if (this.#failure) throw this.#failure;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.device.removeEventListener('uncapturederror', this.#onUncapturedError);
    this.pool.destroy();
    if (this.#instance) this.device.destroy();
  }

  readonly #onUncapturedError = (event: GPUUncapturedErrorEvent): void => {
    // The host would print it as well.
    event.preventDefault();
    this.#failure ??= new DeviceError('ERR_GPU', `the GPU reported an error: ${event.error.message}`);
  };
}

// GPU buffers that are used again instead of created again, with an account of the bytes. A released buffer may still be
// in use by work that was submitted before: the queue runs in order, so its next user comes after.
import { DeviceError, invariant } from '../errors.ts';

export interface BufferRequest {
  label: string;
  /** Rounded up to a multiple of {@link SIZE_STEP}. */
  byteLength: number;
  usage: GPUBufferUsageFlags;
}

/** Buffers of nearly the same size share a class. Also keeps every size a multiple of 4, as WebGPU copies want. */
const SIZE_STEP = 256;

export class BufferPool {
  readonly #device: GPUDevice;
  readonly #idle = new Map<string, GPUBuffer[]>();
  readonly #acquired = new Set<GPUBuffer>();
  #liveBytes = 0;
  #allocatedBytes = 0;
  #peakBytes = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Bytes of the buffers that somebody holds. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  /** Bytes of all buffers of the pool, held or idle: what the pool takes from the GPU. */
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  /** The largest {@link allocatedBytes} since the start or the last {@link resetPeak}. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  resetPeak(): void {
    this.#peakBytes = this.#allocatedBytes;
  }

  /**
   * A buffer of at least `byteLength` bytes. Its content is undefined: a fresh one is zero, a used one is not.
   * Throws DeviceError ERR_LIMIT when the device does not make buffers of that size.
   */
  acquire({ label, byteLength, usage }: BufferRequest): GPUBuffer {
    const rounded = Math.max(1, Math.ceil(byteLength / SIZE_STEP)) * SIZE_STEP;
    const { maxBufferSize } = this.#device.limits;
    if (rounded > maxBufferSize) {
      throw new DeviceError(
        'ERR_LIMIT',
        `BufferPool.acquire: ${label} must fit maxBufferSize, got byteLength=${rounded}, maxBufferSize=${maxBufferSize}; ` +
          'split the sequence over more ranks',
      );
    }
    let buffer = this.#idle.get(sizeClass(rounded, usage))?.pop();
    if (buffer) {
      buffer.label = label;
    } else {
      buffer = this.#device.createBuffer({ label, size: rounded, usage });
      this.#allocatedBytes += rounded;
      this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes);
    }
    this.#acquired.add(buffer);
    this.#liveBytes += rounded;
    return buffer;
  }

  /** Gives a buffer back. It must come from this pool, be unmapped, and not be used again by its former holder. */
  release(buffer: GPUBuffer): void {
    invariant(this.#acquired.delete(buffer), `BufferPool.release: ${buffer.label} is not held`);
    this.#liveBytes -= buffer.size;
    const key = sizeClass(buffer.size, buffer.usage);
    const idle = this.#idle.get(key);
    if (idle) idle.push(buffer);
    else this.#idle.set(key, [buffer]);
  }

  /** Destroys the idle buffers. */
  trim(): void {
    for (const buffers of this.#idle.values()) {
      for (const buffer of buffers) {
        this.#allocatedBytes -= buffer.size;
        buffer.destroy();
      }
    }
    this.#idle.clear();
  }

  /** Destroys every buffer, held ones too. The pool stays usable. */
  destroy(): void {
    this.trim();
    for (const buffer of this.#acquired) buffer.destroy();
    this.#acquired.clear();
    this.#liveBytes = 0;
    this.#allocatedBytes = 0;
  }
}

function sizeClass(size: number, usage: GPUBufferUsageFlags): string {
  return `${usage}:${size}`;
}

// Tensors on the GPU: a pooled buffer and a shape, with upload and readback. f32 only in this version.
import { ConfigError } from '../errors.ts';
import { numElements } from '../tensor/tensor.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { Gpu } from './device.ts';
import { BUFFER_USAGE } from './webgpu-constants.ts';

/** An f32 tensor in GPU memory, row-major. It is also a kernel's view of itself: what a binding wants. */
export interface GpuTensor {
  readonly buffer: GPUBuffer;
  readonly shape: readonly number[];
  /** Bytes of the tensor; the buffer may be larger. */
  readonly size: number;
}

const BYTES_PER_F32 = 4;

/** Bytes of one write: Dawn's staging ring is 4 MiB, and every larger write allocates a buffer of its own. */
const WRITE_SIZE = 4 * 1024 * 1024;

/** A tensor of undefined content in a pooled storage buffer. The holder releases its buffer. */
export function acquireTensor(pool: BufferPool, label: string, shape: readonly number[]): GpuTensor {
  const size = numElements(shape) * BYTES_PER_F32;
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_DST | BUFFER_USAGE.COPY_SRC;
  return { buffer: pool.acquire({ label, byteLength: size, usage }), shape, size };
}

/** Queues a copy of `data` into the tensor; `data` may be changed as soon as this returns. */
export function writeTensor({ device }: Gpu, tensor: GpuTensor, data: Float32Array): void {
  if (data.byteLength !== tensor.size) {
    throw new ConfigError(
      'ERR_SHAPE',
      `writeTensor: data must have ${tensor.size} bytes for [${tensor.shape.join(', ')}], got ${data.byteLength}`,
    );
  }
  // Dawn in Node crashes on memory that is shared between threads.
  const source = (data.buffer instanceof ArrayBuffer ? data : data.slice()) as Float32Array<ArrayBuffer>;
  const step = WRITE_SIZE / BYTES_PER_F32;
  for (let first = 0; first < source.length; first += step) {
    device.queue.writeBuffer(tensor.buffer, first * BYTES_PER_F32, source.subarray(first, first + step));
  }
}

/** A new tensor with the given data. */
export function uploadTensor(gpu: Gpu, label: string, shape: readonly number[], data: Float32Array): GpuTensor {
  const tensor = acquireTensor(gpu.pool, label, shape);
  writeTensor(gpu, tensor, data);
  return tensor;
}

/** The content of a tensor after all work that was submitted so far. Throws DeviceError when the device failed. */
export async function readTensor(gpu: Gpu, { buffer, size }: GpuTensor): Promise<Float32Array<ArrayBuffer>> {
  const bytes = await gpu.read([{ buffer, byteLength: size }]);
  return new Float32Array(bytes.buffer);
}

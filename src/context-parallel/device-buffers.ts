// Buffers of a rank's tensors on its device: taking them, filling them, and turning f32 results into a 16-bit dtype.
import type { ConvertElements } from '../gpu/convert-elements.ts';
import type { Gpu } from '../gpu/device.ts';
import { BUFFER_USAGE } from '../gpu/webgpu-constants.ts';

/** A storage buffer of the pool, of at least one word. */
export function acquireStorage({ pool }: Gpu, label: string, byteLength: number): GPUBuffer {
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST;
  return pool.acquire({ label, byteLength: Math.max(4, byteLength), usage });
}

/** Submits the conversion of a whole tensor to a 16-bit dtype. */
export function convertElements(
  { device }: Gpu,
  convert: ConvertElements,
  tensors: Parameters<ConvertElements['encode']>[1],
): void {
  const encoder = device.createCommandEncoder({ label: 'convert' });
  const pass = encoder.beginComputePass({ label: 'convert' });
  convert.encode(pass, tensors);
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/** Queues a copy of bytes to a part of a buffer; both are whole words. */
export function writeBytes({ device }: Gpu, buffer: GPUBuffer, byteOffset: number, bytes: Uint8Array): void {
  device.queue.writeBuffer(buffer, byteOffset, bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

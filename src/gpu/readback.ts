// Reads GPU buffers back to the host through one pooled staging buffer.
import type { BufferPool } from './buffer-pool.ts';
import { BUFFER_USAGE, MAP_MODE_READ } from './webgpu-constants.ts';

/** A range of a buffer that has COPY_SRC. Offset and length are multiples of 4. */
export interface BufferPart {
  buffer: GPUBuffer;
  /** Default 0. */
  byteOffset?: number;
  byteLength: number;
}

/** The bytes of `parts`, one after another, after all work that was submitted before the call. */
export async function readBuffers(
  device: GPUDevice,
  pool: BufferPool,
  parts: readonly BufferPart[],
): Promise<Uint8Array<ArrayBuffer>> {
  const total = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (total === 0) return new Uint8Array(0);
  const usage = BUFFER_USAGE.MAP_READ | BUFFER_USAGE.COPY_DST;
  const staging = pool.acquire({ label: 'readback', byteLength: total, usage });
  try {
    const encoder = device.createCommandEncoder({ label: 'readback' });
    let offset = 0;
    for (const { buffer, byteOffset = 0, byteLength } of parts) {
      if (byteLength > 0) encoder.copyBufferToBuffer(buffer, byteOffset, staging, offset, byteLength);
      offset += byteLength;
    }
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(MAP_MODE_READ, 0, total);
    const bytes = new Uint8Array(staging.getMappedRange(0, total).slice(0));
    staging.unmap();
    return bytes;
  } finally {
    pool.release(staging);
  }
}

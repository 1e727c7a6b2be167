// What a call gives per head: ALiBi's slopes and the sinks' logits, as the uniform `Heads` of shaders/schedule.wgsl.
import { DeviceError } from '../errors.ts';
import type { Gpu } from './device.ts';
import { BUFFER_USAGE } from './webgpu-constants.ts';

/** MAX_HEADS of shaders/schedule.wgsl. */
export const MAX_HEADS = 1024;

/** Bytes of `Heads`. */
export const HEADS_BYTES = 2 * MAX_HEADS * Float32Array.BYTES_PER_ELEMENT;

/** Values of `Heads`, in natural units; what is absent is 0. A sink of −Infinity is no sink. */
export interface HeadValues {
  alibiSlopes?: ArrayLike<number> | undefined;
  sink?: ArrayLike<number> | undefined;
}

/** `Heads` as the uniform buffer holds it: slopes · log2(e), then sinks · log2(e). Throws DeviceError ERR_LIMIT. */
export function encodeHeads({ alibiSlopes = [], sink = [] }: HeadValues): Float32Array<ArrayBuffer> {
  if (Math.max(alibiSlopes.length, sink.length) > MAX_HEADS) {
    throw new DeviceError(
      'ERR_LIMIT',
      `attention: sinks and ALiBi slopes are for at most ${MAX_HEADS} heads, got ${Math.max(alibiSlopes.length, sink.length)}`,
    );
  }
  const values = new Float32Array(2 * MAX_HEADS);
  for (let head = 0; head < alibiSlopes.length; head++) values[head] = alibiSlopes[head] * Math.LOG2E;
  for (let head = 0; head < sink.length; head++) values[MAX_HEADS + head] = Math.max(-1e30, sink[head] * Math.LOG2E);
  return values;
}

/** A pooled uniform buffer with these values. The holder gives it back to the pool. */
export function acquireHeads({ device, pool }: Gpu, values: HeadValues = {}): GPUBuffer {
  const data = encodeHeads(values);
  const usage = BUFFER_USAGE.UNIFORM | BUFFER_USAGE.COPY_DST;
  const buffer = pool.acquire({ label: 'heads', byteLength: data.byteLength, usage });
  device.queue.writeBuffer(buffer, 0, data);
  return buffer;
}

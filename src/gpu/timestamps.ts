// Times of many compute passes by timestamp queries, resolved and read back once at the end of a call. On a device
// without timestamp queries every method does nothing and the result is empty.
import type { Gpu } from './device.ts';
import { BUFFER_USAGE } from './webgpu-constants.ts';

/** The time that one pass took on the GPU, in ms, as coarse as the device quantises it (Dawn: 65.536 µs). */
export interface PassTiming {
  label: string;
  /** Ms since the first pass of the same readback began. */
  startMs: number;
  durationMs: number;
}

const BYTES_PER_TIMESTAMP = 8;
const NS_PER_MS = 1e6;

/** Times up to `capacity` passes between two calls of {@link PassTimer.read}. Not for two calls at once. */
export class PassTimer {
  readonly #gpu: Gpu;
  readonly #capacity: number;
  readonly #querySet: GPUQuerySet | undefined;
  #labels: string[] = [];

  constructor(gpu: Gpu, capacity: number) {
    this.#gpu = gpu;
    this.#capacity = capacity;
    if (gpu.device.features.has('timestamp-query')) {
      this.#querySet = gpu.device.createQuerySet({ label: 'pass-timer', type: 'timestamp', count: 2 * capacity });
    }
  }

  get isSupported(): boolean {
    return this.#querySet !== undefined;
  }

  /** For the descriptor of a compute pass: `{ label, ...timer.time(label) }`. Passes beyond the capacity are not timed. */
  time(label: string): { timestampWrites?: GPUComputePassTimestampWrites } {
    if (!this.#querySet || this.#labels.length === this.#capacity) return {};
    const index = this.#labels.push(label) - 1;
    return {
      timestampWrites: {
        querySet: this.#querySet,
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      },
    };
  }

  /** The timings of the passes since the last read, in the order of {@link time}. Their work must be submitted. */
  async read(): Promise<PassTiming[]> {
    const labels = this.#labels;
    if (!this.#querySet || labels.length === 0) return [];
    this.#labels = [];
    const { device, pool } = this.#gpu;
    const byteLength = 2 * labels.length * BYTES_PER_TIMESTAMP;
    const usage = BUFFER_USAGE.QUERY_RESOLVE | BUFFER_USAGE.COPY_SRC;
    const buffer = pool.acquire({ label: 'timestamps', byteLength, usage });
    const encoder = device.createCommandEncoder({ label: 'timestamps' });
    encoder.resolveQuerySet(this.#querySet, 0, 2 * labels.length, buffer, 0);
    device.queue.submit([encoder.finish()]);
    const bytes = await this.#gpu.read([{ buffer, byteLength }]);
    pool.release(buffer);
    const times = new BigUint64Array(bytes.buffer);
    const first = times.reduce((least, time) => (time < least ? time : least));
    return labels.map((label, index) => ({
      label,
      startMs: Number(times[2 * index] - first) / NS_PER_MS,
      durationMs: Number(times[2 * index + 1] - times[2 * index]) / NS_PER_MS,
    }));
  }

  destroy(): void {
    this.#querySet?.destroy();
  }
}

// A ring step whose keys are split: the work list of its splits, their partial results in pooled buffers, and the work
// list that merges them, which is also what MergeBlock wants.
import type { Gpu } from './device.ts';
import { type BlockRequest, checkBindingSizes, PreparedBlock } from './prepared-block.ts';
import { splitSchedule } from './split-schedule.ts';
import { BUFFER_USAGE } from './webgpu-constants.ts';

const F32_BYTES = 4;
/** STATE_SIZE of shaders/split-rows.wgsl, in bytes. */
const STATE_BYTES = 4 * F32_BYTES;

export class SplitKvBlock extends PreparedBlock {
  readonly splits: PreparedBlock;
  /** [splits, H, tileRows, Dv] f32 */
  readonly splitOut: GPUBuffer;
  /** [splits, H, tileRows] states of shaders/split-rows.wgsl */
  readonly splitState: GPUBuffer;
  readonly #gpu: Gpu;
  #scratch: GPUBuffer[];

  /** Throws DeviceError ERR_LIMIT when the partial results cannot be bound. */
  constructor(gpu: Gpu, request: BlockRequest, tileRows: number) {
    const { splits, merges } = splitSchedule(request.schedule);
    const { numHeads, headDimV } = request.shape;
    const rows = Math.max(1, splits.tiles.length) * numHeads * tileRows;
    const sizes = { splitOut: rows * headDimV * F32_BYTES, splitState: rows * STATE_BYTES };
    checkBindingSizes(gpu, sizes);
    super(gpu, { ...request, schedule: merges });
    this.#gpu = gpu;
    // The merge adds the sink: a split that did would count it once more.
    this.splits = new PreparedBlock(gpu, { ...request, schedule: splits, countsSink: false });
    const { STORAGE } = BUFFER_USAGE;
    this.splitOut = gpu.pool.acquire({ label: 'split-out', byteLength: sizes.splitOut, usage: STORAGE });
    this.splitState = gpu.pool.acquire({ label: 'split-state', byteLength: sizes.splitState, usage: STORAGE });
    this.#scratch = [this.splitOut, this.splitState];
  }

  override destroy(): void {
    super.destroy();
    this.splits.destroy();
    for (const buffer of this.#scratch) this.#gpu.pool.release(buffer);
    this.#scratch = [];
  }
}

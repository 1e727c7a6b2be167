// Block attention in plain JavaScript, f64 inside: the slow, obvious twin of the GPU's forward, with the same work lists and
// every option. Runs the whole ring where there is no GPU, and is the oracle of the ring's tests. f32 tensors only.
import { shardLength } from '../attention/layout.ts';
import { keepsWeight } from '../attention/dropout.ts';
import { keyInterval } from '../attention/mask.ts';
import { MASKED_LSE, mergeWeights } from '../attention/merge.ts';
import { type BlockSchedule, type Range, scheduleQueries, type Tile } from '../attention/schedule.ts';
import { type BiasTable, scoreOf } from '../attention/score.ts';
import type { BlockAttention } from './block-attention.ts';
import { queryPadding, type RingPlan, stepBlocks } from './ring-plan.ts';

/** A rank's shards as dense tensors: q [B, rows, H, Dqk], k [B, rowsKv, Hkv, Dqk], v [B, rowsKv, Hkv, Dv]. */
export interface ShardInputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  /** This shard's rows: [1 or B, 1 or H, rows, Skv]. */
  bias?: ArrayLike<number> | undefined;
  /** [H] */
  alibiSlopes?: ArrayLike<number> | undefined;
  /** [H], with `sink: 'learnable'`. */
  sink?: ArrayLike<number> | undefined;
}

/** A row of queries that meets a KV block: one row of one tile, for one head. */
interface RowTask {
  tile: Tile;
  ranges: readonly Range[];
  batch: number;
  head: number;
  /** Local row of the query. */
  row: number;
  /** Position of the query in its sequence. */
  i: number;
}

export class CpuBlockAttention implements BlockAttention {
  /** Running results of the shard: out [B, rows, H, Dv], lse [B, H, rows] (MASKED_LSE where no key was seen). */
  readonly out: Float32Array;
  readonly lse: Float32Array;
  readonly #plan: RingPlan;
  readonly #inputs: ShardInputs;
  readonly #bias: BiasTable | undefined;
  readonly #slots: Uint8Array<ArrayBuffer>[];
  readonly #schedules: BlockSchedule[];

  constructor(plan: RingPlan, inputs: ShardInputs, tileRows = 16) {
    const { shape, options, bias } = plan.call;
    const { batch, numHeads, headDimV } = shape;
    const rows = shardLength(plan.queryShard);
    this.#plan = plan;
    this.#inputs = inputs;
    this.#bias = bias && inputs.bias ? { data: inputs.bias, ...bias, rows, keys: shape.seqLenKv } : undefined;
    this.out = new Float32Array(batch * rows * numHeads * headDimV);
    this.lse = new Float32Array(batch * numHeads * rows).fill(MASKED_LSE);
    const own = new Float32Array(inputs.k.length + inputs.v.length);
    own.set(inputs.k);
    own.set(inputs.v, inputs.k.length);
    const slotBytes = Math.max(...plan.steps.map(({ blockBytes }) => blockBytes));
    this.#slots = Array.from({ length: plan.kvSlots }, (_, slot) =>
      slot === 0 ? new Uint8Array(own.buffer) : new Uint8Array(slotBytes),
    );
    const interval = keyInterval(options.maskType, options.window);
    this.#schedules = plan.steps.map((_, step) => {
      const padding = step === 0 ? queryPadding(plan) : [];
      return scheduleQueries(stepBlocks(plan, step), interval, { tileRows, everyRow: step === 0, padding });
    });
  }

  async ownKv(): Promise<Uint8Array> {
    return this.#slots[0];
  }

  writeKv(_step: number, slot: number, byteOffset: number, bytes: Uint8Array): void {
    this.#slots[slot].set(bytes, byteOffset);
  }

  async attend(step: number, slot: number): Promise<void> {
    const { tiles, ranges } = this.#schedules[step];
    const { numHeads } = this.#plan.call.shape;
    for (const tile of tiles) {
      const tileRanges = ranges.slice(tile.firstRange, tile.firstRange + tile.rangeCount);
      const batch = this.#plan.call.lengths?.packed ? 0 : tile.sequence;
      for (let index = 0; index < tile.rowCount; index++) {
        const i = tile.position + tile.positionStride * index;
        for (let head = 0; head < numHeads; head++) {
          const task = { tile, ranges: tileRanges, batch, head, row: tile.row + index, i };
          if (step === 0) this.#start(task);
          this.#attendRow(task, step, slot);
        }
      }
    }
  }

  /** A sink is a key of value 0 that every row of a sequence sees, once. */
  #start({ tile, batch, head, row }: RowTask): void {
    const { sink } = this.#plan.call.options;
    if (sink === 'none' || tile.positionStride === 0) return;
    this.lse[this.#rowIndex(batch, head, row)] = sink === 'learnable' ? this.#inputs.sink![head] : 0;
  }

  #attendRow(task: RowTask, step: number, slot: number): void {
    const { shape, options } = this.#plan.call;
    const { batch, head, row, tile, i } = task;
    const keys = this.#scoreKeys(task, step, slot);
    const rowMax = keys.reduce((max, { score }) => Math.max(max, score), -Infinity);
    if (rowMax === -Infinity) return;
    const { headDimV } = shape;
    const kv = new Float32Array(this.#slots[slot].buffer);
    const blockOut = new Float64Array(headDimV);
    let rowSum = 0;
    for (const { score, j, vOffset } of keys) {
      const weight = Math.exp(score - rowMax);
      rowSum += weight;
      if (options.dropout > 0 && !keepsWeight(options, { sequence: tile.sequence, head }, i, j)) continue;
      for (let d = 0; d < headDimV; d++) blockOut[d] += (weight * kv[vOffset + d]) / (1 - options.dropout);
    }
    const lseIndex = this.#rowIndex(batch, head, row);
    const merged = mergeWeights(this.lse[lseIndex], rowMax + Math.log(rowSum));
    const outOffset = this.#queryOffset(batch, head, row, headDimV);
    for (let d = 0; d < headDimV; d++) {
      const block = (merged.blockWeight * blockOut[d]) / rowSum;
      this.out[outOffset + d] = merged.weight * this.out[outOffset + d] + block;
    }
    this.lse[lseIndex] = merged.lse;
  }

  /** The keys that a row keeps of a KV block: their score, position, and where their value lies in the block. */
  #scoreKeys(
    { tile, ranges, batch, head, row, i }: RowTask,
    step: number,
    slot: number,
  ): { score: number; j: number; vOffset: number }[] {
    const { shape, options } = this.#plan.call;
    const { numHeads, numKvHeads, headDimQk, headDimV } = shape;
    const { left, right } = keyInterval(options.maskType, options.window);
    const kvRows = shardLength(this.#plan.kvShards[this.#plan.steps[step].owner]);
    const kv = new Float32Array(this.#slots[slot].buffer);
    const vStart = shape.batch * kvRows * numKvHeads * headDimQk;
    const kvHead = Math.floor(head / (numHeads / numKvHeads));
    const qOffset = this.#queryOffset(batch, head, row, headDimQk);
    const { alibiSlopes } = this.#inputs;
    const keys: { score: number; j: number; vOffset: number }[] = [];
    for (const range of ranges) {
      for (let index = 0; index < range.count; index++) {
        const j = range.position + range.positionStride * index;
        const distance = j - (i + tile.offset);
        const isFull = index >= range.fullBegin && index < range.fullEnd;
        if (!isFull && (distance > right || distance < -left)) continue;
        const kvRow = (batch * kvRows + range.row + index) * numKvHeads + kvHead;
        let dot = 0;
        for (let d = 0; d < headDimQk; d++) dot += this.#inputs.q[qOffset + d] * kv[kvRow * headDimQk + d];
        const pair = { batch, head, row, i, offset: tile.offset, j };
        const { value } = scoreOf({ options, alibiSlopes, bias: this.#bias }, dot, pair);
        keys.push({ score: value, j, vOffset: vStart + kvRow * headDimV });
      }
    }
    return keys;
  }

  #queryOffset(batch: number, head: number, row: number, headDim: number): number {
    const rows = shardLength(this.#plan.queryShard);
    return ((batch * rows + row) * this.#plan.call.shape.numHeads + head) * headDim;
  }

  #rowIndex(batch: number, head: number, row: number): number {
    return (batch * this.#plan.call.shape.numHeads + head) * shardLength(this.#plan.queryShard) + row;
  }
}

// Block attention in plain JavaScript, f64 inside: the slow, obvious twin of the GPU's, with the same work lists. Runs
// the whole ring where there is no GPU, and is the oracle of the ring's tests.
import { type Shard, shardLength } from '../attention/layout.ts';
import { MASKED_LSE, mergeWeights } from '../attention/merge.ts';
import { type BlockSchedule, type KvRange, type QueryTile, scheduleBlock } from '../attention/schedule.ts';
import type { BlockAttention } from './block-attention.ts';
import type { RingPlan } from './ring-plan.ts';

/** A rank's shards as dense tensors: q [B, rows, H, Dqk], k [B, rowsKv, Hkv, Dqk], v [B, rowsKv, Hkv, Dv]. */
export interface ShardInputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

interface KvBlock {
  bytes: Uint8Array<ArrayBuffer>;
}

export class CpuBlockAttention implements BlockAttention {
  /** Running results of the shard: out [B, rows, H, Dv], lse [B, H, rows] (MASKED_LSE where no key was seen). */
  readonly out: Float32Array;
  readonly lse: Float32Array;
  readonly #plan: RingPlan;
  readonly #q: Float32Array;
  readonly #slots: KvBlock[];
  readonly #schedules: BlockSchedule[];

  constructor(plan: RingPlan, { q, k, v }: ShardInputs, tileRows = 16) {
    const { batch, numHeads, headDimV } = plan.call.shape;
    const rows = shardLength(plan.queryShard);
    this.#plan = plan;
    this.#q = q;
    this.out = new Float32Array(batch * rows * numHeads * headDimV);
    this.lse = new Float32Array(batch * numHeads * rows).fill(MASKED_LSE);
    const own = new Float32Array(k.length + v.length);
    own.set(k);
    own.set(v, k.length);
    const slotBytes = Math.max(...plan.steps.map(({ blockBytes }) => blockBytes));
    this.#slots = Array.from({ length: plan.kvSlots }, (_, slot) => ({
      bytes: slot === 0 ? new Uint8Array(own.buffer) : new Uint8Array(slotBytes),
    }));
    const { maskType } = plan.call.options;
    this.#schedules = plan.steps.map(({ owner }) =>
      scheduleBlock(plan.queryShard, plan.kvShards[owner], maskType, tileRows),
    );
  }

  async ownKv(): Promise<Uint8Array> {
    return this.#slots[0].bytes;
  }

  writeKv(_step: number, slot: number, byteOffset: number, bytes: Uint8Array): void {
    this.#slots[slot].bytes.set(bytes, byteOffset);
  }

  async attend(step: number, slot: number): Promise<void> {
    const { tiles, ranges } = this.#schedules[step];
    const kvShard = this.#plan.kvShards[this.#plan.steps[step].owner];
    for (const tile of tiles) {
      const tileRanges = ranges.slice(tile.firstRange, tile.firstRange + tile.rangeCount);
      for (let index = 0; index < tile.rowCount; index++) this.#attendRow(tile, index, tileRanges, slot, kvShard);
    }
  }

  #attendRow(tile: QueryTile, index: number, ranges: readonly KvRange[], slot: number, kvShard: Shard): void {
    const { batch, numHeads } = this.#plan.call.shape;
    const position = tile.position + tile.positionStride * index;
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < numHeads; h++) this.#attendHead(tile.row + index, position, ranges, slot, kvShard, b, h);
    }
  }

  #attendHead(
    row: number,
    position: number,
    ranges: readonly KvRange[],
    slot: number,
    kvShard: Shard,
    b: number,
    h: number,
  ): void {
    const { batch, numHeads, numKvHeads, headDimQk, headDimV } = this.#plan.call.shape;
    const rows = shardLength(this.#plan.queryShard);
    const kvRows = shardLength(kvShard);
    const kv = new Float32Array(this.#slots[slot].bytes.buffer);
    const vOffset = batch * kvRows * numKvHeads * headDimQk;
    const kvHead = Math.floor(h / (numHeads / numKvHeads));
    const qRow = ((b * rows + row) * numHeads + h) * headDimQk;
    const keys: { score: number; vRow: number }[] = [];
    for (const range of ranges) {
      for (let j = 0; j < range.count; j++) {
        const isKept = j < range.fullCount || range.position + range.positionStride * j <= position;
        if (!isKept) continue;
        const kvRow = (b * kvRows + range.row + j) * numKvHeads + kvHead;
        let dot = 0;
        for (let d = 0; d < headDimQk; d++) dot += this.#q[qRow + d] * kv[kvRow * headDimQk + d];
        keys.push({ score: dot * this.#plan.call.options.softmaxScale, vRow: vOffset + kvRow * headDimV });
      }
    }
    if (keys.length === 0) return;
    const rowMax = keys.reduce((max, { score }) => Math.max(max, score), -Infinity);
    const blockOut = new Float64Array(headDimV);
    let rowSum = 0;
    for (const { score, vRow } of keys) {
      const probability = Math.exp(score - rowMax);
      rowSum += probability;
      for (let d = 0; d < headDimV; d++) blockOut[d] += probability * kv[vRow + d];
    }
    const lseIndex = (b * numHeads + h) * rows + row;
    const outRow = ((b * rows + row) * numHeads + h) * headDimV;
    const merged = mergeWeights(this.lse[lseIndex], rowMax + Math.log(rowSum));
    for (let d = 0; d < headDimV; d++) {
      this.out[outRow + d] = merged.weight * this.out[outRow + d] + (merged.blockWeight * blockOut[d]) / rowSum;
    }
    this.lse[lseIndex] = merged.lse;
  }
}

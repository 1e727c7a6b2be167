// The work list of one ring step on the GPU: group 1 of every kernel that walks tiles. Field for field the structs of
// shaders/schedule.wgsl. Uploaded once; the steps that use it create no buffers.
import { keyInterval } from '../attention/mask.ts';
import type { AttentionOptions } from '../attention/options.ts';
import type { BlockSchedule, Range, Tile } from '../attention/schedule.ts';
import type { AttentionShape } from '../attention/shape.ts';
import { dropoutThreshold, seedWords } from '../attention/dropout.ts';
import { DeviceError } from '../errors.ts';
import type { Gpu } from './device.ts';
import { BUFFER_USAGE, SHADER_STAGE_COMPUTE } from './webgpu-constants.ts';

/** What a kernel has to know of a ring step besides its tensors. */
export interface BlockRequest {
  /** Made with the `tileRows` of the kernel that will run it. */
  schedule: BlockSchedule;
  /** Of the whole call; its sequence lengths are not looked at. */
  shape: AttentionShape;
  options: AttentionOptions;
  /** Local rows of q, out and lse, in each batch entry. */
  rowsQ: number;
  /** Local rows of k and v, in each batch entry. */
  rowsKv: number;
  /** The uniform `Heads` of the call: see heads-buffer.ts. The block only refers to it. */
  heads: GPUBuffer;
  /** All sequences lie in batch entry 0. Default false. */
  packed?: boolean;
  /** First two sizes of the bias [1 or B, 1 or H, rowsQ, Skv]; default none. */
  bias?: { batch: number; heads: number } | null;
  /** Whether this step adds the sink to every row: the first one of a ring does. Default false. */
  countsSink?: boolean;
  /** Whether gradients are added to what is there. Default false: they replace it. */
  accumulates?: boolean;
}

export const TILE_FIELDS = [
  'sequence',
  'row',
  'rowCount',
  'position',
  'positionStride',
  'offset',
  'firstRange',
  'rangeCount',
] as const satisfies readonly (keyof Tile)[];

export const RANGE_FIELDS = [
  'row',
  'position',
  'positionStride',
  'count',
  'fullBegin',
  'fullEnd',
] as const satisfies readonly (keyof Range)[];

/** Fields of `Params`, with their WGSL type. */
export const PARAMS_FIELDS = [
  ['firstRangeWord', 'u32'],
  ['isPacked', 'u32'],
  ['batch', 'u32'],
  ['numHeads', 'u32'],
  ['numKvHeads', 'u32'],
  ['groupSize', 'u32'],
  ['rowsQ', 'u32'],
  ['rowsKv', 'u32'],
  ['headDimQk', 'u32'],
  ['headDimV', 'u32'],
  ['windowLeft', 'i32'],
  ['windowRight', 'i32'],
  ['countsSink', 'u32'],
  ['accumulates', 'u32'],
  ['scoreScale', 'f32'],
  ['scoreFactor', 'f32'],
  ['softmaxScale', 'f32'],
  ['biasBatchStride', 'u32'],
  ['biasHeadStride', 'u32'],
  ['biasRowStride', 'u32'],
  ['dropoutThreshold', 'u32'],
  ['dropoutScale', 'f32'],
  ['seedLow', 'u32'],
  ['seedHigh', 'u32'],
] as const;

const BYTES_PER_WORD = 4;

/** The schedule as words: its tiles, then its ranges. */
export function encodeSchedule({ tiles, ranges }: BlockSchedule): Int32Array<ArrayBuffer> {
  const words = new Int32Array(Math.max(1, tiles.length * TILE_FIELDS.length + ranges.length * RANGE_FIELDS.length));
  let at = 0;
  for (const tile of tiles) for (const field of TILE_FIELDS) words[at++] = tile[field];
  for (const range of ranges) for (const field of RANGE_FIELDS) words[at++] = range[field];
  return words;
}

/** `Params` as the uniform buffer holds it. */
export function encodeParams(request: BlockRequest): ArrayBuffer {
  const { schedule, shape, options, rowsQ, rowsKv, packed = false, bias = null } = request;
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenKv } = shape;
  const { softmaxScale, softcap, dropout, seed } = options;
  const { left, right } = keyInterval(options.maskType, options.window);
  const [seedLow, seedHigh] = seedWords(seed);
  const biasMatrix = bias ? rowsQ * seqLenKv : 0;
  const values: Record<(typeof PARAMS_FIELDS)[number][0], number> = {
    firstRangeWord: schedule.tiles.length * TILE_FIELDS.length,
    isPacked: Number(packed),
    batch,
    numHeads,
    numKvHeads,
    groupSize: numHeads / numKvHeads,
    rowsQ,
    rowsKv,
    headDimQk,
    headDimV,
    windowLeft: left,
    windowRight: right,
    countsSink: Number(request.countsSink ?? false),
    accumulates: Number(request.accumulates ?? false),
    scoreScale: softcap > 0 ? softmaxScale / softcap : softmaxScale * Math.LOG2E,
    scoreFactor: softcap * Math.LOG2E,
    softmaxScale,
    biasBatchStride: bias && bias.batch > 1 ? bias.heads * biasMatrix : 0,
    biasHeadStride: bias && bias.heads > 1 ? biasMatrix : 0,
    biasRowStride: bias ? seqLenKv : 0,
    dropoutThreshold: dropoutThreshold(dropout),
    dropoutScale: 1 / (1 - dropout),
    seedLow,
    seedHigh,
  };
  const view = new DataView(new ArrayBuffer(PARAMS_FIELDS.length * BYTES_PER_WORD));
  for (const [index, [field, type]] of PARAMS_FIELDS.entries()) {
    if (type === 'f32') view.setFloat32(index * BYTES_PER_WORD, values[field], true);
    else view.setInt32(index * BYTES_PER_WORD, values[field], true);
  }
  return view.buffer;
}

/** The layout of group 1. */
export function createBlockLayout(device: GPUDevice): GPUBindGroupLayout {
  const types = ['read-only-storage', 'uniform', 'uniform'] as const;
  return device.createBindGroupLayout({
    label: 'block',
    entries: types.map((type, binding) => ({ binding, visibility: SHADER_STAGE_COMPUTE, buffer: { type } })),
  });
}

/** A ring step's work list, ready to be dispatched. */
export class PreparedBlock {
  readonly request: BlockRequest;
  /** Tiles of the schedule: a dispatch has one workgroup for each. */
  readonly numTiles: number;
  readonly bindGroup: GPUBindGroup;
  readonly #gpu: Gpu;
  #buffers: GPUBuffer[];

  constructor(gpu: Gpu, request: BlockRequest) {
    this.#gpu = gpu;
    this.request = request;
    this.numTiles = request.schedule.tiles.length;
    const { STORAGE, UNIFORM } = BUFFER_USAGE;
    const words = encodeSchedule(request.schedule);
    checkBindingSizes(gpu, { schedule: words.byteLength });
    this.#buffers = [
      this.#upload('schedule', words, STORAGE),
      this.#upload('params', new Uint8Array(encodeParams(request)), UNIFORM),
    ];
    this.bindGroup = gpu.device.createBindGroup({
      label: 'block',
      layout: createBlockLayout(gpu.device),
      entries: [...this.#buffers, request.heads].map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
  }

  /** Gives the work list's buffers back to the pool. Idempotent. */
  destroy(): void {
    for (const buffer of this.#buffers) this.#gpu.pool.release(buffer);
    this.#buffers = [];
  }

  #upload(label: string, data: Int32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>, usage: number): GPUBuffer {
    const { byteLength } = data;
    const buffer = this.#gpu.pool.acquire({ label, byteLength, usage: usage | BUFFER_USAGE.COPY_DST });
    this.#gpu.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }
}

/** Throws DeviceError ERR_LIMIT unless each tensor, in bytes, can be bound whole. */
export function checkBindingSizes(gpu: Gpu, sizes: Readonly<Record<string, number>>): void {
  const { maxStorageBufferBindingSize } = gpu.adapter.limits;
  for (const [name, size] of Object.entries(sizes)) {
    if (size > maxStorageBufferBindingSize) {
      throw new DeviceError(
        'ERR_LIMIT',
        `prepareBlock: ${name} must fit maxStorageBufferBindingSize=${maxStorageBufferBindingSize}, ` +
          `got ${size} bytes; use more ranks or a smaller batch`,
      );
    }
  }
}

/** Throws DeviceError ERR_LIMIT unless a dispatch of so many workgroups per dimension is allowed. */
export function checkDispatch(gpu: Gpu, workgroups: Readonly<Record<string, number>>): void {
  const { maxComputeWorkgroupsPerDimension } = gpu.adapter.limits;
  for (const [name, count] of Object.entries(workgroups)) {
    if (count > maxComputeWorkgroupsPerDimension) {
      throw new DeviceError(
        'ERR_LIMIT',
        `prepareBlock: ${name} must fit maxComputeWorkgroupsPerDimension=${maxComputeWorkgroupsPerDimension}, ` +
          `got ${count}; use more ranks or a smaller batch`,
      );
    }
  }
}

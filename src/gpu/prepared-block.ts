// The work list of one ring step on the GPU: group 1 of every kernel that walks tiles. Field for field the structs of
// shaders/schedule.wgsl. Uploaded once; the steps that use it create no buffers.
import type { BlockSchedule, KvRange, QueryTile } from '../attention/schedule.ts';
import { DeviceError } from '../errors.ts';
import type { Gpu } from './device.ts';
import { BUFFER_USAGE, SHADER_STAGE_COMPUTE } from './webgpu-constants.ts';

/** What a kernel has to know of a ring step besides its tensors. */
export interface BlockRequest {
  /** Made with the `tileRows` of the kernel that will run it. */
  schedule: BlockSchedule;
  batch: number;
  numHeads: number;
  numKvHeads: number;
  /** Local rows of q, out and lse. */
  rowsQ: number;
  /** Local rows of k and v. */
  rowsKv: number;
  softmaxScale: number;
}

export interface HeadDims {
  headDimQk: number;
  headDimV: number;
}

/** Bytes of each tensor of a ring step. */
export interface TensorSizes {
  q: number;
  k: number;
  v: number;
  out: number;
  lse: number;
}

export const QUERY_TILE_FIELDS = [
  'row',
  'rowCount',
  'position',
  'positionStride',
  'firstRange',
  'rangeCount',
] as const satisfies readonly (keyof QueryTile)[];

export const KV_RANGE_FIELDS = [
  'row',
  'position',
  'positionStride',
  'fullCount',
  'count',
] as const satisfies readonly (keyof KvRange)[];

/** Fields of `Params`, with their WGSL type. */
export const PARAMS_FIELDS = [
  ['numHeads', 'u32'],
  ['numKvHeads', 'u32'],
  ['groupSize', 'u32'],
  ['rowsQ', 'u32'],
  ['rowsKv', 'u32'],
  ['softmaxScaleLog2', 'f32'],
  ['headDimQk', 'u32'],
  ['headDimV', 'u32'],
] as const;

const BYTES_PER_WORD = 4;

/** The structs of `items` one after another, each field a u32. */
export function encodeStructs<Field extends string>(
  items: readonly Readonly<Record<Field, number>>[],
  fields: readonly Field[],
): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(items.length * fields.length);
  let at = 0;
  for (const item of items) {
    for (const field of fields) words[at++] = item[field];
  }
  return words;
}

/** `Params` as the uniform buffer holds it. */
export function encodeParams(request: BlockRequest, dims: HeadDims): ArrayBuffer {
  const values: Record<(typeof PARAMS_FIELDS)[number][0], number> = {
    numHeads: request.numHeads,
    numKvHeads: request.numKvHeads,
    groupSize: request.numHeads / request.numKvHeads,
    rowsQ: request.rowsQ,
    rowsKv: request.rowsKv,
    softmaxScaleLog2: request.softmaxScale * Math.LOG2E,
    headDimQk: dims.headDimQk,
    headDimV: dims.headDimV,
  };
  const view = new DataView(new ArrayBuffer(PARAMS_FIELDS.length * BYTES_PER_WORD));
  for (const [index, [field, type]] of PARAMS_FIELDS.entries()) {
    if (type === 'u32') view.setUint32(index * BYTES_PER_WORD, values[field], true);
    else view.setFloat32(index * BYTES_PER_WORD, values[field], true);
  }
  return view.buffer;
}

/** The layout of group 1. */
export function createBlockLayout(device: GPUDevice): GPUBindGroupLayout {
  const types = ['read-only-storage', 'read-only-storage', 'uniform'] as const;
  return device.createBindGroupLayout({
    label: 'block',
    entries: types.map((type, binding) => ({ binding, visibility: SHADER_STAGE_COMPUTE, buffer: { type } })),
  });
}

/** A ring step's work list, ready to be dispatched. */
export class PreparedBlock {
  /** Workgroups of a dispatch: (tiles, heads, batch). No tiles is no work. */
  readonly workgroups: readonly [number, number, number];
  readonly bindGroup: GPUBindGroup;
  readonly tensorSizes: TensorSizes;
  readonly #gpu: Gpu;
  #buffers: GPUBuffer[];

  /** Throws DeviceError ERR_LIMIT when the step exceeds what the device can bind or dispatch. */
  constructor(gpu: Gpu, request: BlockRequest, dims: HeadDims) {
    const { schedule, batch, numHeads } = request;
    this.#gpu = gpu;
    this.tensorSizes = measureTensors(request, dims);
    this.workgroups = [schedule.tiles.length, numHeads, batch];
    checkLimits(gpu, this.tensorSizes, this.workgroups);
    const { STORAGE, UNIFORM } = BUFFER_USAGE;
    this.#buffers = [
      this.#upload('tiles', encodeStructs(schedule.tiles, QUERY_TILE_FIELDS), STORAGE),
      this.#upload('ranges', encodeStructs(schedule.ranges, KV_RANGE_FIELDS), STORAGE),
      this.#upload('params', new Uint8Array(encodeParams(request, dims)), UNIFORM),
    ];
    this.bindGroup = gpu.device.createBindGroup({
      label: 'block',
      layout: createBlockLayout(gpu.device),
      entries: this.#buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
  }

  /** Gives the work list's buffers back to the pool. Idempotent. */
  destroy(): void {
    for (const buffer of this.#buffers) this.#gpu.pool.release(buffer);
    this.#buffers = [];
  }

  #upload(label: string, data: Uint32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>, usage: number): GPUBuffer {
    const { byteLength } = data;
    const buffer = this.#gpu.pool.acquire({ label, byteLength, usage: usage | BUFFER_USAGE.COPY_DST });
    this.#gpu.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }
}

function measureTensors(request: BlockRequest, { headDimQk, headDimV }: HeadDims): TensorSizes {
  const { batch, numHeads, numKvHeads, rowsQ, rowsKv } = request;
  const queryRows = batch * rowsQ * numHeads * BYTES_PER_WORD;
  const kvRows = batch * rowsKv * numKvHeads * BYTES_PER_WORD;
  return {
    q: queryRows * headDimQk,
    k: kvRows * headDimQk,
    v: kvRows * headDimV,
    out: queryRows * headDimV,
    lse: queryRows,
  };
}

function checkLimits(gpu: Gpu, sizes: TensorSizes, workgroups: readonly number[]): void {
  const { maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension } = gpu.adapter.limits;
  for (const [name, size] of Object.entries(sizes) as [string, number][]) {
    if (size > maxStorageBufferBindingSize) {
      throw new DeviceError(
        'ERR_LIMIT',
        `prepareBlock: ${name} must fit maxStorageBufferBindingSize=${maxStorageBufferBindingSize}, ` +
          `got ${size} bytes; use more ranks or a smaller batch`,
      );
    }
  }
  for (const [index, count] of workgroups.entries()) {
    if (count > maxComputeWorkgroupsPerDimension) {
      const name = ['query tiles', 'numHeads', 'batch'][index];
      throw new DeviceError(
        'ERR_LIMIT',
        `prepareBlock: ${name} must fit maxComputeWorkgroupsPerDimension=${maxComputeWorkgroupsPerDimension}, ` +
          `got ${count}; use more ranks or a smaller batch`,
      );
    }
  }
}

// Which forward kernel an adapter gets, and how it is specialised. A static rule from measurements; the numbers behind it
// are in shaders/README.md. Pure.
import { DeviceError } from '../errors.ts';
import type { AdapterFacts } from './adapter-facts.ts';
import type { HeadDims } from './prepared-block.ts';
import type { Specialization } from './specialize.ts';

/** `workgroup` runs on every adapter; `subgroup` needs subgroups of one known size and is meant for software adapters. */
export const FORWARD_VARIANTS = ['workgroup', 'subgroup'] as const;
export type ForwardVariant = (typeof FORWARD_VARIANTS)[number];

export interface ForwardKernelOptions extends HeadDims {
  /** Default: what is fastest on the adapter. */
  variant?: ForwardVariant;
  /** Query rows of the shards to come, if known: a short shard gets a smaller tile. */
  rows?: number;
  /** Query rows of a lane in the subgroup kernel; default by head dim and rows. */
  rowsPerLane?: number;
}

export interface ForwardKernel {
  variant: ForwardVariant;
  shader: string;
  specialization: Specialization;
  /** Query rows of a workgroup: what the schedule must be made with. */
  tileRows: number;
  /** Keys that a workgroup takes at a time. */
  tileKeys: number;
}

/** TILE_ROWS and TILE_KEYS of flash-attention-forward.wgsl, and its workgroup memory in bytes. */
const WORKGROUP_TILE_ROWS = 64;
const WORKGROUP_TILE_KEYS = 32;
const WORKGROUP_STORAGE = 15104;
const ROWS_PER_INVOCATION = 4;

/** Rows from which the subgroup kernel gains from higher tiles. */
const LONG_SHARD = 1024;

/** The kernel for an adapter. Throws DeviceError ERR_MISSING_FEATURE or ERR_LIMIT when it lacks what a variant needs. */
export function chooseForwardKernel(adapter: AdapterFacts, options: ForwardKernelOptions): ForwardKernel {
  const { subgroupMinSize, subgroupMaxSize, isSoftware } = adapter;
  const hasFixedSubgroups = subgroupMinSize > 0 && subgroupMinSize === subgroupMaxSize;
  const variant = options.variant ?? (isSoftware && hasFixedSubgroups ? 'subgroup' : 'workgroup');
  if (variant === 'workgroup') return chooseWorkgroupKernel(adapter, options);
  if (!hasFixedSubgroups) {
    throw new DeviceError(
      'ERR_MISSING_FEATURE',
      'FlashAttentionForward: the subgroup variant needs the feature subgroups and subgroups of one size, ' +
        `got subgroupMinSize=${subgroupMinSize}, subgroupMaxSize=${subgroupMaxSize}; use the workgroup variant`,
    );
  }
  return chooseSubgroupKernel(subgroupMinSize, options);
}

function chooseWorkgroupKernel({ limits }: AdapterFacts, { headDimQk, headDimV }: HeadDims): ForwardKernel {
  // An invocation holds ROWS_PER_INVOCATION · headDimV / columns elements of out: at most 64 registers with this rule.
  const columns = headDimV > 128 ? 16 : 8;
  const needed = {
    maxComputeWorkgroupStorageSize: WORKGROUP_STORAGE,
    maxComputeInvocationsPerWorkgroup: (WORKGROUP_TILE_ROWS / ROWS_PER_INVOCATION) * columns,
  };
  for (const name of Object.keys(needed) as (keyof typeof needed)[]) {
    if (limits[name] < needed[name]) {
      throw new DeviceError(
        'ERR_LIMIT',
        `FlashAttentionForward: the workgroup variant needs ${name}=${needed[name]}, got ${limits[name]}; ` +
          'request the device with the limits of its adapter',
      );
    }
  }
  return {
    variant: 'workgroup',
    shader: 'flash-attention-forward.wgsl',
    specialization: { constants: { HEAD_DIM_QK: headDimQk, HEAD_DIM_V: headDimV, COLUMNS: columns } },
    tileRows: WORKGROUP_TILE_ROWS,
    tileKeys: WORKGROUP_TILE_KEYS,
  };
}

function chooseSubgroupKernel(subgroupSize: number, options: ForwardKernelOptions): ForwardKernel {
  const { headDimQk, headDimV } = options;
  const rowsPerLane = options.rowsPerLane ?? defaultRowsPerLane(options, subgroupSize);
  const [chunkSize, chunk] = chooseChunk(headDimQk, headDimV);
  return {
    variant: 'subgroup',
    shader: 'flash-attention-forward-subgroup.wgsl',
    specialization: {
      constants: {
        HEAD_DIM_QK: headDimQk,
        HEAD_DIM_V: headDimV,
        SUBGROUP_SIZE: subgroupSize,
        ROWS_PER_LANE: rowsPerLane,
        CHUNK_SIZE: chunkSize,
        Chunk: chunk,
      },
    },
    tileRows: rowsPerLane * subgroupSize,
    tileKeys: 1,
  };
}

/**
 * More rows of a lane share each load of k and v, but their q and out must stay in the first-level cache, compile in a
 * second or two, and not leave a short shard with ragged tiles. A narrow subgroup has fewer bytes to a row.
 */
function defaultRowsPerLane({ headDimQk, headDimV, rows }: ForwardKernelOptions, subgroupSize: number): number {
  const best = bestRowsPerLane(Math.max(headDimQk, headDimV), rows ?? 0, subgroupSize);
  return rows === undefined ? best : Math.max(1, Math.min(best, Math.ceil(rows / subgroupSize)));
}

function bestRowsPerLane(headDim: number, rows: number, subgroupSize: number): number {
  if (headDim <= 32) return 8;
  if (headDim <= 64) return rows >= LONG_SHARD || subgroupSize < 8 ? 6 : 4;
  if (headDim <= 80) return 4;
  return headDim <= 96 ? 3 : 2;
}

/** The widest element of k and v that both head dims are a multiple of. */
function chooseChunk(headDimQk: number, headDimV: number): [number, string] {
  if (headDimQk % 4 === 0 && headDimV % 4 === 0) return [4, 'vec4f'];
  if (headDimQk % 2 === 0 && headDimV % 2 === 0) return [2, 'vec2f'];
  return [1, 'array<f32, 1>'];
}

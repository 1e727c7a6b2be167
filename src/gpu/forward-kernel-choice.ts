// Which forward kernel an adapter gets, and how it is specialised. A static rule from measurements; the numbers behind
// it are in shaders/README.md. Pure.
import { type AdapterFacts, prefersSubgroups, requireFixedSubgroups, requireLimits } from './adapter-facts.ts';
import { chooseChunk, elementFormat, type KernelFeatures, scoreOverrides, type HeadDims } from './kernel-features.ts';
import type { Specialization } from './specialize.ts';

/** `workgroup` runs on every adapter; `subgroup` needs subgroups of one known size and is meant for software adapters. */
export const FORWARD_VARIANTS = ['workgroup', 'subgroup'] as const;
export type ForwardVariant = (typeof FORWARD_VARIANTS)[number];

export interface ForwardKernelOptions extends HeadDims {
  /** Default none: f32, plain softmax. */
  features?: KernelFeatures;
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
  overrides: Record<string, number>;
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
  const variant = options.variant ?? (prefersSubgroups(adapter) ? 'subgroup' : 'workgroup');
  if (variant === 'workgroup') return chooseWorkgroupKernel(adapter, options);
  return chooseSubgroupKernel(adapter, options);
}

function chooseWorkgroupKernel(adapter: AdapterFacts, options: ForwardKernelOptions): ForwardKernel {
  const { headDimQk, headDimV, features = {} } = options;
  // An invocation holds ROWS_PER_INVOCATION · headDimV / columns elements of out: at most 64 registers with this rule.
  const columns = headDimV > 128 ? 16 : 8;
  requireLimits('FlashAttentionForward', adapter, {
    maxComputeWorkgroupStorageSize: WORKGROUP_STORAGE,
    maxComputeInvocationsPerWorkgroup: (WORKGROUP_TILE_ROWS / ROWS_PER_INVOCATION) * columns,
  });
  return {
    variant: 'workgroup',
    shader: 'flash-attention-forward.wgsl',
    specialization: {
      constants: {
        HEAD_DIM_QK: headDimQk,
        HEAD_DIM_V: headDimV,
        COLUMNS: columns,
        ELEMENT_FORMAT: elementFormat(features.dtype).format,
      },
    },
    overrides: forwardOverrides(features),
    tileRows: WORKGROUP_TILE_ROWS,
    tileKeys: WORKGROUP_TILE_KEYS,
  };
}

/** Throws DeviceError ERR_MISSING_FEATURE unless all subgroups have one size. */
export function chooseSubgroupKernel(adapter: AdapterFacts, options: ForwardKernelOptions): ForwardKernel {
  requireFixedSubgroups('FlashAttentionForward', adapter);
  const { subgroupMinSize: subgroupSize } = adapter;
  const { headDimQk, headDimV, features = {} } = options;
  const rowsPerLane = options.rowsPerLane ?? defaultRowsPerLane(options, subgroupSize);
  const { chunkSize, chunk } = chooseChunk(options);
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
        ELEMENT_FORMAT: elementFormat(features.dtype).format,
      },
    },
    overrides: forwardOverrides(features),
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

export function bestRowsPerLane(headDim: number, rows: number, subgroupSize: number): number {
  if (headDim <= 32) return 8;
  if (headDim <= 64) return rows >= LONG_SHARD || subgroupSize < 8 ? 6 : 4;
  if (headDim <= 80) return 4;
  return headDim <= 96 ? 3 : 2;
}

/** The overrides of a forward kernel: those of score.wgsl and of online-softmax.wgsl. */
export function forwardOverrides(features: KernelFeatures): Record<string, number> {
  return {
    ...scoreOverrides(features),
    HAS_DROPOUT: Number(features.dropout ?? false),
    TRACKS_MAX: Number(features.maxLogit ?? false),
  };
}

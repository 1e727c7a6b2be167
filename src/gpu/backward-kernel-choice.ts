// Which backward kernels an adapter gets, and how they are specialised. A static rule from measurements; the numbers behind
// it are in shaders/README.md. Pure.
import { type AdapterFacts, prefersSubgroups, requireFixedSubgroups, requireLimits } from './adapter-facts.ts';
import { chooseChunk, elementFormat, type KernelFeatures, scoreOverrides, type HeadDims } from './kernel-features.ts';
import type { Specialization } from './specialize.ts';

/** `workgroup` runs on every adapter; `subgroup` needs subgroups of one known size and is meant for software adapters. */
export const BACKWARD_VARIANTS = ['workgroup', 'subgroup'] as const;
export type BackwardVariant = (typeof BACKWARD_VARIANTS)[number];

export interface BackwardKernelOptions extends HeadDims {
  /** What the calls to come use beyond the plain softmax. Default nothing. */
  features?: KernelFeatures;
  /** Default: what is fastest on the adapter. */
  variant?: BackwardVariant;
  /** Query rows and KV rows of the shards to come, if known: short shards get smaller tiles. */
  rowsQ?: number;
  rowsKv?: number;
}

/** One of the two kernels: dq over tiles of query rows, dk and dv over tiles of KV rows. */
export interface BackwardKernel {
  shader: string;
  specialization: Specialization;
  overrides: Record<string, number>;
  /** Rows of a workgroup: what its schedule must be made with. */
  tileRows: number;
}

export interface BackwardKernels {
  variant: BackwardVariant;
  queryGradients: BackwardKernel;
  keyGradients: BackwardKernel;
}

/** Columns of the workgroup kernels and rows of an invocation: see {@link chooseWorkgroupTiles}. */
interface WorkgroupTiles {
  columns: number;
  rows: number;
}

/** Invocations of a workgroup that lie above one another in a tile: TILE_ROWS / ROWS of the workgroup kernels. */
const ROW_GROUPS = 16;
/** Workgroup memory of flash-attention-backward-dq.wgsl and -dkv.wgsl in bytes, at most. */
const WORKGROUP_STORAGE = 14336;

/** The kernels for an adapter. Throws DeviceError ERR_MISSING_FEATURE or ERR_LIMIT when it lacks what a variant needs. */
export function chooseBackwardKernels(adapter: AdapterFacts, options: BackwardKernelOptions): BackwardKernels {
  const variant = options.variant ?? (prefersSubgroups(adapter) ? 'subgroup' : 'workgroup');
  if (variant === 'workgroup') {
    requireLimits('FlashAttentionBackward', adapter, {
      maxComputeWorkgroupStorageSize: WORKGROUP_STORAGE,
      maxComputeInvocationsPerWorkgroup: ROW_GROUPS * chooseWorkgroupTiles(options).columns,
    });
    return { variant, ...chooseWorkgroupKernels(options) };
  }
  requireFixedSubgroups('FlashAttentionBackward', adapter);
  return { variant, ...chooseSubgroupKernels(adapter.subgroupMinSize, options) };
}

/** Overrides and constants that follow from the features, for every kernel that requires score-gradient.wgsl. */
export function featureSpecialization(features: KernelFeatures): {
  constants: { ELEMENT_FORMAT: number };
  overrides: Record<string, number>;
} {
  return {
    constants: { ELEMENT_FORMAT: elementFormat(features.dtype).format },
    overrides: { ...scoreOverrides(features), HAS_DROPOUT: Number(features.dropout ?? false) },
  };
}

/**
 * An invocation of the dk and dv kernel holds rows · (Dqk + Dv) / columns elements of the gradients: at most 64 registers
 * with this rule.
 */
function chooseWorkgroupTiles({ headDimQk, headDimV }: BackwardKernelOptions): WorkgroupTiles {
  const headDim = Math.max(headDimQk, headDimV);
  if (headDim <= 64) return { columns: 8, rows: 4 };
  return { columns: 16, rows: headDim <= 128 ? 4 : 2 };
}

function chooseWorkgroupKernels(options: BackwardKernelOptions): Omit<BackwardKernels, 'variant'> {
  const { headDimQk, headDimV, features = {} } = options;
  const { columns, rows } = chooseWorkgroupTiles(options);
  const { constants, overrides } = featureSpecialization(features);
  const kernel = (shader: string): BackwardKernel => ({
    shader,
    specialization: {
      constants: { ...constants, HEAD_DIM_QK: headDimQk, HEAD_DIM_V: headDimV, COLUMNS: columns, ROWS: rows },
    },
    overrides,
    tileRows: ROW_GROUPS * rows,
  });
  return {
    queryGradients: kernel('flash-attention-backward-dq.wgsl'),
    keyGradients: kernel('flash-attention-backward-dkv.wgsl'),
  };
}

function chooseSubgroupKernels(subgroupSize: number, options: BackwardKernelOptions): Omit<BackwardKernels, 'variant'> {
  const { headDimQk, headDimV, features = {}, rowsQ, rowsKv } = options;
  const { constants, overrides } = featureSpecialization(features);
  const { chunkSize, chunk } = chooseChunk(options);
  const kernel = (shader: string, rowsPerLane: number): BackwardKernel => ({
    shader,
    specialization: {
      constants: {
        ...constants,
        HEAD_DIM_QK: headDimQk,
        HEAD_DIM_V: headDimV,
        SUBGROUP_SIZE: subgroupSize,
        ROWS_PER_LANE: rowsPerLane,
        CHUNK_SIZE: chunkSize,
        Chunk: chunk,
      },
    },
    overrides,
    tileRows: rowsPerLane * subgroupSize,
  });
  const headDim = Math.max(headDimQk, headDimV);
  const fit = (best: number, rows = Infinity): number => Math.max(1, Math.min(best, Math.ceil(rows / subgroupSize)));
  return {
    queryGradients: kernel('flash-attention-backward-dq-subgroup.wgsl', fit(queryRowsPerLane(headDim), rowsQ)),
    keyGradients: kernel('flash-attention-backward-dkv-subgroup.wgsl', fit(keyRowsPerLane(headDim), rowsKv)),
  };
}

/**
 * More rows of a lane share each load of the other side, but what a lane holds (q, dout and dq: three head dims a row) must
 * stay in the first-level cache and compile in seconds.
 */
function queryRowsPerLane(headDim: number): number {
  if (headDim <= 32) return 6;
  if (headDim <= 64) return 5;
  return headDim <= 128 ? 3 : 2;
}

/** The same where a lane holds k, v, dk and dv: four head dims a row. */
function keyRowsPerLane(headDim: number): number {
  if (headDim <= 32) return 6;
  return headDim <= 64 ? 3 : 2;
}

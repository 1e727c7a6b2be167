// Which kernel splits the keys on an adapter, and how it is specialised: as forward-kernel-choice.ts does for tiles. Pure.
import { type AdapterFacts, prefersSubgroups } from './adapter-facts.ts';
import {
  bestRowsPerLane,
  chooseSubgroupKernel,
  type ForwardKernel,
  forwardOverrides,
} from './forward-kernel-choice.ts';
import { chooseChunk, elementFormat, type KernelFeatures, type HeadDims } from './kernel-features.ts';

/** `split-kv` runs on every adapter; `split-kv-subgroup` needs subgroups of one size and is for software adapters. */
export const SPLIT_VARIANTS = ['split-kv', 'split-kv-subgroup'] as const;
export type SplitVariant = (typeof SPLIT_VARIANTS)[number];

export interface SplitKernelOptions extends HeadDims {
  /** Default none: f32, plain softmax. */
  features?: KernelFeatures;
  /** Default: what is fastest on the adapter. */
  variant?: SplitVariant;
  /** Query rows of the shards to come, if known: fewer make smaller tiles. */
  rows?: number;
  /** Query heads that share a KV head, if known: default 1. Affects speed alone. */
  groupSize?: number;
}

export interface SplitKernel extends Omit<ForwardKernel, 'variant'> {
  variant: SplitVariant;
  /** Rows of a workgroup: query rows times the heads that share a KV head. */
  workgroupRows: number;
  /** Overrides of merge-splits.wgsl. */
  mergeOverrides: Record<string, number>;
}

/** Query rows of a tile whose keys are split, at most. */
export const MAX_SPLIT_ROWS = 8;

/** ROWS of split-kv-attention.wgsl, and what its WORKGROUP_SIZE and KEYS are set to. */
const WORKGROUP_ROWS = 4;
const WORKGROUP_SIZE = 64;
const KEYS = 2;

/** The kernels for few query rows. Throws DeviceError ERR_MISSING_FEATURE when a forced variant lacks subgroups. */
export function chooseSplitKernel(adapter: AdapterFacts, options: SplitKernelOptions): SplitKernel {
  const variant = options.variant ?? (prefersSubgroups(adapter) ? 'split-kv-subgroup' : 'split-kv');
  const tileRows = Math.max(1, Math.min(MAX_SPLIT_ROWS, options.rows ?? MAX_SPLIT_ROWS));
  return variant === 'split-kv' ? chooseWorkgroup(options, tileRows) : chooseSubgroup(adapter, options, tileRows);
}

function chooseWorkgroup(options: SplitKernelOptions, tileRows: number): SplitKernel {
  const { headDimQk, headDimV, features = {} } = options;
  const { chunkSize, chunk } = chooseChunk(options);
  const { TRACKS_MAX, ...overrides } = forwardOverrides(features);
  return {
    variant: 'split-kv',
    shader: 'split-kv-attention.wgsl',
    specialization: {
      constants: {
        HEAD_DIM_QK: headDimQk,
        HEAD_DIM_V: headDimV,
        WORKGROUP_SIZE,
        KEYS,
        CHUNK_SIZE: chunkSize,
        Chunk: chunk,
        ELEMENT_FORMAT: elementFormat(features.dtype).format,
      },
    },
    overrides: { ...overrides, SPLIT_ROWS: tileRows },
    mergeOverrides: { TRACKS_MAX, SPLIT_ROWS: tileRows, WORKGROUP_SIZE },
    workgroupRows: WORKGROUP_ROWS,
    tileRows,
    tileKeys: WORKGROUP_SIZE * KEYS,
  };
}

function chooseSubgroup(adapter: AdapterFacts, options: SplitKernelOptions, tileRows: number): SplitKernel {
  const { headDimQk, headDimV, features = {}, groupSize = 1 } = options;
  const { subgroupMinSize } = adapter;
  const best = bestRowsPerLane(Math.max(headDimQk, headDimV), tileRows, subgroupMinSize);
  const rowsPerLane = Math.max(1, Math.min(best, Math.ceil((tileRows * groupSize) / subgroupMinSize)));
  const kernel = chooseSubgroupKernel(adapter, { headDimQk, headDimV, features, rowsPerLane });
  const { TRACKS_MAX } = kernel.overrides;
  return {
    ...kernel,
    variant: 'split-kv-subgroup',
    overrides: { ...kernel.overrides, SPLIT_ROWS: tileRows, SPLITS_KEYS: 1 },
    mergeOverrides: { TRACKS_MAX, SPLIT_ROWS: tileRows, WORKGROUP_SIZE: subgroupMinSize },
    workgroupRows: kernel.tileRows,
    tileRows,
  };
}

// The forward of a ring step by the kernel that suits it: tiles of query rows, or, for few queries against many keys,
// splits of the keys. The numbers behind the choice are in shaders/README.md.
import type { Gpu } from './device.ts';
import { FlashAttentionForward } from './flash-attention-forward.ts';
import type { ForwardTensors } from './forward-tensors.ts';
import { FORWARD_VARIANTS, type ForwardVariant } from './forward-kernel-choice.ts';
import type { HeadDims, KernelFeatures } from './kernel-features.ts';
import type { BlockRequest, PreparedBlock } from './prepared-block.ts';
import { MAX_SPLIT_ROWS, SPLIT_VARIANTS, type SplitVariant } from './split-kernel-choice.ts';
import { SplitKvAttention } from './split-kv-attention.ts';

/** The kernels of {@link FlashAttentionForward}, and that of {@link SplitKvAttention}. */
export const FORWARD_ATTENTION_VARIANTS = [...FORWARD_VARIANTS, ...SPLIT_VARIANTS] as const;
export type ForwardAttentionVariant = (typeof FORWARD_ATTENTION_VARIANTS)[number];

/** What a ring step asks of a forward kernel. */
export interface ForwardAttention {
  /** Query rows of a tile: what a schedule for this kernel must be made with. */
  readonly tileRows: number;
  /** Keys that a tile takes at a time. */
  readonly tileKeys: number;
  /** Uploads the work list of a step, for this kernel and for MergeBlock. The caller destroys the result. */
  prepareBlock(request: BlockRequest): PreparedBlock;
  /** Records a step that this kernel prepared. A block with no tiles records nothing. */
  encode(pass: GPUComputePassEncoder, block: PreparedBlock, tensors: ForwardTensors): void;
}

export interface ForwardAttentionOptions extends HeadDims {
  /** Default none: f32, plain softmax. */
  features?: KernelFeatures;
  /** Query rows and KV rows of the shards to come, if known. */
  rowsQ?: number;
  rowsKv?: number;
  /** Query heads that share a KV head, if known: default 1. Affects speed alone. */
  groupSize?: number;
  /** Default: what is fastest. */
  variant?: ForwardAttentionVariant;
}

/** KV rows from which splits of the keys win. */
const SPLIT_MIN_ROWS_KV = 1024;

/** Chooses and compiles a forward kernel. Throws like {@link FlashAttentionForward.create}. */
export async function createForwardAttention(gpu: Gpu, options: ForwardAttentionOptions): Promise<ForwardAttention> {
  const { rowsQ, rowsKv = 0, variant, groupSize = 1, ...dims } = options;
  const kernel = { ...dims, ...(rowsQ !== undefined && { rows: rowsQ }) };
  if (isSplit(variant)) return SplitKvAttention.create(gpu, { ...kernel, groupSize, variant });
  if (variant !== undefined) return FlashAttentionForward.create(gpu, { ...kernel, variant });
  const suitsSplits = (rowsQ ?? Infinity) <= MAX_SPLIT_ROWS && rowsKv >= SPLIT_MIN_ROWS_KV;
  return suitsSplits
    ? SplitKvAttention.create(gpu, { ...kernel, groupSize })
    : FlashAttentionForward.create(gpu, kernel);
}

function isSplit(variant: ForwardVariant | SplitVariant | undefined): variant is SplitVariant {
  return SPLIT_VARIANTS.includes(variant as SplitVariant);
}

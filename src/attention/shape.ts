// The sizes and options of one attention call, and their validation. Shape legend, used in every comment of kvring:
//   B batch   S sequence (Sq of queries, Skv of keys)   H query heads   Hkv KV heads   D head dim (Dqk, Dv)
//   q, out [B, Sq, H, D]   k [B, Skv, Hkv, Dqk]   v [B, Skv, Hkv, Dv]   lse [B, H, Sq] f32
import { ConfigError } from '../errors.ts';
import { type F32Tensor, type HostTensor, validateTensor } from '../tensor/tensor.ts';

/** The sizes of one attention call. */
export interface AttentionShape {
  batch: number;
  seqLenQ: number;
  seqLenKv: number;
  numHeads: number;
  /** Divides numHeads; groupSize = numHeads / numKvHeads query heads share one KV head. */
  numKvHeads: number;
  /** Head dim of q and k, 1 to {@link MAX_HEAD_DIM}. */
  headDimQk: number;
  /** Head dim of v and out, 1 to {@link MAX_HEAD_DIM}. */
  headDimV: number;
}

export const MAX_HEAD_DIM = 256;

/** Mask types that this version computes. */
export const MASK_TYPES = ['no_mask', 'causal'] as const;
export type MaskType = (typeof MASK_TYPES)[number];

/** What changes the result of a call; every field has its default filled in. */
export interface AttentionOptions {
  /** `causal` keeps key j for query i when j ≤ i (top-left aligned). */
  maskType: MaskType;
  /** Scores are softmaxScale · q·k; default 1/√Dqk. */
  softmaxScale: number;
}

/** Throws a ConfigError unless every size is a positive integer and the heads divide. */
export function validateShape(shape: AttentionShape): void {
  for (const [name, value] of Object.entries(shape) as [string, number][]) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError('ERR_SHAPE', `attention: ${name} must be a positive integer, got ${name}=${value}`);
    }
  }
  const { numHeads, numKvHeads, headDimQk, headDimV } = shape;
  if (numHeads % numKvHeads !== 0) {
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: numHeads must be a multiple of numKvHeads, got numHeads=${numHeads}, numKvHeads=${numKvHeads}`,
    );
  }
  if (headDimQk > MAX_HEAD_DIM || headDimV > MAX_HEAD_DIM) {
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: head dims up to ${MAX_HEAD_DIM} are supported, got headDimQk=${headDimQk}, headDimV=${headDimV}`,
    );
  }
}

/** Throws a ConfigError unless the options are known and in range. */
export function validateOptions({ maskType, softmaxScale }: AttentionOptions): void {
  if (!MASK_TYPES.includes(maskType)) {
    throw new ConfigError(
      'ERR_OPTION',
      `attention: maskType must be one of ${MASK_TYPES.join(', ')}, got maskType=${String(maskType)}`,
    );
  }
  if (!Number.isFinite(softmaxScale)) {
    throw new ConfigError('ERR_OPTION', `attention: softmaxScale must be finite, got softmaxScale=${softmaxScale}`);
  }
}

/**
 * The shape that q [B, Sq, H, Dqk], k [B, Skv, Hkv, Dqk] and v [B, Skv, Hkv, Dv] agree on.
 * Throws a ConfigError that names the tensors and sizes when they do not, or when a dtype is not f32.
 */
export function inferShape(q: HostTensor, k: HostTensor, v: HostTensor): AttentionShape {
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    validateTensor(name, tensor);
    if (tensor.dtype !== 'f32') {
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `attention: this version computes f32, got ${name}.dtype=${tensor.dtype}`,
      );
    }
    if (tensor.shape.length !== 4) {
      throw new ConfigError(
        'ERR_SHAPE',
        `attention: ${name} must be [batch, seqLen, heads, headDim], got shape [${tensor.shape.join(', ')}]`,
      );
    }
  }
  const [batch, seqLenQ, numHeads, headDimQk] = q.shape as [number, number, number, number];
  const [batchK, seqLenKv, numKvHeads, headDimK] = k.shape as [number, number, number, number];
  const [batchV, seqLenV, numHeadsV, headDimV] = v.shape as [number, number, number, number];
  const shapes = `q=[${q.shape.join(', ')}], k=[${k.shape.join(', ')}], v=[${v.shape.join(', ')}]`;
  if (batchK !== batch || batchV !== batch) {
    throw new ConfigError('ERR_SHAPE', `attention: q, k and v must have the same batch size, got ${shapes}`);
  }
  if (seqLenV !== seqLenKv || numHeadsV !== numKvHeads) {
    throw new ConfigError('ERR_SHAPE', `attention: k and v must have the same length and heads, got ${shapes}`);
  }
  if (headDimK !== headDimQk) {
    throw new ConfigError('ERR_SHAPE', `attention: q and k must have the same head dim, got ${shapes}`);
  }
  const shape = { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV };
  validateShape(shape);
  return shape;
}

/** Floating-point operations of a forward: 4·B·H·(pairs that the mask keeps)·D, D the mean of Dqk and Dv. */
export function forwardFlops(shape: AttentionShape, maskType: MaskType): number {
  const { batch, numHeads, seqLenQ, seqLenKv, headDimQk, headDimV } = shape;
  const pairs = seqLenQ * seqLenKv * (maskType === 'causal' ? 0.5 : 1);
  return 2 * batch * numHeads * pairs * (headDimQk + headDimV);
}

/** q, k, v in, whole. */
export interface AttentionInputs {
  q: HostTensor;
  k: HostTensor;
  v: HostTensor;
}

/** out [B, Sq, H, Dv] and lse [B, H, Sq]: the natural log of the sum of exp(score) of a row; −Infinity without a key. */
export interface AttentionResult {
  out: F32Tensor;
  lse: F32Tensor;
}

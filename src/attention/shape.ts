// The sizes of one attention call. Shape legend, used in every comment of kvring:
//   B batch   S sequence (Sq of queries, Skv of keys)   H query heads   Hkv KV heads   D head dim (Dqk, Dv)   T packed tokens
//   q, out [B, Sq, H, D]   k [B, Skv, Hkv, Dqk]   v [B, Skv, Hkv, Dv]   lse [B, H, Sq] f32
//   packed: q, out [T, H, D]   k, v [T, Hkv, D]   lse [H, T]; inside, a packed call is a call with B = 1 and S = T
import { ConfigError } from '../errors.ts';
import { type HostTensor, validateTensor } from '../tensor/tensor.ts';
import { UNLIMITED } from './mask.ts';

/** The sizes of one attention call. */
export interface AttentionShape {
  /** 1 when packed. */
  batch: number;
  /** Rows of q of a batch entry: Sq, or T when packed. */
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

/** Throws a ConfigError unless every size is a positive integer and the heads divide. */
export function validateShape(shape: AttentionShape): void {
  for (const [name, value] of Object.entries(shape) as [string, number][]) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError('ERR_SHAPE', `attention: ${name} must be a positive integer, got ${name}=${value}`);
    }
  }
  const { numHeads, numKvHeads, headDimQk, headDimV, seqLenQ, seqLenKv } = shape;
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
  if (seqLenQ >= UNLIMITED || seqLenKv >= UNLIMITED) {
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: sequences shorter than 2^30 are supported, got seqLenQ=${seqLenQ}, seqLenKv=${seqLenKv}`,
    );
  }
}

/**
 * The shape that q [B, Sq, H, Dqk], k [B, Skv, Hkv, Dqk] and v [B, Skv, Hkv, Dv] agree on, or the same without B (packed).
 * Throws a ConfigError that names the tensors and sizes when they do not, or when their dtypes differ or are not f32, f16
 * or bf16.
 */
export function inferShape(q: HostTensor, k: HostTensor, v: HostTensor): AttentionShape {
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    validateTensor(name, tensor);
    if (tensor.dtype === 'i32' || tensor.dtype !== q.dtype) {
      throw new ConfigError(
        'ERR_DTYPE',
        `attention: q, k and v must have one dtype, f32, f16 or bf16, got ${name}.dtype=${tensor.dtype}, q.dtype=${q.dtype}`,
      );
    }
    if (tensor.shape.length !== q.shape.length || (tensor.shape.length !== 4 && tensor.shape.length !== 3)) {
      throw new ConfigError(
        'ERR_SHAPE',
        `attention: q, k and v must be [batch, seqLen, heads, headDim], or all packed as [tokens, heads, headDim], ` +
          `got ${name} [${tensor.shape.join(', ')}]`,
      );
    }
  }
  const [batch, seqLenQ, numHeads, headDimQk] = withBatch(q.shape);
  const [batchK, seqLenKv, numKvHeads, headDimK] = withBatch(k.shape);
  const [batchV, seqLenV, numHeadsV, headDimV] = withBatch(v.shape);
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

function withBatch(shape: readonly number[]): [number, number, number, number] {
  return (shape.length === 3 ? [1, ...shape] : shape) as [number, number, number, number];
}

// The tensors of one backward step: what the backward kernels bind as group 0, in which order, and how large each must be.
import { BYTES_PER_ELEMENT } from '../tensor/tensor.ts';
import { checkBindings, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import type { HeadDims, KernelFeatures } from './kernel-features.ts';
import { type BlockRequest, checkBindingSizes } from './prepared-block.ts';
import { checkHasBias, checkStep } from './step-checks.ts';

/** What every backward kernel reads. Offsets are multiples of the device's minStorageBufferOffsetAlignment. */
export interface BackwardInputs {
  /** [B, rowsQ, H, Dqk], stored as the kernel's dtype says; so are k, v and dout. */
  q: TensorBinding;
  /** [B, rowsKv, Hkv, Dqk] */
  k: TensorBinding;
  /** [B, rowsKv, Hkv, Dv] */
  v: TensorBinding;
  /** [B, rowsQ, H, Dv] */
  dout: TensorBinding;
  /** [B, H, rowsQ] of two f32: what AttentionDelta writes. */
  rowStats: TensorBinding;
  /** [1 or B, 1 or H, rowsQ, Skv] f32: this shard's rows of the bias; with the feature `bias`. */
  bias?: TensorBinding;
}

export interface QueryGradientTensors extends BackwardInputs {
  /** [B, rowsQ, H, Dqk] f32, written for the rows of the block's tiles, or added to when the block accumulates. */
  dq: TensorBinding;
}

export interface KeyGradientTensors extends BackwardInputs {
  /** dk [B, rowsKv, Hkv, Dqk], then dv [B, rowsKv, Hkv, Dv], f32; written or added to like dq. */
  dkv: TensorBinding;
}

export interface BiasGradientTensors extends BackwardInputs {
  bias: TensorBinding;
  /** Like the bias: the block's pairs are added to it. The caller clears it before the first block. */
  dbias: TensorBinding;
}

type BackwardTensor = keyof BackwardInputs | 'dq' | 'dkv' | 'dbias';

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** Bytes of each tensor of a step. */
export function backwardTensorSizes(
  { shape, rowsQ, rowsKv, bias }: BlockRequest,
  { dtype = 'f32' }: KernelFeatures,
): Record<BackwardTensor, number> {
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenKv } = shape;
  const elementBytes = BYTES_PER_ELEMENT[dtype];
  const [queries, keys] = [batch * rowsQ * numHeads, batch * rowsKv * numKvHeads];
  const biasBytes = bias ? bias.batch * bias.heads * rowsQ * seqLenKv * F32_BYTES : 0;
  return {
    q: queries * headDimQk * elementBytes,
    k: keys * headDimQk * elementBytes,
    v: keys * headDimV * elementBytes,
    dout: queries * headDimV * elementBytes,
    rowStats: queries * 2 * F32_BYTES,
    bias: biasBytes,
    dq: queries * headDimQk * F32_BYTES,
    dkv: keys * (headDimQk + headDimV) * F32_BYTES,
    dbias: biasBytes,
  };
}

/**
 * Throws a ConfigError when a step asks for what the kernel was not compiled for, which would give wrong numbers and no
 * other error, and DeviceError ERR_LIMIT when one of its tensors cannot be bound.
 */
export function checkBackwardRequest(
  gpu: Gpu,
  request: BlockRequest,
  kernel: HeadDims & { features: KernelFeatures; tileRows: number },
): void {
  const { features } = kernel;
  const { softcap = false, dropout = false, bias = false } = features;
  checkStep(request, { ...kernel, features: { softcap, dropout, bias } });
  checkBindingSizes(gpu, backwardTensorSizes(request, features));
}

/** Throws ConfigError ERR_SHAPE when a tensor is too short, and ERR_OPTION when the bias is missing. */
export function checkBackwardTensors(
  operation: string,
  request: BlockRequest,
  features: KernelFeatures,
  tensors: BackwardInputs & { [name in BackwardTensor]?: TensorBinding },
): void {
  checkHasBias(operation, features, tensors);
  checkBindings(operation, { ...tensors }, backwardTensorSizes(request, features));
}

/** How the kernels use their tensors, in binding order: q, k, v, dout, rowStats, bias, and the gradient. */
export const BACKWARD_ACCESS = ['read', 'read', 'read', 'read', 'read', 'read', 'read_write'] as const;

/** The bindings of a kernel in order, with its gradient last. */
export function orderBindings(
  { q, k, v, dout, rowStats, bias }: BackwardInputs,
  gradient: TensorBinding,
): TensorBinding[] {
  // Without a bias nothing reads that binding: any buffer that is only read will do.
  return [q, k, v, dout, rowStats, bias ?? rowStats, gradient];
}

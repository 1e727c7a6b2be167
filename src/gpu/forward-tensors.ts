// The tensors of one forward step: what every forward kernel binds as group 0, in which order, and how large each must
// be.
import { BYTES_PER_ELEMENT } from '../tensor/tensor.ts';
import { checkBindings, type TensorBinding } from './bindings.ts';
import type { Gpu } from './device.ts';
import type { HeadDims, KernelFeatures } from './kernel-features.ts';
import { type BlockRequest, checkBindingSizes } from './prepared-block.ts';
import { checkHasBias, checkStep } from './step-checks.ts';

/** Tensors of one ring step. Offsets are multiples of the device's minStorageBufferOffsetAlignment. */
export interface ForwardTensors {
  /** [B, rowsQ, H, Dqk], stored as the kernel's dtype says; so are k and v. */
  q: TensorBinding;
  /** [B, rowsKv, Hkv, Dqk] */
  k: TensorBinding;
  /** [B, rowsKv, Hkv, Dv] */
  v: TensorBinding;
  /** [B, rowsQ, H, Dv] f32, written for the rows of the block's tiles; 0 in a row that saw no key. */
  out: TensorBinding;
  /**
   * [B, H, rowsQ] f32, natural log, written for the same rows; MASKED_LSE in a row that saw no key. With max logit
   * twice as long: behind it, in the same order, the largest score of each row, MASKED_LSE without a key.
   */
  lse: TensorBinding;
  /** [1 or B, 1 or H, rowsQ, Skv] f32: this shard's rows of the bias; with the feature `bias`. */
  bias?: TensorBinding;
}

const F32_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** Bytes of each tensor of a step. */
export function forwardTensorSizes(
  request: BlockRequest,
  features: KernelFeatures,
): Record<keyof ForwardTensors, number> {
  const { shape, rowsQ, rowsKv, bias } = request;
  const { batch, numHeads, numKvHeads, headDimQk, headDimV, seqLenKv } = shape;
  const elementBytes = BYTES_PER_ELEMENT[features.dtype ?? 'f32'];
  return {
    q: batch * rowsQ * numHeads * headDimQk * elementBytes,
    k: batch * rowsKv * numKvHeads * headDimQk * elementBytes,
    v: batch * rowsKv * numKvHeads * headDimV * elementBytes,
    out: outSize(request),
    lse: lseSize(request, features.maxLogit ?? false),
    bias: bias ? bias.batch * bias.heads * rowsQ * seqLenKv * F32_BYTES : 0,
  };
}

/** Bytes of out. */
export function outSize({ shape: { batch, numHeads, headDimV }, rowsQ }: BlockRequest): number {
  return batch * rowsQ * numHeads * headDimV * F32_BYTES;
}

/** Bytes of lse, with the largest scores behind it when `maxLogit`. */
export function lseSize({ shape: { batch, numHeads }, rowsQ }: BlockRequest, maxLogit: boolean): number {
  return (maxLogit ? 2 : 1) * batch * numHeads * rowsQ * F32_BYTES;
}

/**
 * Throws a ConfigError when a step asks for what the kernel was not compiled for, which would give wrong numbers and no
 * other error, and DeviceError ERR_LIMIT when one of its tensors cannot be bound.
 */
export function checkForwardRequest(
  gpu: Gpu,
  request: BlockRequest,
  kernel: HeadDims & { features: KernelFeatures; tileRows: number },
): void {
  const { features } = kernel;
  const { softcap = false, dropout = false, bias = false, maxLogit = false } = features;
  checkStep(request, { ...kernel, features: { softcap, dropout, bias, maxLogit } });
  checkBindingSizes(gpu, forwardTensorSizes(request, features));
}

/** Throws ConfigError ERR_SHAPE when a tensor is too short, and ERR_OPTION when the bias is missing. */
export function checkForwardTensors(
  operation: string,
  request: BlockRequest,
  features: KernelFeatures,
  tensors: ForwardTensors,
): void {
  checkHasBias(operation, features, tensors);
  checkBindings(operation, { ...tensors }, forwardTensorSizes(request, features));
}

// Host tensors: typed data, a shape and a dtype, row-major. Pure; knows no GPU and no file.
import { ConfigError } from '../errors.ts';

/** Element types of attention tensors; `i32` for lengths. */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32';

/** Element types of q, k, v, out and their gradients. */
export const FLOAT_DTYPES = ['f32', 'f16', 'bf16'] as const satisfies readonly DType[];
export type FloatDType = (typeof FLOAT_DTYPES)[number];

export const BYTES_PER_ELEMENT: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4 };

/** The bits of f16 and bf16 elements travel in a Uint16Array: JavaScript on Node 20 has no 16-bit float array. */
export type TensorData = Float32Array | Uint16Array | Int32Array;

/** A whole tensor in the caller's memory, row-major. `data.length` is the product of `shape`. */
export interface HostTensor {
  readonly data: TensorData;
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** A {@link HostTensor} of f32. */
export interface F32Tensor extends HostTensor {
  readonly data: Float32Array;
  readonly dtype: 'f32';
}

/** The number of elements of a shape: 1 for []. */
export function numElements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** An f32 tensor of zeros, or over the given data. */
export function f32Tensor(shape: readonly number[], data?: Float32Array): F32Tensor {
  return { data: data ?? new Float32Array(numElements(shape)), shape, dtype: 'f32' };
}

/** The bytes of a tensor, without a copy. */
export function tensorBytes(tensor: HostTensor): Uint8Array<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = tensor.data;
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

/**
 * Throws a ConfigError unless `tensor` is a well-formed host tensor: an object with `data`, `shape` and `dtype`, every
 * size a positive safe integer, data of the dtype's array type and of the shape's length. `name` is for the message.
 */
export function validateTensor(name: string, tensor: unknown): asserts tensor is HostTensor {
  if (typeof tensor !== 'object' || tensor === null) {
    throw new ConfigError('ERR_SHAPE', `${name}: a tensor is { data, shape, dtype }, got ${String(tensor)}`);
  }
  const { data, shape, dtype } = tensor as Partial<HostTensor>;
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
    throw new ConfigError('ERR_SHAPE', `${name}: every size must be a positive integer, got shape=[${String(shape)}]`);
  }
  if (dtype === undefined || !(dtype in BYTES_PER_ELEMENT)) {
    throw new ConfigError('ERR_DTYPE', `${name}: dtype must be f32, f16, bf16 or i32, got dtype=${String(dtype)}`);
  }
  const arrayType = dtype === 'f32' ? Float32Array : dtype === 'i32' ? Int32Array : Uint16Array;
  if (!(data instanceof arrayType)) {
    throw new ConfigError('ERR_DTYPE', `${name}: data of dtype ${dtype} must be a ${arrayType.name}`);
  }
  if (data.length !== numElements(shape)) {
    throw new ConfigError(
      'ERR_SHAPE',
      `${name}: shape [${shape.join(', ')}] has ${numElements(shape)} elements, got data.length=${data.length}`,
    );
  }
}

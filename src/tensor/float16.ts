// f16 (IEEE 754 binary16) and bf16 (the upper half of an f32) on the host, exact: decoding loses nothing, encoding rounds to
// nearest, ties to even, with subnormals; what is too large becomes Infinity, and NaN stays NaN. Pure.
import { ConfigError } from '../errors.ts';
import { BYTES_PER_ELEMENT, type FloatDType, type HostTensor } from './tensor.ts';

const SIGN_16 = 0x8000;
const INFINITY_16 = 0x7c00;
const QUIET_16 = 0x200;
/** Bits of f32 numbers. */
const INFINITY_32 = 0x7f800000;
const TWO_TO_16 = 0x47800000;
const TWO_TO_MINUS_14 = 0x38800000;
/** What the exponent of an f32 is more than that of the same f16, in place: (127 − 15) · 2²³. */
const BIAS_DIFFERENCE = 0x38000000;
/** The smallest f16 above 0: subnormals are multiples of it. */
const SMALLEST_F16 = 2 ** -24;

/** f32 → f16 bits. Other numbers are rounded to f32 first. */
export function encodeFloat16(values: ArrayLike<number>): Uint16Array<ArrayBuffer> {
  const words = wordsOf(values);
  const result = new Uint16Array(words.length);
  const scratch = new Float32Array(1);
  const scratchBits = new Uint32Array(scratch.buffer);
  for (let index = 0; index < words.length; index++) {
    const sign = (words[index] >>> 16) & SIGN_16;
    const magnitude = words[index] & 0x7fffffff;
    if (magnitude >= TWO_TO_16) {
      const payload = QUIET_16 | ((magnitude >>> 13) & 0x3ff);
      result[index] = sign | INFINITY_16 | (magnitude > INFINITY_32 ? payload : 0);
    } else if (magnitude >= TWO_TO_MINUS_14) {
      // A carry out of the mantissa lands in the exponent, as it should, up to Infinity.
      result[index] = sign | (roundOff(magnitude - BIAS_DIFFERENCE, 13) >>> 13);
    } else {
      // Next to 1/2, f32 numbers are as far apart as subnormal f16 numbers: the sum rounds as wanted.
      scratchBits[0] = magnitude;
      scratch[0] += 0.5;
      result[index] = sign | (scratchBits[0] & 0x7ff);
    }
  }
  return result;
}

/** f16 bits → f32. */
export function decodeFloat16(bits: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const result = new Float32Array(bits.length);
  const words = new Uint32Array(result.buffer);
  for (let index = 0; index < bits.length; index++) {
    const sign = (bits[index] & SIGN_16) << 16;
    const magnitude = bits[index] & 0x7fff;
    if (magnitude >= 0x400) {
      const infinite = magnitude >= INFINITY_16 ? BIAS_DIFFERENCE : 0;
      words[index] = sign | ((magnitude << 13) + BIAS_DIFFERENCE + infinite);
    } else {
      result[index] = magnitude * SMALLEST_F16;
      words[index] |= sign;
    }
  }
  return result;
}

/** f32 → bf16 bits. Other numbers are rounded to f32 first. */
export function encodeBfloat16(values: ArrayLike<number>): Uint16Array<ArrayBuffer> {
  const words = wordsOf(values);
  const result = new Uint16Array(words.length);
  for (let index = 0; index < words.length; index++) {
    const isNaN = (words[index] & 0x7fffffff) > INFINITY_32;
    result[index] = isNaN ? (words[index] >>> 16) | 0x40 : roundOff(words[index], 16) >>> 16;
  }
  return result;
}

/** bf16 bits → f32. */
export function decodeBfloat16(bits: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bits.length);
  for (let index = 0; index < bits.length; index++) words[index] = bits[index] << 16;
  return new Float32Array(words.buffer);
}

/** The elements of a float tensor as f32: the tensor's own data when it is f32. Throws ConfigError ERR_DTYPE for i32. */
export function toFloat32({ data, dtype }: HostTensor): Float32Array {
  switch (dtype) {
    case 'f32':
      return data as Float32Array;
    case 'f16':
      return decodeFloat16(data);
    case 'bf16':
      return decodeBfloat16(data);
    case 'i32':
      throw new ConfigError('ERR_DTYPE', `toFloat32: the tensor must be f32, f16 or bf16, got dtype=${dtype}`);
  }
}

/** A tensor of `dtype` from f32 elements; for f32 it is a view of `data`, else rounded. */
export function fromFloat32(data: Float32Array, shape: readonly number[], dtype: FloatDType): HostTensor {
  if (!(dtype in BYTES_PER_ELEMENT) || (dtype as string) === 'i32') {
    throw new ConfigError('ERR_DTYPE', `fromFloat32: dtype must be f32, f16 or bf16, got dtype=${dtype}`);
  }
  if (dtype === 'f32') return { data, shape, dtype };
  return { data: dtype === 'f16' ? encodeFloat16(data) : encodeBfloat16(data), shape, dtype };
}

/** The bits of f32 numbers. */
function wordsOf(values: ArrayLike<number>): Uint32Array {
  const { buffer, byteOffset, length } = values instanceof Float32Array ? values : Float32Array.from(values);
  return new Uint32Array(buffer, byteOffset, length);
}

/** Adds what makes cutting off the lowest `count` bits round to nearest, ties to even. */
function roundOff(word: number, count: number): number {
  return word + (1 << (count - 1)) - 1 + ((word >>> count) & 1);
}

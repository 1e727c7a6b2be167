// What a call asks of a kernel beyond the plain softmax, as the values that specialise its shader: overrides of score.wgsl
// and of the kernels, and the element format of element.wgsl. Pure.
import type { AttentionCall } from '../attention/call.ts';
import type { FloatDType } from '../tensor/tensor.ts';

const ELEMENT_FORMATS: Readonly<Record<FloatDType, number>> = { f32: 0, f16: 1, bf16: 2 };

/** Head dims that a kernel is compiled for. */
export interface HeadDims {
  headDimQk: number;
  headDimV: number;
}

export interface KernelFeatures {
  /** How q, k, v and dout are stored on the device; 16-bit formats need even head dims. Default f32. */
  dtype?: FloatDType;
  softcap?: boolean;
  alibi?: boolean;
  bias?: boolean;
  dropout?: boolean;
  /** Also write the largest score of each row, behind lse. */
  maxLogit?: boolean;
}

/** The features that a call needs. */
export function featuresOf({ options, alibi, bias, storage }: AttentionCall): KernelFeatures {
  return {
    dtype: storage,
    softcap: options.softcap > 0,
    alibi,
    bias: bias !== null,
    dropout: options.dropout > 0,
    maxLogit: options.maxLogit,
  };
}

/** `ELEMENT_FORMAT` of element.wgsl, and the number of elements in a word. */
export function elementFormat(dtype: FloatDType = 'f32'): { format: number; perWord: number } {
  return { format: ELEMENT_FORMATS[dtype], perWord: dtype === 'f32' ? 1 : 2 };
}

/** The overrides of score.wgsl, as 0 or 1. */
export function scoreOverrides({ softcap, alibi, bias }: KernelFeatures): Record<string, number> {
  return { HAS_SOFTCAP: Number(softcap ?? false), HAS_ALIBI: Number(alibi ?? false), HAS_BIAS: Number(bias ?? false) };
}

const CHUNKS = [
  [4, 'vec4u'],
  [2, 'vec2u'],
  [1, 'array<u32, 1>'],
] as const;

/** The widest load of rows that both head dims are a multiple of: its WGSL type, and the elements in it. */
export function chooseChunk({ headDimQk, headDimV, features }: HeadDims & { features?: KernelFeatures }): {
  chunkSize: number;
  chunk: string;
} {
  const { perWord } = elementFormat(features?.dtype);
  const fits = ([words]: readonly [number, string]): boolean =>
    headDimQk % (words * perWord) === 0 && headDimV % (words * perWord) === 0;
  const [words, chunk] = CHUNKS.find(fits) ?? CHUNKS[2];
  return { chunkSize: words * perWord, chunk };
}

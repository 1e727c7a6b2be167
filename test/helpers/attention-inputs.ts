// Seeded host tensors of one attention call, with whatever goes beside q, k and v.
import type { AttentionCall, AttentionInputs } from '../../src/attention/call.ts';
import { queryShape } from '../../src/attention/call.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor, type FloatDType, type HostTensor, numElements } from '../../src/tensor/tensor.ts';
import { seededNormal, seededRandom } from './seeded.ts';

/** Lengths of the sequences of a call, and for packed tensors what each takes up with the padding after it. */
export interface SequenceSizes {
  q: readonly number[];
  kv: readonly number[];
  paddedQ?: readonly number[];
  paddedKv?: readonly number[];
}

export interface InputsSpec {
  shape: AttentionShape;
  /** Default f32. */
  dtype?: FloatDType;
  /** Default 1. */
  seed?: number;
  /** First two sizes of a bias; default none. One value in eight removes its key. */
  bias?: readonly [batch: number, heads: number] | undefined;
  sink?: boolean;
  alibi?: boolean;
  sequences?: SequenceSizes | undefined;
  /** [T, H, D] tensors: shape has batch 1. */
  packed?: boolean;
}

/** N(0, 1) tensors; ALiBi's slopes are 2^(−8 (h + 1) / H), as in its paper. */
export function createInputs({
  shape,
  dtype = 'f32',
  seed = 1,
  packed = false,
  ...extras
}: InputsSpec): AttentionInputs {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const leading = packed ? [] : [batch];
  const tensor = (sizes: readonly number[], salt: number): HostTensor =>
    fromFloat32(seededNormal(numElements(sizes), 10 * seed + salt), sizes, dtype);
  const inputs: AttentionInputs = {
    q: tensor([...leading, seqLenQ, numHeads, headDimQk], 1),
    k: tensor([...leading, seqLenKv, numKvHeads, headDimQk], 2),
    v: tensor([...leading, seqLenKv, numKvHeads, headDimV], 3),
  };
  if (extras.bias) inputs.bias = createBias([...extras.bias, seqLenQ, seqLenKv], seed);
  if (extras.sink) inputs.sink = f32Tensor([numHeads], seededNormal(numHeads, 10 * seed + 5));
  if (extras.alibi) {
    inputs.alibiSlopes = f32Tensor(
      [numHeads],
      Float32Array.from({ length: numHeads }, (_, h) => 2 ** ((-8 * (h + 1)) / numHeads)),
    );
  }
  if (extras.sequences) {
    const { q, kv, paddedQ, paddedKv } = extras.sequences;
    inputs.cuSeqlensQ = cumulative(q);
    inputs.cuSeqlensKv = cumulative(kv);
    if (paddedQ) inputs.cuSeqlensQPadded = cumulative(paddedQ);
    if (paddedKv) inputs.cuSeqlensKvPadded = cumulative(paddedKv);
  }
  return inputs;
}

function createBias(sizes: readonly number[], seed: number): HostTensor {
  const random = seededRandom(10 * seed + 6);
  const data = seededNormal(numElements(sizes), 10 * seed + 4);
  return f32Tensor(
    sizes,
    data.map((value) => (random() < 1 / 8 ? -Infinity : value)),
  );
}

/** Cumulative sums from 0, as an i32 tensor. */
export function cumulative(lengths: readonly number[]): HostTensor {
  const data = new Int32Array(lengths.length + 1);
  for (const [index, length] of lengths.entries()) data[index + 1] = data[index] + length;
  return { data, shape: [data.length], dtype: 'i32' };
}

/** N(0, 1) in the shape of out, in the dtype of the call. */
export function createDout(call: AttentionCall, seed = 1): HostTensor {
  const sizes = queryShape(call, call.shape.headDimV);
  return fromFloat32(seededNormal(numElements(sizes), 10 * seed + 7), sizes, call.dtype);
}

// The published vectors of the ONNX Attention operator in kvring's terms, and results back in theirs.
// Theirs: 4-D tensors are [B, H, S, D], 3-D ones [B, S, H·D]; `scale` multiplies the scores; a float mask is added after the
// soft cap, a boolean one keeps where it is true; a past comes before the keys. `is_causal` aligns top-left, after a past or
// with `nonpad_kv_seqlen` (valid keys per batch entry) bottom-right.
import { readFileSync } from 'node:fs';
import type { AttentionInputs } from '../../src/attention/call.ts';
import type { MaskType } from '../../src/attention/mask.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor, type F32Tensor, type HostTensor, numElements } from '../../src/tensor/tensor.ts';
import { cumulative } from '../helpers/attention-inputs.ts';

interface OnnxTensor {
  /** Default float32. */
  type?: 'float16' | 'bool' | 'int64';
  dims: number[];
  data: (number | boolean)[];
}

/** One published vector, as in onnx-attention.json. */
export interface OnnxCase {
  name: string;
  attributes: { scale?: number; is_causal?: number; softcap?: number; q_num_heads?: number; kv_num_heads?: number };
  inputs: Record<'Q' | 'K' | 'V', OnnxTensor> &
    Partial<Record<'attn_mask' | 'past_key' | 'past_value' | 'nonpad_kv_seqlen', OnnxTensor>>;
  outputs: { Y: OnnxTensor; present_key?: OnnxTensor; present_value?: OnnxTensor };
}

/** The vectors of the file beside this one. */
export function readOnnxCases(): OnnxCase[] {
  const text = readFileSync(new URL('onnx-attention.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { cases: OnnxCase[] }).cases;
}

/** The tensors of a vector, q, k and v as [B, S, H, D], and the options that its attributes stand for. */
export function importCase({ attributes, inputs }: OnnxCase): {
  inputs: AttentionInputs;
  options: Partial<AttentionOptions>;
} {
  const { q_num_heads: numHeads, kv_num_heads: numKvHeads, scale, is_causal: isCausal = 0, softcap = 0 } = attributes;
  const { attn_mask: mask, past_key: pastKey, past_value: pastValue, nonpad_kv_seqlen: lengths } = inputs;
  const q = importTensor(inputs.Q, numHeads);
  const k = importTensor(inputs.K, numKvHeads, pastKey);
  const v = importTensor(inputs.V, numKvHeads, pastValue);
  const tensors: AttentionInputs = { q, k, v };
  if (mask) tensors.bias = importMask(mask);
  if (lengths) {
    tensors.cuSeqlensQ = cumulative(lengths.data.map(() => q.shape[1]));
    tensors.cuSeqlensKv = cumulative(lengths.data.map(Number));
  }
  const causal: MaskType = lengths ? 'padding_causal_bottom_right' : pastKey ? 'causal_bottom_right' : 'causal';
  const maskType = isCausal === 1 ? causal : lengths ? 'padding' : 'no_mask';
  return { inputs: tensors, options: { maskType, softcap, softmaxScale: scale ?? 1 / Math.sqrt(q.shape[3]) } };
}

/** An `out` [B, S, H, D] in the form of the vector's Y, row-major. */
export function exportOut(out: ArrayLike<number>, { outputs, attributes }: OnnxCase): number[] {
  const { dims } = outputs.Y;
  if (attributes.q_num_heads !== undefined) return Array.from(out);
  const [batch, numHeads, seqLen, headDim] = dims;
  return swapAxes(out, [batch, seqLen, numHeads, headDim]);
}

/** k or v [B, S, H, D] in the form of a vector's present_key or present_value. */
export function exportPresent(data: ArrayLike<number>, [batch, heads, seqLen, headDim]: readonly number[]): number[] {
  return swapAxes(data, [batch, seqLen, heads, headDim]);
}

function importTensor({ type, dims, data }: OnnxTensor, numHeads: number | undefined, past?: OnnxTensor): HostTensor {
  const numbers = data.map(Number);
  const dtype = type === 'float16' ? 'f16' : 'f32';
  if (dims.length === 3 && numHeads !== undefined) {
    const [batch, seqLen, width] = dims;
    return fromFloat32(Float32Array.from(numbers), [batch, seqLen, numHeads, width / numHeads], dtype);
  }
  const [batch, heads, seqLen, headDim] = dims;
  const pastLen = past?.dims[2] ?? 0;
  // [B, H, past + S, D]: each head's past rows, then its own.
  const joined = Array.from({ length: batch * heads }, (_, head) => [
    ...(past?.data.map(Number).slice(head * pastLen * headDim, (head + 1) * pastLen * headDim) ?? []),
    ...numbers.slice(head * seqLen * headDim, (head + 1) * seqLen * headDim),
  ]).flat();
  const total = pastLen + seqLen;
  const swapped = Float32Array.from(swapAxes(joined, [batch, heads, total, headDim]));
  return fromFloat32(swapped, [batch, total, heads, headDim], dtype);
}

/** A mask [Sq, Skv], [H, Sq, Skv] or [B, H, Sq, Skv], where B and H may be 1, as a bias. */
function importMask({ type, dims, data }: OnnxTensor): F32Tensor {
  const leading = Array.from({ length: 4 - dims.length }, () => 1);
  const values = data.map((value) => (type === 'bool' ? (value ? 0 : -Infinity) : Number(value)));
  return f32Tensor([...leading, ...dims], Float32Array.from(values));
}

/** [A, B, C, D] to [A, C, B, D]. */
function swapAxes(data: ArrayLike<number>, [a, b, c, d]: readonly [number, number, number, number]): number[] {
  return Array.from({ length: numElements([a, b, c, d]) }, (_, index) => {
    const column = index % d;
    const row = Math.floor(index / d);
    const [second, first] = [row % b, Math.floor(row / b) % c];
    return data[((Math.floor(row / (b * c)) * b + second) * c + first) * d + column];
  });
}

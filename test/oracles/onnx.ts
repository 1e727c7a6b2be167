// The published vectors of the ONNX Attention operator in kvring's terms, and results back in theirs.
// Theirs: 4-D tensors are [B, H, S, D], 3-D ones [B, S, H·D]; `is_causal` aligns top-left; `scale` multiplies the scores.
import { readFileSync } from 'node:fs';
import type { AttentionInputs, AttentionOptions } from '../../src/attention/shape.ts';
import { f32Tensor, type F32Tensor, numElements } from '../../src/tensor/tensor.ts';

interface OnnxTensor {
  dims: number[];
  data: number[];
}

/** One published vector, as in onnx-attention.json. */
export interface OnnxCase {
  name: string;
  attributes: { scale?: number; is_causal?: number; q_num_heads?: number; kv_num_heads?: number };
  inputs: { Q: OnnxTensor; K: OnnxTensor; V: OnnxTensor };
  outputs: { Y: OnnxTensor };
}

/** The vectors of the file beside this one. */
export function readOnnxCases(): OnnxCase[] {
  const text = readFileSync(new URL('onnx-attention.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { cases: OnnxCase[] }).cases;
}

/** q, k and v [B, S, H, D] of a vector, and the options that its attributes stand for. */
export function importCase({ attributes, inputs }: OnnxCase): { inputs: AttentionInputs; options: AttentionOptions } {
  const { q_num_heads: numHeads, kv_num_heads: numKvHeads, scale, is_causal: isCausal } = attributes;
  const q = importTensor(inputs.Q, numHeads);
  const k = importTensor(inputs.K, numKvHeads);
  const v = importTensor(inputs.V, numKvHeads);
  const softmaxScale = scale ?? 1 / Math.sqrt(q.shape[3]);
  return { inputs: { q, k, v }, options: { maskType: isCausal === 1 ? 'causal' : 'no_mask', softmaxScale } };
}

/** An `out` [B, S, H, D] in the form of the vector's Y, row-major. */
export function exportOut(out: ArrayLike<number>, { outputs, attributes }: OnnxCase): number[] {
  const { dims } = outputs.Y;
  if (attributes.q_num_heads !== undefined) return Array.from(out);
  const [batch, numHeads, seqLen, headDim] = dims;
  return swapAxes(out, [batch, seqLen, numHeads, headDim]);
}

function importTensor({ dims, data }: OnnxTensor, numHeads: number | undefined): F32Tensor {
  if (dims.length === 3 && numHeads !== undefined) {
    const [batch, seqLen, width] = dims;
    return f32Tensor([batch, seqLen, numHeads, width / numHeads], Float32Array.from(data));
  }
  const [batch, heads, seqLen, headDim] = dims;
  return f32Tensor([batch, seqLen, heads, headDim], Float32Array.from(swapAxes(data, [batch, heads, seqLen, headDim])));
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

// The baseline of 16-bit results: attention in the most straightforward way, S, P, dP, dS and the results rounded to the dtype
// after each product, sums exact. A kernel with f32 inside has to be at least half as good (tolerance.ts).
import type { AttentionOptions } from '../../src/attention/options.ts';
import {
  dotProduct,
  dropoutFactor,
  forEachRow,
  kvIndex,
  type ReferenceInputs,
  type RowPlace,
  type RowScores,
  scoreRow,
  sinkLogit,
  softmax,
} from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from '../../src/tensor/float16.ts';

export type Dtype16 = 'f16' | 'bf16';

/** What rounds to a dtype. */
function rounderOf(dtype: Dtype16): (values: ArrayLike<number>) => Float32Array {
  return dtype === 'f16'
    ? (values) => decodeFloat16(encodeFloat16(values))
    : (values) => decodeBfloat16(encodeBfloat16(values));
}

interface RoundedRow {
  row: RowScores;
  /** P, and P after dropout. */
  weights: Float32Array;
  dropped: Float32Array;
  factors: number[];
  out: Float32Array;
}

/** One query row with S, P and out rounded; null for a row of no sequence. */
function roundedRow(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  { place, dtype }: { place: RowPlace; dtype: Dtype16 },
): RoundedRow | null {
  const round = rounderOf(dtype);
  const [b, h] = place;
  const row = scoreRow(inputs, shape, options, place);
  if (!row) return null;
  const weights = round(softmax([...round(row.scores)], sinkLogit(inputs, options, h)).weights);
  const factors = row.keys.map((j) => dropoutFactor(options, row.sequence, h, [row.i, j]));
  const dropped = round(weights.map((weight, index) => weight * factors[index]));
  const out = new Float64Array(shape.headDimV);
  for (const [index, kvRow] of row.kvRows.entries()) {
    const vAt = kvIndex(shape, [b, h, kvRow]) * shape.headDimV;
    for (let d = 0; d < out.length; d++) out[d] += dropped[index] * inputs.v[vAt + d];
  }
  return { row, weights, dropped, factors, out: round(out) };
}

/** out [Dv] of one query row. */
export function samePrecisionRow(
  inputs: ReferenceInputs,
  shape: AttentionShape,
  options: AttentionOptions,
  at: { place: RowPlace; dtype: Dtype16 },
): Float32Array {
  return roundedRow(inputs, shape, options, at)?.out ?? new Float32Array(shape.headDimV);
}

/** dq, dk and dv of a call, for dout [B, Sq, H, Dv] that the dtype holds exactly. */
export function samePrecisionBackward(
  inputs: ReferenceInputs & { dout: ArrayLike<number> },
  shape: AttentionShape,
  options: AttentionOptions,
  dtype: Dtype16,
): { dq: Float32Array; dk: Float32Array; dv: Float32Array } {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const round = rounderOf(dtype);
  const dq = new Float64Array(batch * seqLenQ * numHeads * headDimQk);
  const dk = new Float64Array(batch * seqLenKv * numKvHeads * headDimQk);
  const dv = new Float64Array(batch * seqLenKv * numKvHeads * headDimV);
  forEachRow(shape, (b, h, queryRow) => {
    const one = roundedRow(inputs, shape, options, { place: [b, h, queryRow], dtype });
    if (!one) return;
    const query = (b * seqLenQ + queryRow) * numHeads + h;
    const dout = { data: inputs.dout, at: query * headDimV };
    const delta = dotProduct({ data: one.out, at: 0 }, dout, headDimV);
    const kvs = one.row.kvRows.map((kvRow) => kvIndex(shape, [b, h, kvRow]));
    const dweights = round(kvs.map((kv) => dotProduct(dout, { data: inputs.v, at: kv * headDimV }, headDimV)));
    const dscores = round(
      dweights.map((dweight, index) => one.weights[index] * (one.factors[index] * dweight - delta)),
    );
    for (const [index, kv] of kvs.entries()) {
      const ddot = dscores[index] * one.row.slopes[index];
      for (let d = 0; d < headDimQk; d++) {
        dq[query * headDimQk + d] += ddot * inputs.k[kv * headDimQk + d];
        dk[kv * headDimQk + d] += ddot * inputs.q[query * headDimQk + d];
      }
      for (let d = 0; d < headDimV; d++)
        dv[kv * headDimV + d] += one.dropped[index] * inputs.dout[query * headDimV + d];
    }
  });
  return { dq: round(dq), dk: round(dk), dv: round(dv) };
}

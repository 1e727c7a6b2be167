// One attention call as host tensors with its options, and the comparison of what it gave with the f64 reference.
import {
  type AttentionCall,
  type AttentionGradients,
  type AttentionInputs,
  type AttentionResult,
  describeCall,
} from '../../src/attention/call.ts';
import type { MaskType } from '../../src/attention/mask.ts';
import { type AttentionOptions, fillOptions } from '../../src/attention/options.ts';
import { referenceForward, referenceInputs, referenceRow, type RowPlace } from '../../src/attention/reference.ts';
import { referenceBackward } from '../../src/attention/reference-backward.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { toFloat32 } from '../../src/tensor/float16.ts';
import type { HostTensor } from '../../src/tensor/tensor.ts';
import { createInputs } from './attention-inputs.ts';
import { samePrecisionBackward, samePrecisionRow } from './same-precision.ts';
import {
  type Budget,
  budget16,
  cancellationFloor,
  expectClose,
  gradientBudget,
  indexTuple,
  TOLERANCE,
} from './tolerance.ts';

export interface AttentionCase {
  shape: AttentionShape;
  options: AttentionOptions;
  inputs: AttentionInputs;
}

/** A call whose defaults need not be filled in. */
interface CallTensors {
  options: Partial<AttentionOptions>;
  inputs: AttentionInputs;
}

/** A self-attention case (Sq = Skv = seqLen) with N(0, 1) inputs. */
export function createCase(
  {
    seqLen,
    batch = 1,
    numHeads,
    numKvHeads,
    headDim,
  }: { seqLen: number; batch?: number; numHeads: number; numKvHeads: number; headDim: number },
  maskType: MaskType,
): AttentionCase {
  const sizes = { batch, seqLenQ: seqLen, seqLenKv: seqLen, numHeads, numKvHeads };
  const shape: AttentionShape = { ...sizes, headDimQk: headDim, headDimV: headDim };
  return { shape, options: fillOptions({ maskType }, headDim), inputs: createInputs({ shape }) };
}

/**
 * Compares up to `maxRows` evenly spread rows of out and lse, the first and the last always among them, and max logit when
 * that is all of them.
 */
export function expectReference({ options, inputs }: CallTensors, result: AttentionResult, maxRows = 400): void {
  const call = describeCall(inputs, options);
  const { seqLenQ, numHeads, headDimV } = call.shape;
  const tensors = referenceInputs(inputs, call);
  const out = toFloat32(result.out);
  const places = spreadRows(call.shape, maxRows);
  const got = { out: [] as number[], lse: [] as number[] };
  const expected = { out: [] as number[], lse: [] as number[] };
  const baseline: number[] = [];
  for (const place of places) {
    const [b, h, i] = place;
    const row = referenceRow(tensors, call.shape, call.options, place);
    const at = ((b * seqLenQ + i) * numHeads + h) * headDimV;
    got.out.push(...out.subarray(at, at + headDimV));
    expected.out.push(...row.out);
    got.lse.push(result.lse.data[(b * numHeads + h) * seqLenQ + i]);
    expected.lse.push(row.lse);
    if (call.dtype !== 'f32') {
      baseline.push(...samePrecisionRow(tensors, call.shape, call.options, { place, dtype: call.dtype }));
    }
  }
  const nameOf = (row: number): string => places[row].join(', ');
  expectClose(got.lse, expected.lse, TOLERANCE.f32.lse, (index) => `lse of [b, h, row] = [${nameOf(index)}]`);
  expectClose(got.out, expected.out, outBudget(call, expected.out, baseline), (index) => {
    return `out of [b, h, row] = [${nameOf(Math.floor(index / headDimV))}], d = ${index % headDimV}`;
  });
  if (result.maxLogit === undefined || places.length < call.shape.batch * numHeads * seqLenQ) return;
  const { maxLogit } = referenceForward(tensors, call.shape, call.options);
  expectClose(result.maxLogit.data, maxLogit, TOLERANCE.f32.lse, [numHeads]);
}

function outBudget({ dtype }: AttentionCall, expected: readonly number[], baseline: readonly number[]): Budget {
  return dtype === 'f32' ? TOLERANCE.f32.out : budget16(expected, baseline);
}

/** Up to `maxRows` rows of q, evenly spread, the first and the last among them. */
function spreadRows({ batch, seqLenQ, numHeads }: AttentionShape, maxRows: number): RowPlace[] {
  const numRows = batch * seqLenQ * numHeads;
  const count = Math.min(maxRows, numRows);
  return Array.from({ length: count }, (_, check) => {
    const index = count === 1 ? 0 : Math.round((check * (numRows - 1)) / (count - 1));
    return [Math.floor(index / numHeads / seqLenQ), index % numHeads, Math.floor(index / numHeads) % seqLenQ];
  });
}

/** Compares every gradient of a call with the reference: dq, dk and dv, and dbias and dsink when the call has them. */
export function expectReferenceGradients(
  { options, inputs }: CallTensors,
  dout: HostTensor,
  got: AttentionGradients,
): void {
  const call = describeCall(inputs, options);
  const tensors = { ...referenceInputs(inputs, call), dout: toFloat32(dout) };
  const expected = referenceBackward(tensors, call.shape, call.options, tensors.dout);
  const { dtype } = call;
  const baseline = dtype !== 'f32' ? samePrecisionBackward(tensors, call.shape, call.options, dtype) : null;
  const { headDimV, seqLenQ, numHeads, numKvHeads } = call.shape;
  const rows = (seqLenQ * numHeads) / numKvHeads;
  const scale = Math.abs(call.options.softmaxScale);
  // A weight that dropout keeps is 1 / (1 − p) times as large, and so is what it rounds.
  const kept = 1 / (1 - call.options.dropout);
  const floors = {
    dq: cancellationFloor({ headDimV, factor: scale * kept }),
    dk: cancellationFloor({ headDimV, factor: scale * kept, rows }),
    dv: 0,
    dbias: cancellationFloor({ headDimV, factor: kept, rows: call.shape.batch * numHeads }),
    dsink: cancellationFloor({ headDimV, factor: kept, rows: call.shape.batch * seqLenQ }),
  };
  for (const name of ['dq', 'dk', 'dv', 'dbias', 'dsink'] as const) {
    const wanted = expected[name];
    const tensor = got[name];
    if (wanted === undefined && tensor === undefined) continue;
    if (wanted === undefined || tensor === undefined) throw new Error(`${name}: got ${!!tensor}, expected ${!!wanted}`);
    const rounded = baseline && (name === 'dq' || name === 'dk' || name === 'dv') ? baseline[name] : null;
    const budget = rounded ? budget16(wanted, rounded) : gradientBudget(wanted, floors[name]);
    expectClose(toFloat32(tensor), wanted, budget, (index) => `${name}[${indexTuple(index, tensor.shape).join(', ')}]`);
  }
}

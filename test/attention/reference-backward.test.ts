// The gradients of the reference against central differences of its forward, for every option and for those that meet in a
// formula; and one row of dk and dv against the whole.
import { expect } from 'chai';
import { type AttentionCall, describeCall } from '../../src/attention/call.ts';
import { MASK_TYPES } from '../../src/attention/mask.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { referenceForward, type ReferenceInputs, referenceInputs } from '../../src/attention/reference.ts';
import {
  referenceBackward,
  type ReferenceGradients,
  referenceKeyGradients,
  referenceQueryGradients,
  rowDeltas,
} from '../../src/attention/reference-backward.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { createInputs, type InputsSpec } from '../helpers/attention-inputs.ts';
import { seededNormal } from '../helpers/seeded.ts';

const STEP = 1e-5;
/**
 * Of a central difference, by Taylor: STEP² / 6 · |third derivative|, some 10 · 1e-10 / 6; and by rounding: the loss, up to
 * 50, is off by a few 2⁻⁵³ · 50, divided by 2 · STEP: 1e-9. Twice the sum; the largest measured is 4e-10.
 */
const TOLERANCE = 2e-9;

const SHAPE: AttentionShape = {
  batch: 2,
  seqLenQ: 4,
  seqLenKv: 5,
  numHeads: 4,
  numKvHeads: 2,
  headDimQk: 3,
  headDimV: 2,
};
const PADDED = { q: [4, 2], kv: [3, 5] };
const PACKED_SHAPE: AttentionShape = { ...SHAPE, batch: 1, seqLenQ: 9, seqLenKv: 11 };
/** Three sequences, the middle one without keys, with gaps between them and at the end. */
const PACKED = { q: [3, 2, 1], kv: [4, 0, 2], paddedQ: [4, 2, 1], paddedKv: [5, 1, 3] };
const EVERY_BIAS = [
  [1, 1],
  [1, 4],
  [2, 1],
  [2, 4],
] as const;

interface GradientCase {
  options: Partial<AttentionOptions>;
  spec?: Partial<InputsSpec>;
}

const CASES: Record<string, GradientCase> = {
  ...Object.fromEntries(
    MASK_TYPES.map((maskType) => [
      maskType,
      { options: { maskType }, spec: maskType.startsWith('padding') ? { sequences: PADDED } : {} },
    ]),
  ),
  'no_mask with fewer keys than queries': { options: {}, spec: { shape: { ...SHAPE, seqLenKv: 3 } } },
  'causal_bottom_right with rows without keys': {
    options: { maskType: 'causal_bottom_right' },
    spec: { shape: { ...SHAPE, seqLenKv: 2 } },
  },
  'a window': { options: { window: [1, 1] } },
  'a window, causal': { options: { maskType: 'causal', window: [1, -1] } },
  'a window that leaves rows without keys, bottom right': {
    options: { maskType: 'causal_bottom_right', window: [1, 0] },
    spec: { shape: { ...SHAPE, seqLenKv: 2 } },
  },
  'a softmax scale': { options: { softmaxScale: -0.7 } },
  'a soft cap': { options: { softcap: 0.8 } },
  ALiBi: { options: {}, spec: { alibi: true } },
  'ALiBi, causal_bottom_right': { options: { maskType: 'causal_bottom_right' }, spec: { alibi: true } },
  ...Object.fromEntries(
    EVERY_BIAS.map((bias) => [
      `a bias [${bias.join(', ')}, Sq, Skv] with removed keys`,
      { options: {}, spec: { bias } },
    ]),
  ),
  'a sink off by one': { options: { sink: 'off_by_one' } },
  'a learnable sink': { options: { sink: 'learnable' }, spec: { sink: true } },
  'a learnable sink and rows without keys': {
    options: { sink: 'learnable', maskType: 'causal_bottom_right' },
    spec: { sink: true, shape: { ...SHAPE, seqLenKv: 2 } },
  },
  dropout: { options: { dropout: 0.4, seed: 7 } },
  'dropout and a learnable sink': { options: { dropout: 0.4, sink: 'learnable' }, spec: { sink: true } },
  MQA: { options: {}, spec: { shape: { ...SHAPE, numKvHeads: 1 } } },
  MHA: { options: {}, spec: { shape: { ...SHAPE, numKvHeads: 4 } } },
  'packed sequences with gaps': {
    options: { maskType: 'padding_causal' },
    spec: { shape: PACKED_SHAPE, packed: true, sequences: PACKED },
  },
  'everything at once, padded': {
    options: { maskType: 'padding_causal_bottom_right', window: [2, 1], softcap: 1.5, sink: 'learnable', dropout: 0.3 },
    spec: { sequences: PADDED, bias: [1, 4], alibi: true, sink: true },
  },
  'everything at once, packed': {
    options: { maskType: 'causal_bottom_right', window: [2, 0], softcap: 1.5, sink: 'learnable', dropout: 0.3 },
    spec: { shape: PACKED_SHAPE, packed: true, sequences: PACKED, alibi: true, sink: true },
  },
};

interface Prepared {
  call: AttentionCall;
  inputs: ReferenceInputs;
  dout: Float64Array;
}

/** The tensors of a case in f64, so that a step of 1e-5 is exact enough. */
function prepare({ options, spec }: GradientCase): Prepared {
  const tensors = createInputs({ shape: SHAPE, ...spec });
  const call = describeCall(tensors, options);
  const { q, k, v, bias, sink, alibiSlopes, lengths } = referenceInputs(tensors, call);
  const { batch, seqLenQ, numHeads, headDimV } = call.shape;
  const inputs: ReferenceInputs = {
    q: Float64Array.from(q),
    k: Float64Array.from(k),
    v: Float64Array.from(v),
    bias: bias ? { ...bias, data: Float64Array.from(bias.data) } : null,
    sink: sink && Float64Array.from(sink),
    alibiSlopes,
    lengths,
  };
  return { call, inputs, dout: Float64Array.from(seededNormal(batch * seqLenQ * numHeads * headDimV, 99)) };
}

/** d(Σ dout · out) / d(values[index]) for every element of a tensor that is part of `inputs`; 0 where it is −Infinity. */
function differences({ call, inputs, dout }: Prepared, values: Float64Array): Float64Array {
  const loss = (): number => {
    const { out } = referenceForward(inputs, call.shape, call.options);
    return out.reduce((sum, value, index) => sum + value * dout[index], 0);
  };
  return values.map((value, index) => {
    if (value === -Infinity) return 0;
    values[index] = value + STEP;
    const above = loss();
    values[index] = value - STEP;
    const below = loss();
    values[index] = value;
    return (above - below) / (2 * STEP);
  });
}

function expectGradient(name: string, got: Float64Array | undefined, expected: Float64Array): void {
  expect(got, name).to.have.length(expected.length);
  for (const [index, value] of expected.entries()) {
    expect(got![index], `${name}[${index}]`).to.be.closeTo(value, TOLERANCE);
  }
}

function backwardOf({ call, inputs, dout }: Prepared): ReferenceGradients {
  return referenceBackward(inputs, call.shape, call.options, dout);
}

describe('referenceBackward equals central differences of referenceForward', () => {
  for (const [title, one] of Object.entries(CASES)) {
    it(title, () => {
      const prepared = prepare(one);
      const { inputs, call } = prepared;
      const gradients = backwardOf(prepared);
      for (const name of ['q', 'k', 'v'] as const) {
        expectGradient(`d${name}`, gradients[`d${name}`], differences(prepared, inputs[name] as Float64Array));
        expect(
          gradients[`d${name}`].some((value) => Math.abs(value) > 0.01),
          `d${name} is not all 0`,
        ).to.equal(true);
      }
      if (inputs.bias)
        expectGradient('dbias', gradients.dbias, differences(prepared, inputs.bias.data as Float64Array));
      else expect(gradients.dbias).to.equal(undefined);
      if (call.options.sink === 'learnable') {
        expectGradient('dsink', gradients.dsink, differences(prepared, inputs.sink as Float64Array));
      } else expect(gradients.dsink).to.equal(undefined);
    });
  }

  it('and is exactly 0 for rows without keys, for keys that nobody keeps and for padding', () => {
    const prepared = prepare(CASES['packed sequences with gaps']);
    const { dq, dk, dv } = backwardOf(prepared);
    const { numHeads, numKvHeads, headDimQk, headDimV } = prepared.call.shape;
    // q: rows 0 to 2 attend, 3 is padding, 4 and 5 have no keys, 6 attends, 7 and 8 are in no sequence.
    for (const row of [3, 4, 5, 7, 8]) {
      const size = numHeads * headDimQk;
      expect([...dq.subarray(row * size, (row + 1) * size)]).to.deep.equal(Array.from({ length: size }, () => 0));
    }
    // k: rows 0 to 2 are kept, 3 comes after the last query, 4 and 5 are padding, 6 is kept, 7 and on are not.
    for (const row of [3, 4, 5, 7, 8, 9, 10]) {
      for (const [tensor, size] of [
        [dk, numKvHeads * headDimQk],
        [dv, numKvHeads * headDimV],
      ] as const) {
        expect([...tensor.subarray(row * size, (row + 1) * size)]).to.deep.equal(Array.from({ length: size }, () => 0));
      }
    }
  });
});

describe('gradients of one row', () => {
  for (const title of ['everything at once, padded', 'everything at once, packed', 'no_mask', 'a window, causal']) {
    it(`are those of the whole: ${title}`, () => {
      const prepared = prepare(CASES[title]);
      const { call, inputs, dout } = prepared;
      const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = call.shape;
      const whole = backwardOf(prepared);
      const { out, lse } = referenceForward(inputs, call.shape, call.options);
      const delta = rowDeltas(out, dout, call.shape);
      for (let b = 0; b < batch; b++) {
        for (let row = 0; row < seqLenKv; row++) {
          for (let h = 0; h < numKvHeads; h++) {
            const at = (b * seqLenKv + row) * numKvHeads + h;
            const place = [b, h, row] as const;
            const { dk, dv } = referenceKeyGradients({ ...inputs, dout, lse, delta }, call.shape, call.options, place);
            expectGradient('dk', dk, whole.dk.slice(at * headDimQk, (at + 1) * headDimQk));
            expectGradient('dv', dv, whole.dv.slice(at * headDimV, (at + 1) * headDimV));
          }
        }
        for (let row = 0; row < seqLenQ; row++) {
          const { dq } = referenceQueryGradients({ ...inputs, dout }, call.shape, call.options, [b, 1, row]);
          const at = ((b * seqLenQ + row) * numHeads + 1) * headDimQk;
          expect(dq).to.deep.equal(whole.dq.slice(at, at + headDimQk));
        }
      }
    });
  }
});

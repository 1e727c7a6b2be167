// The check of the bench: it passes what is right, sees a single wrong element wherever a checked row has one, and allows
// for 16-bit results just what one rounding costs.
import { expect } from 'chai';
import fc from 'fast-check';
import { describeCase, usefulFlops } from '../../bench/case.ts';
import { referenceTensors, seededTensor } from '../../bench/seeded-tensors.ts';
import type { BenchCase } from '../../bench/suite.ts';
import { verifyGradients } from '../../bench/verify-gradients.ts';
import { FORWARD_TOLERANCE, joinVerdicts, spreadRows, storedBudget, verifyRows } from '../../bench/verify.ts';
import { referenceBackward } from '../../src/attention/reference-backward.ts';
import { referenceForward } from '../../src/attention/reference.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import type { FloatDType } from '../../src/tensor/tensor.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const CASE: BenchCase = {
  ranks: 1,
  cpCommType: 'p2p',
  layout: 'zigzag',
  batch: 2,
  seqLen: 19,
  seqLenKv: 19,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 8,
  dtype: 'f32',
  maskType: 'causal',
  window: [7, -1],
  direction: 'forward',
};

function roundTo(dtype: FloatDType, values: Float64Array): Float32Array {
  return toFloat32(fromFloat32(Float32Array.from(values), [values.length], dtype));
}

/** What a perfect device gives for a case, stored in its dtype. */
function perfectResult(benchCase: BenchCase) {
  const call = describeCase(benchCase);
  const inputs = referenceTensors(call);
  const { out, lse } = referenceForward(inputs, call.shape, call.options);
  const { dq, dk, dv } = referenceBackward(inputs, call.shape, call.options, inputs.dout);
  const stored = (values: Float64Array) => roundTo(benchCase.dtype, values);
  const gradients = { dq: stored(dq), dk: stored(dk), dv: stored(dv), out, lse };
  return { call, inputs, forward: { out: stored(out), lse: Float32Array.from(lse) }, gradients };
}

for (const dtype of ['f32', 'f16', 'bf16'] as const) {
  describe(`the check of a result in ${dtype}`, () => {
    const { call, inputs, forward, gradients } = perfectResult({ ...CASE, dtype });

    it('passes a perfect result, with the error of one rounding', () => {
      const rounding = { f32: 1e-6, f16: 2 ** -9, bf16: 2 ** -6 }[dtype];
      for (const verdict of [verifyRows(call, inputs, forward), verifyGradients(call, inputs, gradients)]) {
        expect(verdict.wrong).to.equal(0);
        expect(verdict.maxAbsError).to.be.within(dtype === 'f32' ? 0 : rounding / 16, rounding);
      }
    });

    it('sees one wrong element of out, and of lse', () => {
      for (const index of [0, forward.out.length - 1]) {
        const out = forward.out.with(index, forward.out[index] + 0.25);
        expect(verifyRows(call, inputs, { ...forward, out })).to.deep.include({ wrong: 1 });
      }
      const lse = forward.lse.with(5, forward.lse[5] + 1e-4);
      expect(verifyRows(call, inputs, { ...forward, lse }).wrong).to.equal(1);
    });

    for (const name of ['dq', 'dk', 'dv'] as const) {
      it(`sees one wrong element of ${name}`, () => {
        for (const index of [0, gradients[name].length - 1]) {
          const wrong = gradients[name].with(index, gradients[name][index] + 0.25);
          expect(verifyGradients(call, inputs, { ...gradients, [name]: wrong })).to.deep.include({ wrong: 1 });
        }
      });
    }

    it('counts NaN as wrong and keeps it as the largest error', () => {
      const out = forward.out.with(3, NaN);
      expect(verifyRows(call, inputs, { ...forward, out })).to.deep.equal({ maxAbsError: NaN, wrong: 1 });
      const dv = gradients.dv.with(0, NaN);
      expect(verifyGradients(call, inputs, { ...gradients, dv })).to.deep.equal({ maxAbsError: NaN, wrong: 1 });
    });
  });
}

describe('storedBudget', () => {
  it('is half of the distance between neighbours above the f32 budget', () => {
    expect(storedBudget(1.5, 0, 'f16')).to.equal(2 ** -11);
    expect(storedBudget(-1.5, 0, 'bf16')).to.equal(2 ** -8);
    expect(storedBudget(0.75, 2 ** -20, 'f16')).to.equal(2 ** -12 + 2 ** -20);
    expect(storedBudget(0, 0, 'f16')).to.equal(2 ** -25);
    expect(storedBudget(123, 5e-6, 'f32')).to.equal(5e-6);
  });

  it('covers the rounding of any value within the f32 budget of what is expected', () => {
    const value = fc.double({ min: -30, max: 30, noNaN: true });
    const share = fc.double({ min: -1, max: 1, noNaN: true });
    fc.assert(
      fc.property(value, share, fc.constantFrom('f16', 'bf16'), (expected, part, dtype) => {
        const computed = Math.fround(expected + 0.9 * part * FORWARD_TOLERANCE.out);
        fc.pre(Math.abs(computed - expected) <= FORWARD_TOLERANCE.out);
        const [stored] = roundTo(dtype, Float64Array.of(computed));
        expect(Math.abs(stored - expected)).to.be.at.most(storedBudget(expected, FORWARD_TOLERANCE.out, dtype));
      }),
    );
  });
});

describe('spreadRows', () => {
  it('has the first row, the last, and others evenly between them', () => {
    expect(spreadRows(9, 3.9)).to.deep.equal([0, 4, 8]);
    expect(spreadRows(9, 0)).to.deep.equal([0, 8]);
    expect(spreadRows(3, 100)).to.deep.equal([0, 1, 2]);
    expect(spreadRows(1, 100)).to.deep.equal([0]);
    expect(spreadRows(0, 100)).to.deep.equal([]);
  });
});

describe('joinVerdicts', () => {
  it('adds counts and keeps the larger error, NaN above all', () => {
    expect(joinVerdicts({ maxAbsError: 1, wrong: 2 }, { maxAbsError: 3, wrong: 4 })).to.deep.equal({
      maxAbsError: 3,
      wrong: 6,
    });
    expect(joinVerdicts({ maxAbsError: NaN, wrong: 1 }, { maxAbsError: 3, wrong: 0 }).maxAbsError).to.deep.equal(NaN);
  });
});

describe('describeCase and usefulFlops', () => {
  it('count 4·B·H·S²·D, half when causal, the kept pairs of a window, 2.5 and 3.5 times that for gradients', () => {
    const flopsOf = (part: Partial<BenchCase>) => {
      const benchCase = { ...CASE, window: [-1, -1] as const, ...part };
      return usefulFlops(describeCase(benchCase), benchCase.direction);
    };
    const all = 4 * CASE.batch * CASE.numHeads * CASE.seqLen ** 2 * CASE.headDim;
    expect(flopsOf({ maskType: 'no_mask' })).to.equal(all);
    expect(flopsOf({})).to.equal(all / 2);
    expect(flopsOf({ direction: 'backward' })).to.equal((2.5 * all) / 2);
    expect(flopsOf({ direction: 'forward_backward' })).to.equal((3.5 * all) / 2);
    // Each query but the first three sees four keys.
    const pairs = 4 * CASE.seqLen - 6;
    expect(flopsOf({ window: [3, 0] })).to.equal((all / CASE.seqLen ** 2) * pairs);
  });

  it('refuse an odd head dim in 16 bits, which would be stored in 32', () => {
    expectConfigError(() => describeCase({ ...CASE, dtype: 'f16', headDim: 7 }), 'ERR_SHAPE', /even, got headDim=7/);
    expect(describeCase({ ...CASE, headDim: 7 }).storage).to.equal('f32');
  });
});

describe('seededTensor', () => {
  it('is rounded to the dtype of the case, and the reference has the same numbers', () => {
    const exact = referenceTensors(describeCase(CASE)).dout;
    const call = describeCase({ ...CASE, dtype: 'bf16' });
    expect(seededTensor(call, 'dout').dtype).to.equal('bf16');
    expect(referenceTensors(call).dout).to.deep.equal(roundTo('bf16', Float64Array.from(exact)));
  });
});

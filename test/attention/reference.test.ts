// The f64 reference against numbers derived by hand: everything else is checked against the reference.
import { expect } from 'chai';
import { describeCall } from '../../src/attention/call.ts';
import { fillOptions } from '../../src/attention/options.ts';
import { referenceForward, referenceInputs, referenceRow } from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { decodeBfloat16 } from '../../src/tensor/float16.ts';
import { createInputs } from '../helpers/attention-inputs.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const ONE: AttentionShape = {
  batch: 1,
  seqLenQ: 1,
  seqLenKv: 2,
  numHeads: 1,
  numKvHeads: 1,
  headDimQk: 1,
  headDimV: 1,
};
const PLAIN = fillOptions({ softmaxScale: 1 }, 1);
const CAUSAL = fillOptions({ maskType: 'causal', softmaxScale: 1 }, 1);

function expectNumbers(got: Float64Array, expected: readonly number[]): void {
  expect(got).to.have.length(expected.length);
  for (const [index, value] of expected.entries()) expect(got[index], `[${index}]`).to.be.closeTo(value, 1e-14);
}

describe('referenceForward', () => {
  it('weighs keys by the exponential of their score', () => {
    // Scores 0 and ln 3: weights 1/4 and 3/4.
    const { out, lse } = referenceForward({ q: [1], k: [0, Math.log(3)], v: [4, 8] }, ONE, PLAIN);
    expectNumbers(out, [7]);
    expectNumbers(lse, [Math.log(4)]);
  });

  it('multiplies the scores by softmaxScale', () => {
    const options = { ...PLAIN, softmaxScale: 0.5 };
    const { out, lse } = referenceForward({ q: [2], k: [0, Math.log(3)], v: [4, 8] }, ONE, options);
    expectNumbers(out, [7]);
    expectNumbers(lse, [Math.log(4)]);
    expectNumbers(referenceForward({ q: [2], k: [0, 9], v: [4, 8] }, ONE, { ...PLAIN, softmaxScale: 0 }).out, [6]);
  });

  it('does not overflow on scores that an exponential cannot take', () => {
    const { out, lse } = referenceForward({ q: [1000], k: [1000, 1000], v: [1, 3] }, ONE, PLAIN);
    expectNumbers(out, [2]);
    expect(lse[0]).to.be.closeTo(1e6 + Math.log(2), 1e-9);
  });

  it('keeps keys up to the query when causal, from the top left, with fewer keys than queries too', () => {
    const shape = { ...ONE, seqLenQ: 3 };
    const { out, lse } = referenceForward({ q: [0, 0, 0], k: [5, 7], v: [2, 4] }, shape, CAUSAL);
    expectNumbers(out, [2, 3, 3]);
    expectNumbers(lse, [0, Math.log(2), Math.log(2)]);
  });

  it('ignores keys after the last query when causal, with more keys than queries', () => {
    const { out, lse } = referenceForward({ q: [1], k: [0.5, 100], v: [2, 4] }, ONE, CAUSAL);
    expectNumbers(out, [2]);
    expectNumbers(lse, [0.5]);
  });

  it('gives groupSize neighbouring query heads the same KV head', () => {
    const shape = { ...ONE, seqLenKv: 1, numHeads: 4, numKvHeads: 2 };
    const { out } = referenceForward({ q: [1, 1, 1, 1], k: [0, 0], v: [10, 20] }, shape, PLAIN);
    expectNumbers(out, [10, 10, 20, 20]);
  });

  it('reads [B, S, H, D] row-major and writes out [B, S, H, D] and lse [B, H, S]', () => {
    // Every row attends to its one key, so out names the value's place and lse the product of q and k.
    const shape = { batch: 2, seqLenQ: 2, seqLenKv: 1, numHeads: 2, numKvHeads: 2, headDimQk: 2, headDimV: 3 };
    const q = Float64Array.from({ length: 16 }, (_, index) => index);
    const k = [1, 0, 0, 1, 1, 0, 0, 1];
    const v = Float64Array.from({ length: 12 }, (_, index) => 100 + index);
    const { out, lse } = referenceForward({ q, k, v }, shape, PLAIN);
    const firstBatch = [100, 101, 102, 103, 104, 105];
    const secondBatch = [106, 107, 108, 109, 110, 111];
    expectNumbers(out, [...firstBatch, ...firstBatch, ...secondBatch, ...secondBatch]);
    // Head 0 takes the first element of q's row, head 1 the second; S is the fast axis.
    expectNumbers(lse, [0, 4, 3, 7, 8, 12, 11, 15]);
  });

  it('bends scores with the soft cap, then adds ALiBi and the bias', () => {
    // Scores 2·tanh(2 / 2) + 0.5 − 3·|0 − 0| and 2·tanh(0) + 0.25 − 3·|0 − 1|.
    const options = { ...PLAIN, softcap: 2 };
    const bias = { data: [0.5, 0.25], batch: 1, heads: 1 };
    const { lse, maxLogit } = referenceForward({ q: [2], k: [1, 0], v: [0, 0], bias, alibiSlopes: [3] }, ONE, options);
    const first = 2 * Math.tanh(1) + 0.5;
    expectNumbers(lse, [Math.log(Math.exp(first) + Math.exp(-2.75))]);
    expectNumbers(maxLogit, [first]);
  });

  it('reads a bias [1 or B, 1 or H, Sq, Skv] at its batch entry, head and query', () => {
    // One key with score 0: lse [B, H, Sq] is the bias itself, repeated where it is broadcast.
    const shape = { ...ONE, batch: 2, numHeads: 2, seqLenQ: 2, seqLenKv: 1 };
    const inputs = { q: [0, 0, 0, 0, 0, 0, 0, 0], k: [1, 1], v: [1, 1] };
    const lseOf = (batch: number, heads: number, data: number[]): Float64Array =>
      referenceForward({ ...inputs, bias: { batch, heads, data } }, shape, PLAIN).lse;
    expectNumbers(lseOf(2, 2, [1, 2, 3, 4, 5, 6, 7, 8]), [1, 2, 3, 4, 5, 6, 7, 8]);
    expectNumbers(lseOf(1, 2, [1, 2, 3, 4]), [1, 2, 3, 4, 1, 2, 3, 4]);
    expectNumbers(lseOf(2, 1, [1, 2, 3, 4]), [1, 2, 1, 2, 3, 4, 3, 4]);
    expectNumbers(lseOf(1, 1, [1, 2]), [1, 2, 1, 2, 1, 2, 1, 2]);
  });

  it('removes keys whose bias is −Infinity or at most −1e30, down to none', () => {
    const biasOf = (...data: number[]) => ({ data, batch: 1, heads: 1 });
    const inputs = { q: [1], k: [5, 0], v: [2, 4] };
    for (const removed of [-Infinity, -1e30, -2e30]) {
      const { out, lse } = referenceForward({ ...inputs, bias: biasOf(removed, 0.5) }, ONE, PLAIN);
      expectNumbers(out, [4]);
      expectNumbers(lse, [0.5]);
    }
    const none = referenceForward({ ...inputs, bias: biasOf(-Infinity, -Infinity) }, ONE, PLAIN);
    expect([none.out[0], none.lse[0], none.maxLogit[0]]).to.deep.equal([0, -Infinity, -Infinity]);
    // A large bias that does not remove is a bias like any other.
    expectNumbers(referenceForward({ ...inputs, bias: biasOf(-1e29, -1e29) }, ONE, PLAIN).out, [3]);
  });

  it('adds the sink to the denominator and not to the maximum', () => {
    const inputs = { q: [1], k: [0, 0], v: [3, 6], sink: [Math.log(4)] };
    const learnable = referenceForward(inputs, ONE, { ...PLAIN, sink: 'learnable' });
    expectNumbers(learnable.out, [9 / 6]);
    expectNumbers(learnable.lse, [Math.log(6)]);
    expectNumbers(learnable.maxLogit, [0]);
    const offByOne = referenceForward({ q: [1], k: [0, 0], v: [3, 6] }, ONE, { ...PLAIN, sink: 'off_by_one' });
    expectNumbers(offByOne.out, [3]);
    expectNumbers(offByOne.lse, [Math.log(3)]);
  });

  it('gives rows without keys out 0 and lse −Infinity, or the logit of their sink', () => {
    const shape = { ...ONE, seqLenQ: 3 };
    const options = { ...PLAIN, maskType: 'causal_bottom_right' } as const;
    const inputs = { q: [1, 1, 1], k: [0, 0], v: [3, 6], sink: [0.75] };
    const plain = referenceForward(inputs, shape, options);
    expectNumbers(plain.out, [0, 3, 4.5]);
    expectNumbers(plain.lse.slice(1), [0, Math.log(2)]);
    expect(plain.lse[0]).to.equal(-Infinity);
    expectNumbers(referenceForward(inputs, shape, { ...options, sink: 'learnable' }).lse.slice(0, 1), [0.75]);
  });

  it('drops weights after the softmax and scales the rest: out is that of the kept values, lse is that of all', () => {
    const size = 400;
    const shape = { ...ONE, seqLenKv: size };
    const inputs = { q: [0], k: Array.from({ length: size }, () => 1), v: Array.from({ length: size }, () => 1) };
    const { out, lse } = referenceForward(inputs, shape, { ...PLAIN, dropout: 0.25, seed: 3 });
    expectNumbers(lse, [Math.log(size)]);
    // out · (1 − p) is the share of kept weights: five standard deviations of the mean of 400.
    expect(out[0] * 0.75).to.be.within(0.75 - 5 * Math.sqrt(0.1875 / size), 0.75 + 5 * Math.sqrt(0.1875 / size));
    const kept = out[0] * 0.75 * size;
    expect(kept, 'a whole number of weights is kept').to.be.closeTo(Math.round(kept), 1e-9);
  });

  it('counts every rule within its sequence when packed, and writes nothing for rows of none', () => {
    const shape = { ...ONE, seqLenQ: 5, seqLenKv: 4 };
    const lengths = { packed: true, startsQ: [0, 3], lensQ: [2, 2], startsKv: [0, 2], lensKv: [2, 2] };
    const inputs = { q: [0, 0, 9, 0, 0], k: [1, 1, 1, 1], v: [1, 3, 10, 20], lengths };
    const { out, lse } = referenceForward(inputs, shape, { ...CAUSAL, sink: 'off_by_one' });
    expectNumbers(out, [1 / 2, 4 / 3, 0, 5, 10]);
    expect(lse[2], 'padding has no sink').to.equal(-Infinity);
    expectNumbers(lse.slice(3), [Math.log(2), Math.log(3)]);
  });

  it('takes each entry of a padded batch up to its length', () => {
    const shape = { ...ONE, batch: 2, seqLenQ: 2 };
    const lengths = { packed: false, startsQ: [0, 0], lensQ: [2, 1], startsKv: [0, 0], lensKv: [1, 2] };
    const inputs = { q: [0, 0, 0, 0], k: [0, 0, 0, 0], v: [2, 4, 6, 10], lengths };
    expectNumbers(referenceForward(inputs, shape, { ...PLAIN, maskType: 'padding' }).out, [2, 2, 8, 0]);
  });

  it('refuses shapes and options that do not hold', () => {
    const inputs = { q: [1], k: [1, 1], v: [1, 1] };
    expectConfigError(() => referenceForward(inputs, { ...ONE, batch: NaN }, PLAIN), 'ERR_SHAPE', /batch=NaN/);
    expectConfigError(() => referenceForward(inputs, ONE, { ...PLAIN, softmaxScale: NaN }), 'ERR_OPTION', /NaN/);
  });
});

describe('referenceRow', () => {
  it('is one row of referenceForward', () => {
    const shape = { batch: 2, seqLenQ: 3, seqLenKv: 4, numHeads: 4, numKvHeads: 2, headDimQk: 2, headDimV: 3 };
    const numbers = (length: number, step: number) =>
      Float64Array.from({ length }, (_, index) => Math.sin(index * step));
    const inputs = { q: numbers(48, 1.1), k: numbers(32, 0.7), v: numbers(48, 0.3) };
    const whole = referenceForward(inputs, shape, CAUSAL);
    const [b, h, i] = [1, 3, 2];
    const row = referenceRow(inputs, shape, CAUSAL, [b, h, i]);
    const start = ((b * 3 + i) * 4 + h) * 3;
    expect(row.out).to.deep.equal(whole.out.slice(start, start + 3));
    expect(row.lse).to.equal(whole.lse[(b * 4 + h) * 3 + i]);
  });
});

describe('referenceInputs', () => {
  it('decodes 16-bit tensors and passes on what a call has beside q, k and v', () => {
    const shape = { batch: 1, seqLenQ: 3, seqLenKv: 4, numHeads: 2, numKvHeads: 1, headDimQk: 2, headDimV: 2 };
    const sequences = { q: [3], kv: [2] };
    const inputs = createInputs({ shape, dtype: 'bf16', bias: [1, 2], sink: true, alibi: true, sequences });
    const call = describeCall(inputs, { maskType: 'padding', sink: 'learnable' });
    const { q, bias, sink, alibiSlopes, lengths } = referenceInputs(inputs, call);
    expect(q).to.deep.equal(decodeBfloat16(inputs.q.data));
    expect(bias).to.deep.equal({ data: inputs.bias!.data, batch: 1, heads: 2 });
    expect([sink, alibiSlopes]).to.deep.equal([inputs.sink!.data, inputs.alibiSlopes!.data]);
    expect(lengths).to.deep.equal({ packed: false, startsQ: [0], lensQ: [3], startsKv: [0], lensKv: [2] });
  });
});

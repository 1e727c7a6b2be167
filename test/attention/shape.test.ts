// Shapes and options: what fits together is accepted, everything else is refused with the sizes that do not fit.
import { expect } from 'chai';
import {
  type AttentionShape,
  forwardFlops,
  inferShape,
  MAX_HEAD_DIM,
  validateOptions,
  validateShape,
} from '../../src/attention/shape.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const SHAPE: AttentionShape = {
  batch: 2,
  seqLenQ: 4,
  seqLenKv: 6,
  numHeads: 9,
  numKvHeads: 3,
  headDimQk: 8,
  headDimV: 10,
};

function inputs(changes: { q?: number[]; k?: number[]; v?: number[] } = {}) {
  const { q = [2, 4, 9, 8], k = [2, 6, 3, 8], v = [2, 6, 3, 10] } = changes;
  return [f32Tensor(q), f32Tensor(k), f32Tensor(v)] as const;
}

describe('inferShape', () => {
  it('reads every size from q, k and v', () => {
    expect(inferShape(...inputs())).to.deep.equal(SHAPE);
  });

  const refusals: [string, Parameters<typeof inputs>[0], RegExp][] = [
    ['another batch size', { k: [1, 6, 3, 8] }, /same batch size, got q=\[2, 4, 9, 8\], k=\[1, 6, 3, 8\]/],
    ['another KV length', { v: [2, 5, 3, 10] }, /same length and heads/],
    ['other KV heads', { v: [2, 6, 1, 10] }, /same length and heads/],
    ['another head dim of k', { k: [2, 6, 3, 4] }, /same head dim/],
    ['heads that do not divide', { q: [2, 4, 8, 8] }, /multiple of numKvHeads, got numHeads=8, numKvHeads=3/],
    ['a packed tensor', { q: [4, 9, 8] }, /q must be \[batch, seqLen, heads, headDim\]/],
    ['a head dim above the limit', { v: [2, 6, 3, MAX_HEAD_DIM + 1] }, /headDimV=257/],
  ];
  for (const [title, change, pattern] of refusals) {
    it(`refuses ${title}`, () => {
      expectConfigError(() => inferShape(...inputs(change)), 'ERR_SHAPE', pattern);
    });
  }

  it('refuses sizes that are NaN, zero, negative or fractions', () => {
    const [q, k, v] = inputs();
    for (const size of [NaN, 0, -1, 1.5, Infinity]) {
      expectConfigError(() => inferShape({ ...q, shape: [2, size, 9, 8] }, k, v), 'ERR_SHAPE', /q: every size/);
    }
  });

  it('refuses data of another length than the shape says', () => {
    const [q, k, v] = inputs();
    expectConfigError(() => inferShape(q, { ...k, data: new Float32Array(3) }, v), 'ERR_SHAPE', /k: .*data.length=3/);
  });

  it('refuses a tensor that is none, and data of another type than the dtype says', () => {
    const [q, k, v] = inputs();
    expectConfigError(() => inferShape(undefined as unknown as HostTensor, k, v), 'ERR_SHAPE', /q: a tensor is/);
    expectConfigError(() => inferShape({ ...q, data: new Int32Array(576) }, k, v), 'ERR_DTYPE', /Float32Array/);
    expectConfigError(() => inferShape({ ...q, dtype: 'f64' as 'f32' }, k, v), 'ERR_DTYPE', /dtype=f64/);
  });

  it('refuses dtypes that this version does not compute', () => {
    const [q, k, v] = inputs();
    const half: HostTensor = { data: new Uint16Array(576), shape: q.shape, dtype: 'f16' };
    expectConfigError(() => inferShape(half, k, v), 'ERR_UNSUPPORTED', /q\.dtype=f16/);
  });
});

describe('validateShape', () => {
  it('accepts head dims up to the limit', () => {
    validateShape({ ...SHAPE, headDimQk: MAX_HEAD_DIM, headDimV: MAX_HEAD_DIM });
  });

  it('names the size that is no positive integer', () => {
    for (const name of Object.keys(SHAPE) as (keyof AttentionShape)[]) {
      for (const value of [NaN, 0, -3, 2.5]) {
        expectConfigError(
          () => validateShape({ ...SHAPE, [name]: value }),
          'ERR_SHAPE',
          new RegExp(`${name}=${value}`),
        );
      }
    }
  });
});

describe('validateOptions', () => {
  it('refuses a mask type that is unknown and a scale that is not finite', () => {
    const maskType = 'diagonal' as 'causal';
    expectConfigError(() => validateOptions({ maskType, softmaxScale: 1 }), 'ERR_OPTION', /maskType=diagonal/);
    for (const softmaxScale of [NaN, Infinity]) {
      expectConfigError(() => validateOptions({ maskType: 'causal', softmaxScale }), 'ERR_OPTION', /softmaxScale=/);
    }
  });

  it('accepts a scale of zero and a negative one', () => {
    validateOptions({ maskType: 'no_mask', softmaxScale: 0 });
    validateOptions({ maskType: 'causal', softmaxScale: -2 });
  });
});

describe('forwardFlops', () => {
  it('is 4·B·H·Sq·Skv·D, half of it when causal', () => {
    const shape = { ...SHAPE, headDimV: 8 };
    expect(forwardFlops(shape, 'no_mask')).to.equal(4 * 2 * 9 * 4 * 6 * 8);
    expect(forwardFlops(shape, 'causal')).to.equal(2 * 2 * 9 * 4 * 6 * 8);
  });
});

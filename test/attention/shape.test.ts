// Shapes: what fits together is accepted, everything else is refused with the sizes that do not fit.
import { expect } from 'chai';
import { type AttentionShape, inferShape, MAX_HEAD_DIM, validateShape } from '../../src/attention/shape.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor, type FloatDType, type HostTensor } from '../../src/tensor/tensor.ts';
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
    [
      'one packed tensor among others',
      { q: [4, 9, 8] },
      /q, k and v must be \[batch, seqLen, heads, headDim\], or all packed/,
    ],
    ['tensors of another rank', { q: [9, 8], k: [3, 8], v: [3, 10] }, /q, k and v must be/],
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

  it('takes three 16-bit tensors of one dtype, and refuses two dtypes, or integers', () => {
    const of = (dtype: FloatDType) => inputs().map(({ data, shape }) => fromFloat32(data, shape, dtype));
    for (const dtype of ['f16', 'bf16'] as const) {
      const [q, k, v] = of(dtype);
      expect(inferShape(q, k, v)).to.deep.equal(SHAPE);
      expectConfigError(() => inferShape(q, k, inputs()[2]), 'ERR_DTYPE', /v\.dtype=f32, q\.dtype=/);
    }
    const [q, k, v] = inputs().map(({ data, shape }): HostTensor => ({
      data: Int32Array.from(data),
      shape,
      dtype: 'i32',
    }));
    expectConfigError(() => inferShape(q, k, v), 'ERR_DTYPE', /q\.dtype=i32/);
  });

  it('reads packed tensors as one batch entry', () => {
    const packed = { q: [4, 9, 8], k: [6, 3, 8], v: [6, 3, 10] };
    expect(inferShape(...inputs(packed))).to.deep.equal({ ...SHAPE, batch: 1 });
  });
});

describe('validateShape', () => {
  it('refuses sequences that kernels cannot count in 32 bits', () => {
    validateShape({ ...SHAPE, seqLenQ: 2 ** 30 - 1, seqLenKv: 2 ** 30 - 1 });
    for (const name of ['seqLenQ', 'seqLenKv'] as const) {
      expectConfigError(
        () => validateShape({ ...SHAPE, [name]: 2 ** 30 }),
        'ERR_SHAPE',
        new RegExp(`${name}=1073741824`),
      );
    }
  });

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

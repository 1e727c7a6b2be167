// Host tensors: sizes, bytes, and the validation that stands before every call.
import { expect } from 'chai';
import { f32Tensor, type HostTensor, numElements, tensorBytes, validateTensor } from '../../src/tensor/tensor.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

describe('tensors', () => {
  it('have as many elements as the product of their sizes', () => {
    expect(numElements([])).to.equal(1);
    expect(numElements([2, 3, 4])).to.equal(24);
    expect(numElements([2, 0])).to.equal(0);
  });

  it('show their bytes without a copy, also as a view into a larger buffer', () => {
    const whole = Float32Array.of(1, 2, 3);
    const bytes = tensorBytes({ data: whole.subarray(1), shape: [2], dtype: 'f32' });
    expect(bytes.buffer).to.equal(whole.buffer);
    expect([bytes.byteOffset, bytes.byteLength]).to.deep.equal([4, 8]);
  });
});

describe('validateTensor', () => {
  it('accepts every dtype with its array type', () => {
    validateTensor('a', f32Tensor([2, 3]));
    validateTensor('a', { data: new Uint16Array(2), shape: [2], dtype: 'f16' });
    validateTensor('a', { data: new Uint16Array(2), shape: [2], dtype: 'bf16' });
    validateTensor('a', { data: new Int32Array(2), shape: [2], dtype: 'i32' });
  });

  it('refuses what is no tensor', () => {
    for (const value of [undefined, null, 3, 'q']) {
      expectConfigError(() => validateTensor('bias', value), 'ERR_SHAPE', /bias: a tensor is/);
    }
  });

  it('refuses sizes that are no positive integers, and names them', () => {
    for (const size of [NaN, 0, -1, 0.5, Infinity, '2']) {
      const tensor = { data: new Float32Array(1), shape: [size], dtype: 'f32' };
      expectConfigError(() => validateTensor('k', tensor), 'ERR_SHAPE', new RegExp(`k: .*shape=\\[${size}\\]`));
    }
    expectConfigError(() => validateTensor('k', { data: new Float32Array(1), dtype: 'f32' }), 'ERR_SHAPE', /undefined/);
  });

  it('refuses a dtype that is unknown, or of another array type', () => {
    const tensor = f32Tensor([1]);
    expectConfigError(() => validateTensor('v', { ...tensor, dtype: 'f64' }), 'ERR_DTYPE', /dtype=f64/);
    const pairs: [HostTensor['dtype'], RegExp][] = [
      ['f16', /Uint16Array/],
      ['bf16', /Uint16Array/],
      ['i32', /Int32Array/],
    ];
    for (const [dtype, arrayType] of pairs) {
      expectConfigError(() => validateTensor('v', { ...tensor, dtype }), 'ERR_DTYPE', arrayType);
    }
  });

  it('refuses data of another length than the shape says', () => {
    expectConfigError(
      () => validateTensor('v', { ...f32Tensor([2, 2]), shape: [2, 3] }),
      'ERR_SHAPE',
      /\[2, 3\] has 6 elements, got data.length=4/,
    );
  });
});

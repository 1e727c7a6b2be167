// The safetensors codec: what is written is read back bit for bit, and every way in which a file can lie is refused with
// the tensor and the numbers that are wrong.
import { expect } from 'chai';
import fc from 'fast-check';
import { decodeSafetensors, encodeSafetensors } from '../../src/tensor/safetensors.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

/** A file with any header, and a buffer of the given length. */
function fileOf(header: unknown, bufferLength = 0): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + bufferLength);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

function entry(shape: unknown, data_offsets: unknown, dtype = 'F32') {
  return { dtype, shape, data_offsets };
}

function expectRefused(bytes: Uint8Array, pattern: RegExp, code: 'ERR_FILE' | 'ERR_DTYPE' = 'ERR_FILE'): void {
  expectConfigError(() => decodeSafetensors(bytes), code, pattern);
}

describe('safetensors: what is written', () => {
  it('is the published format, byte for byte', () => {
    const header = '{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}';
    const expected = Buffer.concat([
      Buffer.from([header.length, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from(header),
      Buffer.from([0, 0, 128, 63, 0, 0, 0, 192]),
    ]);
    const bytes = encodeSafetensors({ a: f32Tensor([1, 2], Float32Array.of(1, -2)) });
    expect(Buffer.from(bytes).equals(expected), Buffer.from(bytes).toString('latin1')).to.equal(true);
  });

  it('is read back the same: every dtype, scalars, empty tensors, metadata, infinities and NaN', () => {
    const tensors: Record<string, HostTensor> = {
      q: f32Tensor([2, 2], Float32Array.of(0, -Infinity, NaN, 1e-45)),
      half: { data: Uint16Array.of(1, 2, 3), shape: [3], dtype: 'f16' },
      brain: { data: Uint16Array.of(0x7f80), shape: [1, 1], dtype: 'bf16' },
      lengths: { data: Int32Array.of(-1, 2 ** 31 - 1), shape: [2], dtype: 'i32' },
      scalar: f32Tensor([], Float32Array.of(5)),
      empty: f32Tensor([3, 0, 2]),
      '"\\ü{}': f32Tensor([1]),
    };
    const { tensors: decoded, metadata } = decodeSafetensors(
      encodeSafetensors(tensors, { format: 'pt', note: 'a "b"' }),
    );
    expect(Object.fromEntries(decoded)).to.deep.equal(tensors);
    expect(metadata).to.deep.equal({ format: 'pt', note: 'a "b"' });
  });

  it('is read back the same for random tensors in any order, also where a tensor is not aligned in its file', () => {
    const tensor = fc.oneof(
      fc.float32Array({ maxLength: 9 }).map((data): HostTensor => ({ data, shape: [data.length], dtype: 'f32' })),
      fc.uint16Array({ maxLength: 9 }).map((data): HostTensor => ({ data, shape: [data.length, 1], dtype: 'f16' })),
    );
    const names = fc.string().filter((name) => name !== '__metadata__' && name !== '__proto__');
    fc.assert(
      fc.property(fc.dictionary(names, tensor), fc.nat(3), (tensors, shift) => {
        const bytes = encodeSafetensors(tensors);
        const shifted = new Uint8Array(bytes.length + shift);
        shifted.set(bytes, shift);
        expect(new Map(decodeSafetensors(shifted.subarray(shift)).tensors)).to.deep.equal(
          new Map(Object.entries(tensors)),
        );
      }),
    );
  });

  it('shares the memory of the file where the alignment allows it', () => {
    const bytes = encodeSafetensors({ a: f32Tensor([4]) });
    expect(decodeSafetensors(bytes).tensors.get('a')?.data.buffer).to.equal(bytes.buffer);
  });

  it('is refused when data and shape differ, or a tensor has the name of the metadata', () => {
    const short = { data: new Float32Array(3), shape: [2, 2], dtype: 'f32' } as const;
    expectConfigError(() => encodeSafetensors({ short }), 'ERR_SHAPE', /'short' must have 16 bytes.*byteLength=12/);
    expectConfigError(() => encodeSafetensors({ __metadata__: f32Tensor([1]) }), 'ERR_FILE', /__metadata__/);
  });
});

describe('safetensors: what is read', () => {
  it('may list its tensors in another order than their data', () => {
    const bytes = fileOf({ b: entry([1], [4, 8]), a: entry([1], [0, 4]) }, 8);
    expect([...decodeSafetensors(bytes).tensors.keys()]).to.deep.equal(['b', 'a']);
  });

  it('may pad its header with spaces and hold no tensor', () => {
    expect(decodeSafetensors(fileOf('{}      ')).tensors.size).to.equal(0);
  });

  it('is refused when it is cut short anywhere', () => {
    const whole = encodeSafetensors({ q: f32Tensor([2, 3]), k: f32Tensor([1]) }, { note: 'x' });
    for (let length = 0; length < whole.length; length++) {
      expectRefused(whole.subarray(0, length), /got /);
    }
    expect(decodeSafetensors(whole).tensors.size).to.equal(2);
  });

  it('is refused when the header is longer than the file, by one byte or by 2^64', () => {
    const bytes = fileOf({}, 0);
    bytes[0]++;
    expectRefused(bytes, /headerLength=3.*after the length=2/);
    bytes.fill(0xff, 0, 8);
    expectRefused(bytes, /headerLength=18446744073709551615/);
  });

  it('is refused when the header is no UTF-8, no JSON, or no object at its first byte', () => {
    const bytes = fileOf('{"a":1}');
    bytes[10] = 0xff;
    expectRefused(bytes, /JSON in UTF-8/);
    expectRefused(fileOf('{"a":'), /JSON in UTF-8/);
    for (const header of ['[]', 'null', '1', ' {}']) expectRefused(fileOf(header), /JSON object/);
  });

  it('is refused when a name stands in the header twice, escaped or not', () => {
    const text = JSON.stringify(entry([0], [0, 0]));
    expectRefused(fileOf(`{"a":${text},"a":${text}}`), /'a' twice/);
    expectRefused(fileOf(`{"a":${text},"\\u0061":${text}}`), /'a' twice/);
    expectRefused(fileOf('{"a":{"dtype":"F32","shape":[0],"shape":[1],"data_offsets":[0,0]}}'), /'shape' twice/);
  });

  it('is refused with ERR_DTYPE for a dtype that kvring has no use for', () => {
    for (const dtype of ['F64', 'I64', 'BOOL', 'f32', 'F8_E4M3']) {
      expectRefused(fileOf({ a: entry([1], [0, 8], dtype) }, 8), new RegExp(`'a'.*dtype=${dtype}`), 'ERR_DTYPE');
    }
  });

  it('is refused when a size is not a whole number', () => {
    for (const shape of [[-1], [1.5], ['1'], [null], [2 ** 53], 'x', {}, null, [NaN], [[1]]]) {
      expectRefused(fileOf({ a: entry(shape, [0, 4]) }, 4), /'a': every size/);
    }
  });

  it('is refused when the offsets are not [begin, end]', () => {
    for (const offsets of [[4], [0, 4, 8], [4, 0], [-4, 0], [0.5, 4.5], ['0', '4'], null, 4]) {
      expectRefused(fileOf({ a: entry([1], offsets) }, 4), /'a': data_offsets must be/);
    }
  });

  it('is refused when the offsets do not hold the shape', () => {
    expectRefused(fileOf({ a: entry([2, 2], [0, 12]) }, 12), /'a'.*\[2, 2\] of F32 takes 16 bytes, got .*\[0, 12\]/);
    expectRefused(fileOf({ a: entry([2 ** 40, 2 ** 40], [0, 8]) }, 8), /takes 4\.8/);
  });

  it('is refused when a tensor lies outside the buffer', () => {
    expectRefused(fileOf({ a: entry([2], [0, 8]) }, 4), /'a' must lie within the buffer.*buffer length=4/);
  });

  it('is refused when tensors overlap', () => {
    const header = { a: entry([2], [0, 8]), b: entry([2], [4, 12]) };
    expectRefused(fileOf(header, 12), /'b' overlaps.*\[4, 12\], expected begin=8/);
    expectRefused(fileOf({ a: entry([1], [0, 4]), b: entry([1], [0, 4]) }, 4), /'b' overlaps/);
  });

  it('is refused when bytes belong to no tensor: before, between or after', () => {
    expectRefused(fileOf({ a: entry([1], [4, 8]) }, 8), /'a' leaves a hole.*expected begin=0/);
    expectRefused(fileOf({ a: entry([1], [0, 4]), b: entry([1], [8, 12]) }, 12), /'b' leaves a hole.*expected begin=4/);
    expectRefused(fileOf({ a: entry([1], [0, 4]) }, 5), /covered bytes=4, buffer length=5/);
  });

  it('is refused when an entry is no object or has a field that could change its meaning', () => {
    expectRefused(fileOf({ a: 1 }), /'a' must be/);
    expectRefused(fileOf({ a: { ...entry([1], [0, 4]), strides: [1] } }, 4), /'strides'/);
  });

  it('is refused when its metadata is not a map of texts', () => {
    for (const metadata of [1, null, [], { a: 1 }]) expectRefused(fileOf({ __metadata__: metadata }), /__metadata__/);
  });
});

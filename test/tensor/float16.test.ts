// The 16-bit codecs: every bit pattern, every halfway case between neighbours, and random numbers against a slow formula
// that searches for the nearest representable number.
import { expect } from 'chai';
import {
  decodeBfloat16,
  decodeFloat16,
  encodeBfloat16,
  encodeFloat16,
  fromFloat32,
  toFloat32,
} from '../../src/tensor/float16.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';
import { seededRandom } from '../helpers/seeded.ts';

/** A binary format by its definition: 1 sign bit, then exponent, then mantissa. */
interface Format {
  name: string;
  exponentBits: number;
  mantissaBits: number;
  encode: (values: ArrayLike<number>) => Uint16Array;
  decode: (bits: ArrayLike<number>) => Float32Array;
}

const FORMATS: readonly Format[] = [
  { name: 'f16', exponentBits: 5, mantissaBits: 10, encode: encodeFloat16, decode: decodeFloat16 },
  { name: 'bf16', exponentBits: 8, mantissaBits: 7, encode: encodeBfloat16, decode: decodeBfloat16 },
];
const ALL = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);

/** IEEE 754, §3.4: the value of a pattern. */
function valueOf(bits: number, { exponentBits, mantissaBits }: Format): number {
  const sign = bits >= 0x8000 ? -1 : 1;
  const exponent = (bits >> mantissaBits) % 2 ** exponentBits;
  const mantissa = bits % 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return mantissa === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - bias);
}

/** IEEE 754, §4.3.1: the nearest pattern by search, ties to the even one, from half an ulp above the largest: Infinity. */
function nearest(value: number, format: Format): number {
  const sign = Object.is(Math.sign(value), -0) || value < 0 ? 0x8000 : 0;
  const infinity = (2 ** format.exponentBits - 1) << format.mantissaBits;
  let [low, high] = [0, infinity - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (valueOf(middle, format) <= Math.abs(value)) low = middle;
    else high = middle - 1;
  }
  const below = valueOf(low, format);
  const above = low === infinity - 1 ? 2 * below - valueOf(low - 1, format) : valueOf(low + 1, format);
  const excess = Math.abs(value) - below - (above - Math.abs(value));
  return sign | (excess > 0 || (excess === 0 && low % 2 === 1) ? low + 1 : low);
}

/** The f32 number next to `value`, away from 0 (+1) or towards it (−1). */
function nextF32(value: number, direction: 1 | -1): number {
  const scratch = Float32Array.of(value);
  new Uint32Array(scratch.buffer)[0] += direction;
  return scratch[0];
}

for (const format of FORMATS) {
  const { name, encode, decode } = format;
  const infinity = (2 ** format.exponentBits - 1) << format.mantissaBits;

  describe(`${name} codec`, () => {
    it('decodes every pattern to its value', () => {
      const decoded = decode(ALL);
      for (const bits of ALL)
        expect(Object.is(decoded[bits], valueOf(bits, format)), `0x${bits.toString(16)}`).to.equal(true);
    });

    it('encodes what it decoded to the same pattern, NaN to a NaN of the same sign', () => {
      const encoded = encode(decode(ALL));
      for (const bits of ALL) {
        if (!Number.isNaN(valueOf(bits, format))) expect(encoded[bits]).to.equal(bits);
        else expect([valueOf(encoded[bits], format), encoded[bits] >> 15]).to.deep.equal([NaN, bits >> 15]);
      }
    });

    it('rounds halfway cases between all neighbours to the even one, and what lies just beside them to the nearer', () => {
      for (let bits = 0; bits < infinity - 1; bits++) {
        const halfway = (valueOf(bits, format) + valueOf(bits + 1, format)) / 2;
        const values = [halfway, nextF32(halfway, 1), nextF32(halfway, -1), -halfway];
        const even = bits + (bits % 2);
        expect([...encode(values)], `between 0x${bits.toString(16)} and the next`).to.deep.equal([
          even,
          bits + 1,
          bits,
          0x8000 | even,
        ]);
      }
    });

    it('overflows to Infinity from half an ulp above the largest number', () => {
      const [largest, before] = [valueOf(infinity - 1, format), valueOf(infinity - 2, format)];
      const limit = largest + (largest - before) / 2;
      expect([...encode([limit, nextF32(limit, -1), -limit, Infinity, -Infinity])]).to.deep.equal([
        infinity,
        infinity - 1,
        0x8000 | infinity,
        infinity,
        0x8000 | infinity,
      ]);
    });

    it('agrees with a search for the nearest number on random f32 patterns', () => {
      const random = seededRandom(7);
      const values = new Float32Array(Uint32Array.from({ length: 100_000 }, () => random() * 2 ** 32).buffer);
      const finite = values.filter((value) => !Number.isNaN(value));
      const encoded = encode(finite);
      for (const [index, value] of finite.entries()) {
        expect(encoded[index], String(value)).to.equal(
          Math.abs(value) === Infinity ? infinity : nearest(value, format),
        );
      }
    });

    it('reads a part of a larger array', () => {
      const whole = Float32Array.of(1, 2, 3, 4);
      expect([...decode(encode(whole.subarray(1, 3)))]).to.deep.equal([2, 3]);
    });
  });
}

describe('toFloat32 and fromFloat32', () => {
  it('are inverse for numbers that the dtype holds, and f32 data is not copied', () => {
    const data = Float32Array.of(1, -0.5, 96, 0.09375);
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const tensor = fromFloat32(data, [2, 2], dtype);
      expect([tensor.dtype, tensor.shape]).to.deep.equal([dtype, [2, 2]]);
      expect(toFloat32(tensor)).to.deep.equal(data);
    }
    expect(toFloat32(fromFloat32(data, [4], 'f32'))).to.equal(data);
  });

  it('round to the dtype', () => {
    const data = Float32Array.of(1 + 2 ** -9);
    expect([...toFloat32(fromFloat32(data, [1], 'f16'))]).to.deep.equal([1 + 2 ** -9]);
    expect([...toFloat32(fromFloat32(data, [1], 'bf16'))]).to.deep.equal([1]);
  });

  it('refuse integers', () => {
    const lengths = { data: Int32Array.of(0, 4), shape: [2], dtype: 'i32' } as const;
    expectConfigError(() => toFloat32(lengths), 'ERR_DTYPE', /dtype=i32/);
    expectConfigError(() => fromFloat32(new Float32Array(2), [2], 'i32' as 'f32'), 'ERR_DTYPE', /dtype=i32/);
  });
});

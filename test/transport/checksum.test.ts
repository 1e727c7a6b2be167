// CRC-32: published vectors, agreement with zlib where Node has it, and the seed.
import { expect } from 'chai';
import fc from 'fast-check';
import { findCrc32 } from '../../src/node/node-transport.ts';
import { crc32, hashText } from '../../src/transport/checksum.ts';

describe('crc32', () => {
  const vectors: [string, number][] = [
    ['', 0],
    ['a', 0xe8b7be43],
    ['abc', 0x352441c2],
    ['123456789', 0xcbf43926],
    ['The quick brown fox jumps over the lazy dog', 0x414fa339],
  ];
  for (const [text, expected] of vectors) {
    it(`of "${text}" is ${expected.toString(16)}`, () => {
      expect(crc32(new TextEncoder().encode(text))).to.equal(expected);
      expect(hashText(text)).to.equal(expected);
    });
  }

  it('equals the one that Node injects, for bytes of any length and alignment', () => {
    const native = findCrc32();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(7), (bytes, skip) => {
        expect(crc32(bytes.subarray(skip))).to.equal(native(bytes.subarray(skip)));
      }),
    );
  });

  it('continues from a seed as if the bytes were one', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), (bytes, cut) => {
        expect(crc32(bytes.subarray(cut), crc32(bytes.subarray(0, cut)))).to.equal(crc32(bytes));
      }),
    );
  });
});

// The frame codec: the layout in literal bytes, messages cut anywhere, every field's limit, and no mutation of a header
// that passes.
import { expect } from 'chai';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { crc32 } from '../../src/transport/checksum.ts';
import { HEADER_BYTES, MAX_GOODBYE_BYTES, decodeFrame, encodeHeader } from '../../src/transport/frame.ts';
import type { FrameHeader, FrameType } from '../../src/transport/frame.ts';

const CHUNK_HEADER: FrameHeader = {
  type: 'chunk',
  checksum: true,
  epoch: 2,
  runHash: 0x11223344,
  srcRank: 1,
  dstRank: 0x0203,
  worldSize: 4,
  block: { opSeq: 0x0a0b0c0d, step: 0x0506, tensor: 7, byteLength: 0x1_0000_0010, shapeHash: 0xdeadbeef },
  byteOffset: 0x1_0000_000b,
};
const PAYLOAD = new TextEncoder().encode('12345');
const LIMITS = { maxPayloadBytes: 1024 };

/** The frame of CHUNK_HEADER and PAYLOAD, field by field as the protocol comment has them. */
const CHUNK_HEX = [
  '4b565247', // magic
  '01030100', // version, type, flags
  '02000000', // epoch
  '44332211', // runHash
  '01000302', // srcRank, dstRank
  '04000605', // worldSize, step
  '0d0c0b0a', // opSeq
  'efbeadde', // shapeHash
  '1000000001000000', // blockBytes
  '0b00000001000000', // byteOffset
  '05000000', // payloadBytes
  '07000000', // tensor, reserved
  '1c3af5cb', // payloadCrc
];

function frameOf(header: FrameHeader, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  return Buffer.concat([encodeHeader(header, payload), payload]);
}

/** A frame whose header was changed by `edit` and whose checksum was made right again, as a hostile peer would. */
function forge(header: FrameHeader, payload: Uint8Array, edit: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(frameOf(header, payload));
  const view = new DataView(bytes.buffer);
  edit(view);
  view.setUint32(60, crc32(bytes.subarray(0, 60)), true);
  return bytes;
}

function expectRefusal(bytes: Uint8Array, code: ErrorCode, limits = LIMITS): void {
  expect(() => decodeFrame([bytes], limits))
    .to.throw(ProtocolError)
    .with.property('code', code);
}

/** Like expectRefusal, for very many frames. */
function codeOf(bytes: Uint8Array): ErrorCode | undefined {
  try {
    decodeFrame([bytes], LIMITS);
    return undefined;
  } catch (error) {
    return (error as ProtocolError).code;
  }
}

describe('frame codec', () => {
  it('lays a chunk out as the protocol comment says', () => {
    const payloadCrc = crc32(PAYLOAD).toString(16).match(/../g)!.toReversed().join('');
    expect(CHUNK_HEX.at(-1), 'CRC-32 of "12345" in this file').to.equal(payloadCrc);
    const body = Buffer.from(CHUNK_HEX.join(''), 'hex');
    const headerCrc = Buffer.alloc(4);
    headerCrc.writeUInt32LE(crc32(body));
    expect(Buffer.from(encodeHeader(CHUNK_HEADER, PAYLOAD)).toString('hex')).to.equal(
      CHUNK_HEX.join('') + headerCrc.toString('hex'),
    );
  });

  it('decodes the literal bytes of a HELLO', () => {
    const hex = `4b56524701010000090000002a000000030002000400000000000000000000000000200000000000${'00'.repeat(20)}`;
    const body = Buffer.from(hex, 'hex');
    expect(body.length).to.equal(60);
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(crc32(body));
    const { header, payload } = decodeFrame([body, crc], LIMITS);
    expect(header).to.deep.equal({
      type: 'hello',
      checksum: false,
      epoch: 9,
      runHash: 42,
      srcRank: 3,
      dstRank: 2,
      worldSize: 4,
      block: { opSeq: 0, step: 0, tensor: 0, byteLength: 2 * 1024 * 1024, shapeHash: 0 },
      byteOffset: 0,
    });
    expect(payload).to.have.length(0);
  });

  it('decodes a message cut at every byte, in two and in three pieces', () => {
    const bytes = frameOf(CHUNK_HEADER, PAYLOAD);
    for (let first = 0; first <= bytes.length; first++) {
      for (const second of [first, first + 1, Math.max(first, HEADER_BYTES + 2), bytes.length]) {
        const pieces = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
        const { header, payload } = decodeFrame(pieces, LIMITS);
        expect(header).to.deep.equal(CHUNK_HEADER);
        expect([...payload]).to.deep.equal([...PAYLOAD]);
      }
    }
  });

  it('copies no payload that lies in one piece', () => {
    const payload = PAYLOAD.slice();
    const header = encodeHeader(CHUNK_HEADER, payload);
    expect(decodeFrame([header, payload], LIMITS).payload.buffer).to.equal(payload.buffer);
    expect(decodeFrame([header.subarray(0, 9), header.subarray(9), payload], LIMITS).payload.buffer).to.equal(
      payload.buffer,
    );
    const whole = new Uint8Array(frameOf(CHUNK_HEADER, payload));
    expect(decodeFrame([whole], LIMITS).payload.buffer).to.equal(whole.buffer);
  });

  it('gives back every header that it encodes', () => {
    const u32 = fc.integer({ min: 0, max: 0xffffffff });
    const u16 = fc.integer({ min: 0, max: 0xffff });
    const chunk = fc
      .tuple(fc.uint8Array({ maxLength: 100 }), fc.maxSafeNat(), fc.maxSafeNat())
      .map(([payload, a, b]) => {
        const room = Number.MAX_SAFE_INTEGER - payload.length;
        const byteOffset = Math.min(a, b, room);
        return { payload, byteOffset, byteLength: Math.min(Math.max(a, b), room) + payload.length };
      });
    const fields = fc.record({
      epoch: u32,
      runHash: u32,
      srcRank: u16,
      dstRank: u16,
      worldSize: u16,
      checksum: fc.boolean(),
    });
    const names = fc.record({ opSeq: u32, step: u16, tensor: fc.integer({ min: 0, max: 255 }), shapeHash: u32 });
    fc.assert(
      fc.property(fields, names, chunk, (identity, name, { payload, byteOffset, byteLength }) => {
        const header: FrameHeader = { type: 'chunk', ...identity, block: { ...name, byteLength }, byteOffset };
        const frame = decodeFrame([frameOf(header, payload)], LIMITS);
        expect(frame.header).to.deep.equal(header);
        expect([...frame.payload]).to.deep.equal([...payload]);
      }),
    );
  });

  it('refuses a header with any one byte changed', () => {
    const bytes = frameOf(CHUNK_HEADER, PAYLOAD);
    for (let at = 0; at < HEADER_BYTES; at++) {
      for (let flip = 1; flip < 256; flip++) {
        const changed = Uint8Array.from(bytes);
        changed[at] ^= flip;
        const code = at < 4 ? 'ERR_MAGIC' : at === 4 ? 'ERR_VERSION' : 'ERR_CHECKSUM';
        if (codeOf(changed) !== code) expectRefusal(changed, code);
      }
    }
  });

  it('refuses any bytes that are not a frame, with a ProtocolError and nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(() => decodeFrame([bytes], LIMITS)).to.throw(ProtocolError);
      }),
    );
  });

  it('refuses a message that was cut short or that is too long with ERR_LENGTH', () => {
    const bytes = frameOf(CHUNK_HEADER, PAYLOAD);
    for (let length = 0; length < bytes.length; length++) expectRefusal(bytes.subarray(0, length), 'ERR_LENGTH');
    expectRefusal(Buffer.concat([bytes, Uint8Array.of(0)]), 'ERR_LENGTH');
    expect(() => decodeFrame([], LIMITS))
      .to.throw(ProtocolError)
      .with.property('code', 'ERR_LENGTH');
  });

  it('refuses a payload with any one byte changed, when it has a checksum', () => {
    for (let at = 0; at < PAYLOAD.length; at++) {
      const bytes = Uint8Array.from(frameOf(CHUNK_HEADER, PAYLOAD));
      bytes[HEADER_BYTES + at] ^= 1;
      expectRefusal(bytes, 'ERR_CHECKSUM');
    }
  });

  it('refuses a payload above the limit with ERR_FRAME_TOO_LARGE, and takes one at the limit', () => {
    const header: FrameHeader = { ...CHUNK_HEADER, byteOffset: 0 };
    expect(decodeFrame([frameOf(header, new Uint8Array(1024))], LIMITS).payload).to.have.length(1024);
    expectRefusal(frameOf(header, new Uint8Array(1025)), 'ERR_FRAME_TOO_LARGE');
    // A length that is only claimed must not be believed either.
    expectRefusal(
      forge(header, PAYLOAD, (view) => view.setUint32(48, 0xffffffff, true)),
      'ERR_FRAME_TOO_LARGE',
    );
  });

  it('lets HELLO and CREDIT carry nothing, and GOODBYE no more than its limit', () => {
    const of = (type: FrameType): FrameHeader => ({ ...CHUNK_HEADER, type });
    for (const type of ['hello', 'credit'] as const) expectRefusal(frameOf(of(type), PAYLOAD), 'ERR_FRAME_TOO_LARGE');
    const largest = frameOf(of('goodbye'), new Uint8Array(MAX_GOODBYE_BYTES));
    expect(decodeFrame([largest], { maxPayloadBytes: 0 }).payload).to.have.length(MAX_GOODBYE_BYTES);
    expectRefusal(frameOf(of('goodbye'), new Uint8Array(MAX_GOODBYE_BYTES + 1)), 'ERR_FRAME_TOO_LARGE');
  });

  const impossible: [string, (view: DataView) => void][] = [
    ['type 0', (view) => view.setUint8(5, 0)],
    ['type 5', (view) => view.setUint8(5, 5)],
    ['an unknown flag', (view) => view.setUint16(6, 2, true)],
    ['a reserved byte', (view) => view.setUint8(55, 1)],
    ['blockBytes of 2^53', (view) => view.setBigUint64(32, 2n ** 53n, true)],
    ['byteOffset of 2^53', (view) => view.setBigUint64(40, 2n ** 53n, true)],
    ['a chunk that ends past its block', (view) => view.setBigUint64(40, 0x1_0000_000cn, true)],
  ];
  for (const [what, edit] of impossible) {
    it(`refuses ${what} with ERR_FRAME, though its checksum is right`, () => {
      expectRefusal(forge(CHUNK_HEADER, PAYLOAD, edit), 'ERR_FRAME');
    });
  }
});

// The frame codec: bytes to a typed header and back, pure. One frame is one message of a link:
//
//   offset size field         little-endian; a field that a type does not use is 0
//        0    4 magic         "KVRG"
//        4    1 version       1
//        5    1 type          1 HELLO, 2 CREDIT, 3 CHUNK, 4 GOODBYE
//        6    2 flags         bit 0: checksum
//        8    4 epoch         generation of the ring; frames of an older one are dropped
//       12    4 runHash       which run
//       16    2 srcRank       who sent this frame
//       18    2 dstRank       for whom it is
//       20    2 worldSize     number of ranks of the ring
//       22    2 step          \
//       24    4 opSeq          | the block, see BlockDescriptor
//       28    4 shapeHash      |
//       32    8 blockBytes    /
//       40    8 byteOffset    CHUNK: where the payload belongs in the block
//       48    4 payloadBytes  length of what follows the header
//       52    1 tensor        part of the block's name
//       53    3 reserved      0
//       56    4 payloadCrc    CRC-32 of the payload if flags bit 0 is set
//       60    4 headerCrc     CRC-32 of bytes 0 to 59; always there, always checked
//
//   HELLO    first frame of a link, from the end that dialled it, which is the one that receives blocks. blockBytes = the
//            largest payload it takes; flag checksum = payloads that it is sent must carry a checksum. No payload.
//   CREDIT   receiver to sender: a receive has been posted; the sender may send exactly this block. No payload.
//   CHUNK    sender to receiver: the next bytes of the block that was granted first. Offsets ascend without gaps; a block
//            of 0 bytes is one empty chunk.
//   GOODBYE  last frame of either end: the payload says why, as JSON { name, code, message } of at most 1024 bytes.
import { ProtocolError } from '../errors.ts';
import { crc32 as defaultCrc32 } from './checksum.ts';
import type { Crc32 } from './checksum.ts';
import type { BlockDescriptor } from './transport.ts';

export const PROTOCOL_VERSION = 1;
/** Length of a frame's header, in bytes. */
export const HEADER_BYTES = 64;
/** Largest payload of a GOODBYE, in bytes; a link must carry it however small its chunks are. */
export const MAX_GOODBYE_BYTES = 1024;

const FRAME_TYPES = ['hello', 'credit', 'chunk', 'goodbye'] as const;
export type FrameType = (typeof FRAME_TYPES)[number];

export interface FrameHeader {
  readonly type: FrameType;
  /** CHUNK: the payload has a checksum. HELLO: the dialler wants them. */
  readonly checksum: boolean;
  readonly epoch: number;
  readonly runHash: number;
  readonly srcRank: number;
  readonly dstRank: number;
  readonly worldSize: number;
  readonly block: BlockDescriptor;
  readonly byteOffset: number;
}

export interface Frame {
  readonly header: FrameHeader;
  /** A view of the pieces where that is possible; may lie at any alignment. */
  readonly payload: Uint8Array;
}

export interface FrameLimits {
  /** Largest payload that was agreed on, in bytes. Checked before anything of that size is allocated. */
  readonly maxPayloadBytes: number;
  /** For payloads. Default: the one in JavaScript. */
  readonly crc32?: Crc32 | undefined;
}

const MAGIC = 0x4752564b; // "KVRG" read as a little-endian u32
const FLAG_CHECKSUM = 1;
const HEADER_CRC_OFFSET = 60;
const NO_BYTES = new Uint8Array(0);

/** The 64 bytes that go before `payload`. Fields must be in range: see checkBlock for those of a block. */
export function encodeHeader(
  header: FrameHeader,
  payload: Uint8Array = NO_BYTES,
  crc32: Crc32 = defaultCrc32,
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, PROTOCOL_VERSION);
  view.setUint8(5, FRAME_TYPES.indexOf(header.type) + 1);
  view.setUint16(6, header.checksum ? FLAG_CHECKSUM : 0, true);
  view.setUint32(8, header.epoch, true);
  view.setUint32(12, header.runHash, true);
  view.setUint16(16, header.srcRank, true);
  view.setUint16(18, header.dstRank, true);
  view.setUint16(20, header.worldSize, true);
  view.setUint16(22, header.block.step, true);
  view.setUint32(24, header.block.opSeq, true);
  view.setUint32(28, header.block.shapeHash, true);
  view.setBigUint64(32, BigInt(header.block.byteLength), true);
  view.setBigUint64(40, BigInt(header.byteOffset), true);
  view.setUint32(48, payload.length, true);
  view.setUint8(52, header.block.tensor);
  if (header.checksum) view.setUint32(56, crc32(payload), true);
  view.setUint32(HEADER_CRC_OFFSET, defaultCrc32(bytes.subarray(0, HEADER_CRC_OFFSET)), true);
  return bytes;
}

/**
 * Decodes one message that arrived as `pieces`, cut anywhere. Nothing is copied when the payload lies in one piece.
 * Throws ProtocolError: ERR_LENGTH, ERR_MAGIC, ERR_VERSION, ERR_CHECKSUM, ERR_FRAME or ERR_FRAME_TOO_LARGE.
 */
export function decodeFrame(pieces: readonly Uint8Array[], limits: FrameLimits): Frame {
  const totalBytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
  if (totalBytes < HEADER_BYTES) {
    throw new ProtocolError(
      'ERR_LENGTH',
      `frame: must have a header of ${HEADER_BYTES} bytes, got ${totalBytes} bytes`,
    );
  }
  const bytes = takeBytes(pieces, 0, HEADER_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  checkEnvelope(bytes, view);
  const header = readHeader(view);
  const payloadBytes = view.getUint32(48, true);
  checkLengths(header, payloadBytes, totalBytes - HEADER_BYTES, limits.maxPayloadBytes);
  const payload = takeBytes(pieces, HEADER_BYTES, payloadBytes);
  if (header.checksum) checkPayload(payload, view.getUint32(56, true), limits.crc32 ?? defaultCrc32);
  return { header, payload };
}

/** What makes the bytes a frame at all, before any field is believed. */
function checkEnvelope(bytes: Uint8Array, view: DataView): void {
  const magic = view.getUint32(0, true);
  if (magic !== MAGIC) {
    throw new ProtocolError('ERR_MAGIC', `frame: must begin with "KVRG", got 0x${magic.toString(16).padStart(8, '0')}`);
  }
  const version = view.getUint8(4);
  if (version !== PROTOCOL_VERSION) {
    const remedy = 'run the same version of kvring on every rank';
    throw new ProtocolError(
      'ERR_VERSION',
      `frame: version must be ${PROTOCOL_VERSION}, got version=${version}; ${remedy}`,
    );
  }
  const expected = view.getUint32(HEADER_CRC_OFFSET, true);
  const actual = defaultCrc32(bytes.subarray(0, HEADER_CRC_OFFSET));
  if (actual !== expected) throw checksumError('header', actual, expected);
}

function readHeader(view: DataView): FrameHeader {
  const typeNumber = view.getUint8(5);
  const type = FRAME_TYPES[typeNumber - 1];
  if (type === undefined) throw fieldError('type must be 1 to 4', `type=${typeNumber}`);
  const flags = view.getUint16(6, true);
  if ((flags & ~FLAG_CHECKSUM) !== 0) throw fieldError('unknown flags must be 0', `flags=${flags}`);
  if (view.getUint8(53) !== 0 || view.getUint16(54, true) !== 0) throw fieldError('reserved bytes must be 0', 'others');
  return {
    type,
    checksum: (flags & FLAG_CHECKSUM) !== 0,
    epoch: view.getUint32(8, true),
    runHash: view.getUint32(12, true),
    srcRank: view.getUint16(16, true),
    dstRank: view.getUint16(18, true),
    worldSize: view.getUint16(20, true),
    block: {
      opSeq: view.getUint32(24, true),
      step: view.getUint16(22, true),
      tensor: view.getUint8(52),
      byteLength: readSafeInteger(view, 32, 'blockBytes'),
      shapeHash: view.getUint32(28, true),
    },
    byteOffset: readSafeInteger(view, 40, 'byteOffset'),
  };
}

function checkLengths(header: FrameHeader, payloadBytes: number, actualBytes: number, maxPayloadBytes: number): void {
  const { type, byteOffset, block } = header;
  const limit = type === 'chunk' ? maxPayloadBytes : type === 'goodbye' ? MAX_GOODBYE_BYTES : 0;
  if (payloadBytes > limit) {
    const got = `payloadBytes=${payloadBytes}, type=${type}`;
    throw new ProtocolError('ERR_FRAME_TOO_LARGE', `frame: payload must be at most ${limit} bytes, got ${got}`);
  }
  if (payloadBytes !== actualBytes) {
    const got = `payloadBytes=${payloadBytes} and ${actualBytes} bytes`;
    throw new ProtocolError('ERR_LENGTH', `frame: payload must be as long as its header says, got ${got}`);
  }
  if (type === 'chunk' && byteOffset + payloadBytes > block.byteLength) {
    const got = `byteOffset=${byteOffset}, payloadBytes=${payloadBytes}, blockBytes=${block.byteLength}`;
    throw fieldError('a chunk must end inside its block', got);
  }
}

function checkPayload(payload: Uint8Array, expected: number, crc32: Crc32): void {
  const actual = crc32(payload);
  if (actual !== expected) throw checksumError('payload', actual, expected);
}

/** Bytes [start, start + length) of the pieces; a view where one piece has them all. The caller checked the length. */
function takeBytes(pieces: readonly Uint8Array[], start: number, length: number): Uint8Array {
  let joined: Uint8Array | undefined;
  let filled = 0;
  let pieceStart = 0;
  for (const piece of pieces) {
    const from = Math.max(start - pieceStart, 0);
    const to = Math.min(start + length - pieceStart, piece.length);
    pieceStart += piece.length;
    if (from >= to) continue;
    if (to - from === length) return piece.subarray(from, to);
    joined ??= new Uint8Array(length);
    joined.set(piece.subarray(from, to), filled);
    filled += to - from;
  }
  return joined ?? NO_BYTES;
}

function readSafeInteger(view: DataView, offset: number, field: string): number {
  const value = view.getBigUint64(offset, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw fieldError(`${field} must be below 2^53`, `${field}=${value}`);
  return Number(value);
}

function fieldError(rule: string, got: string): ProtocolError {
  return new ProtocolError('ERR_FRAME', `frame: ${rule}, got ${got}`);
}

function checksumError(part: string, actual: number, expected: number): ProtocolError {
  const got = `crc32=${actual.toString(16).padStart(8, '0')}, expected=${expected.toString(16).padStart(8, '0')}`;
  return new ProtocolError('ERR_CHECKSUM', `frame: the ${part} must arrive as it was sent, got ${got}`);
}

// The error classes of kvring. Every error has a stable `code`, names the values that were wrong and says what to do.
// ConfigError is the caller's mistake and is thrown before any work; the others come from the world outside.

/** Every code that kvring can report, with what it means. Codes are stable across versions. */
export const ERROR_CODES = {
  // ConfigError
  ERR_SHAPE: 'a tensor has the wrong rank, size or length',
  ERR_DTYPE: 'a tensor has a dtype that the operation does not take',
  ERR_OPTION: 'an option is unknown or has a value outside its range',
  ERR_UNSUPPORTED: 'a known option that this path cannot honour',
  ERR_FILE: 'a file is missing, cut short, or not what it claims to be',
  ERR_USAGE: 'the command line is wrong',
  ERR_CLOSED: 'the object was used after close()',
  ERR_ORDER: 'the call needs another call before it',
  // DeviceError
  ERR_NO_ADAPTER: 'no WebGPU adapter was found',
  ERR_MISSING_FEATURE: 'the adapter lacks a feature that the call needs',
  ERR_LIMIT: 'the call needs more than the adapter allows',
  ERR_SHADER: 'a shader did not compile',
  ERR_DEVICE_LOST: 'the GPU device was lost',
  ERR_GPU: 'the GPU reported an error',
  // TransportError
  ERR_CONNECT: 'a connection could not be made',
  ERR_TIMEOUT: 'a peer did not answer in time',
  ERR_PEER_LOST: 'the connection to a peer was lost',
  // ProtocolError
  ERR_MAGIC: 'the bytes are not a kvring frame',
  ERR_VERSION: 'the peer speaks another protocol version',
  ERR_FRAME: 'a frame field has an impossible value',
  ERR_FRAME_TOO_LARGE: 'a frame is larger than the limit',
  ERR_LENGTH: 'a frame has another length than it says',
  ERR_CHECKSUM: 'a frame arrived with other bytes than were sent',
  ERR_EPOCH: 'a frame belongs to another epoch of the ring',
  ERR_UNEXPECTED_BLOCK: 'a frame belongs to a block that was not agreed on',
  ERR_MESSAGE: 'a control message is malformed',
  ERR_TOKEN: 'the client did not present the token of this run',
  ERR_ORIGIN: 'the client comes from an origin that is not allowed',
  ERR_RUN_ID: 'the client belongs to another run',
  ERR_WORLD_SIZE: 'the client expects another number of ranks',
  ERR_RANK: 'the rank number is taken or out of range',
  ERR_AGREEMENT: 'the ranks do not agree on what they run',
  // RingAbortError
  ERR_RING_ABORTED: 'a rank failed, so the call was abandoned on every rank',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Base of every error that kvring throws on purpose. */
export class KvringError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The caller's mistake, found before any GPU work or IO. */
export class ConfigError extends KvringError {}

/** The GPU, its driver or its limits. */
export class DeviceError extends KvringError {}

/** Bytes that could not be moved: a connection refused, lost, or too slow. `rank` is the reporting rank. */
export class TransportError extends KvringError {
  readonly rank: number | undefined;
  readonly peerRank: number | undefined;
  constructor(
    code: ErrorCode,
    message: string,
    where: { rank?: number | undefined; peerRank?: number | undefined } = {},
    options?: ErrorOptions,
  ) {
    super(code, message, options);
    this.rank = where.rank;
    this.peerRank = where.peerRank;
  }
}

/** A peer sent something that the protocol does not allow. `peerRank` is set where the peer is known. */
export class ProtocolError extends KvringError {
  peerRank: number | undefined;
}

/** A rank failed in the middle of a call; the same error reaches every rank and the caller, and no result is kept. */
export class RingAbortError extends KvringError {
  /** The rank that failed first, or −1 when the caller itself aborted. */
  readonly rootCauseRank: number;
  /** The ring step that the ranks were last known to be in; −1 outside a ring. */
  readonly step: number;
  readonly reason: string;
  constructor(rootCauseRank: number, step: number, reason: string, options?: ErrorOptions) {
    const who = rootCauseRank < 0 ? 'the caller' : `rank ${rootCauseRank}`;
    super('ERR_RING_ABORTED', `ring aborted by ${who}${step >= 0 ? ` at step ${step}` : ''}: ${reason}`, options);
    this.rootCauseRank = rootCauseRank;
    this.step = step;
    this.reason = reason;
  }
}

/** An error as JSON, for a control message. */
export interface WireError {
  name: string;
  code: ErrorCode | undefined;
  message: string;
  stack?: string | undefined;
  rootCauseRank?: number;
  step?: number;
  reason?: string;
}

/** Turns any thrown value into JSON that {@link decodeError} restores on another process. */
export function encodeError(error: unknown): WireError {
  if (error instanceof RingAbortError) {
    const { name, code, message, rootCauseRank, step, reason } = error;
    return { name, code, message, rootCauseRank, step, reason };
  }
  if (error instanceof KvringError) return { name: error.name, code: error.code, message: error.message };
  if (error instanceof Error) return { name: error.name, code: undefined, message: error.message, stack: error.stack };
  return { name: 'Error', code: undefined, message: String(error) };
}

/** The inverse of {@link encodeError}: the same class, code and message; a plain Error for what kvring does not know. */
export function decodeError(wire: WireError): Error {
  const { name, message } = wire;
  const code = wire.code;
  if (code === undefined || !Object.hasOwn(ERROR_CODES, code)) {
    const error = new Error(message);
    error.name = name;
    if (wire.stack !== undefined) error.stack = wire.stack;
    return error;
  }
  switch (name) {
    case 'ConfigError':
      return new ConfigError(code, message);
    case 'DeviceError':
      return new DeviceError(code, message);
    case 'TransportError':
      return new TransportError(code, message);
    case 'ProtocolError':
      return new ProtocolError(code, message);
    case 'RingAbortError':
      return new RingAbortError(wire.rootCauseRank ?? -1, wire.step ?? -1, wire.reason ?? message);
    default:
      return new KvringError(code, message);
  }
}

/** Programming errors only: a condition that the code itself guarantees. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`kvring bug: ${message}`);
}

/** Marks a promise as watched, so that its rejection is reported where it is awaited and nowhere else. */
export function observed<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

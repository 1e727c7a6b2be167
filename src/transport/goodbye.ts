// The payload of the last frame of a link: why an end gives it up, so that the other end can say so in its own error.
import { ERROR_CODES, KvringError, ProtocolError, TransportError, encodeError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { MAX_GOODBYE_BYTES } from './frame.ts';

/** `error` as at most MAX_GOODBYE_BYTES bytes; a long message is cut. */
export function encodeGoodbye(error: Error): Uint8Array {
  const { name, message } = encodeError(error);
  const code = error instanceof KvringError ? error.code : undefined;
  for (let length = message.length; ; length = length >> 1) {
    const bytes = new TextEncoder().encode(JSON.stringify({ name, code, message: message.slice(0, length) }));
    if (bytes.length <= MAX_GOODBYE_BYTES || length === 0) return bytes.subarray(0, MAX_GOODBYE_BYTES);
  }
}

/**
 * The error that rank `rank` reports after `peer` said goodbye: a ProtocolError of the same code when the peer blames the
 * protocol, else a TransportError ERR_PEER_LOST that quotes the peer's reason.
 */
export function decodeGoodbye(payload: Uint8Array, rank: number, peer: number): ProtocolError | TransportError {
  const { name, code, message } = parseGoodbye(payload);
  if (name === 'ProtocolError' && code !== undefined) {
    const error = new ProtocolError(code, `rank ${peer} refused rank ${rank}: ${message}`);
    error.peerRank = peer;
    return error;
  }
  const text = `rank ${peer} gave up its link with rank ${rank}: ${message}`;
  return new TransportError('ERR_PEER_LOST', text, { rank, peerRank: peer });
}

/** Believes nothing: the other end may send any bytes. */
function parseGoodbye(payload: Uint8Array): { name: string; code: ErrorCode | undefined; message: string } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder().decode(payload));
  } catch {
    parsed = undefined;
  }
  const fields = typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : {};
  const code = typeof fields.code === 'string' && Object.hasOwn(ERROR_CODES, fields.code) ? fields.code : undefined;
  return {
    name: String(fields.name),
    code: code as ErrorCode | undefined,
    message: typeof fields.message === 'string' ? fields.message : 'no reason given',
  };
}

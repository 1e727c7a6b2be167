// What the two sides of a WebSocket handshake agree on: the subprotocol, how the token travels in it, the size of a message.
import { DEFAULT_CHUNK_BYTES } from '../transport/block-transport-options.ts';
import { HEADER_BYTES, MAX_GOODBYE_BYTES } from '../transport/frame.ts';

/** The subprotocol that the server chooses. */
export const SUBPROTOCOL = 'kvring.1';

/** A second subprotocol, offered by the client only, carries the token: a browser can set no other header. */
export const TOKEN_PREFIX = 'kvring.token.';

/** base64url of the token's UTF-8 bytes: whatever the token is, its characters are allowed in a subprotocol. */
export function encodeToken(token: string): string {
  return Buffer.from(token, 'utf8').toString('base64url');
}

/** Largest message of a link with chunks of `chunkBytes`, in bytes. */
export function maxMessageBytes(chunkBytes: number): number {
  return HEADER_BYTES + Math.max(chunkBytes, MAX_GOODBYE_BYTES);
}

/** {@link maxMessageBytes} of chunks of the default size. */
export function defaultMaxMessageBytes(): number {
  return maxMessageBytes(DEFAULT_CHUNK_BYTES);
}

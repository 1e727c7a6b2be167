// The transport of a rank that is a Node process: block transport, WebSocket links, zlib's checksum, and the rule when
// payloads carry one. The listening server is the caller's: its `/edge` route feeds `transport.accept`.
import * as zlib from 'node:zlib';
import type { WebSocket } from 'ws';
import { TransportError } from '../errors.ts';
import { BlockTransport } from '../transport/block-transport.ts';
import { DEFAULT_CHUNK_BYTES } from '../transport/block-transport-options.ts';
import type { BlockTransportOptions } from '../transport/block-transport-options.ts';
import { crc32 } from '../transport/checksum.ts';
import type { Crc32 } from '../transport/checksum.ts';
import { webSocketLink } from '../transport/websocket.ts';
import { dialWebSocket } from './websocket-client.ts';
import { maxMessageBytes } from './websocket-protocol.ts';
import { isLoopback } from './websocket-server.ts';

/** The path of a server on which its transport accepts links. */
export const EDGE_PATH = '/edge';

export interface NodeTransportOptions extends Omit<BlockTransportOptions, 'dial' | 'checksum' | 'crc32'> {
  /** The secret of the run. */
  token: string;
  /** `ws://host:port` or `wss://host:port` of a peer's server; undefined when there is no such peer. */
  peerUrl: (peer: number) => string | undefined;
  /**
   * Whether received payloads carry a checksum. Default: only over plain `ws://` from another host, where nothing else
   * guards them; TCP's own sum is 16 bits, and TLS has a stronger one.
   */
  checksum?: boolean | undefined;
  /** Longest a handshake may take, in ms. Default 10000. */
  connectTimeoutMs?: number | undefined;
  /** PEM of the authority that signed the peers' certificates. Default: those that Node trusts. */
  ca?: string | Buffer | undefined;
}

/** Makes the transport; opens nothing until a receive is posted. Throws ConfigError ERR_OPTION. */
export function createNodeTransport(options: NodeTransportOptions): BlockTransport {
  const { token, peerUrl, checksum, connectTimeoutMs, ca, ...rest } = options;
  const chunkBytes = options.chunkBytes ?? DEFAULT_CHUNK_BYTES;
  const dial = async (peer: number, signal: AbortSignal) => {
    const url = peerUrl(peer);
    if (url === undefined) {
      const message = `rank ${options.rank}: every peer needs a URL, got none for rank ${peer}`;
      throw new TransportError('ERR_CONNECT', message, { rank: options.rank, peerRank: peer });
    }
    const settings = { token, ca, signal, path: EDGE_PATH, timeoutMs: connectTimeoutMs };
    return webSocketLink(await dialWebSocket(url, { ...settings, maxMessageBytes: maxMessageBytes(chunkBytes) }));
  };
  return new BlockTransport({
    ...rest,
    dial,
    checksum: (peer) => checksum ?? needsChecksum(peerUrl(peer)),
    crc32: findCrc32(),
  });
}

/** Gives an admitted socket of the `/edge` route to `transport`. A refusal is told to the peer and ends only this link. */
export function acceptEdge(transport: BlockTransport, socket: WebSocket): void {
  void transport.accept(webSocketLink(socket));
}

/** The default of `checksum`. */
export function needsChecksum(url: string | undefined): boolean {
  if (url === undefined) return false;
  const { protocol, hostname } = new URL(url);
  return protocol === 'ws:' && !isLoopback(hostname);
}

/** zlib's, which Node has from 20.15 on and which is ten times as fast; else the one in JavaScript. */
export function findCrc32(): Crc32 {
  return typeof zlib.crc32 === 'function' ? zlib.crc32 : crc32;
}

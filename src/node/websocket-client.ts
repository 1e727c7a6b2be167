// Dials a WebSocket of another process, within a bounded time, and says why if it was refused. One attempt: whether to try
// again is the caller's decision.
import type { IncomingMessage } from 'node:http';
import { WebSocket } from 'ws';
import { ProtocolError, TransportError } from '../errors.ts';
import type { KvringError } from '../errors.ts';
import { SUBPROTOCOL, TOKEN_PREFIX, defaultMaxMessageBytes, encodeToken } from './websocket-protocol.ts';

export interface DialOptions {
  /** The secret of the run. */
  token: string;
  /** Path on the server. Default: that of the URL. */
  path?: string | undefined;
  /** Aborts the attempt, not the open socket. */
  signal?: AbortSignal | undefined;
  /** Longest the handshake may take, in ms. Default 10000. */
  timeoutMs?: number | undefined;
  /** PEM of the authority that signed the server's certificate. Default: those that Node trusts. */
  ca?: string | Buffer | undefined;
  /** Largest message that this end takes, in bytes, at most 2^31 − 1. Default: a frame with a chunk of the default size. */
  maxMessageBytes?: number | undefined;
}

/**
 * Resolves with an open WebSocket. Rejects with TransportError ERR_CONNECT (nobody answers there) or ERR_TIMEOUT, with
 * ProtocolError ERR_TOKEN, ERR_ORIGIN or ERR_VERSION (the server refused), or with the signal's reason.
 */
export function dialWebSocket(url: string, options: DialOptions): Promise<WebSocket> {
  const { token, path, signal, timeoutMs = 10_000, ca } = options;
  if (signal?.aborted) return Promise.reject(signal.reason);
  const target = path === undefined ? new URL(url) : new URL(path, url);
  const settings = {
    handshakeTimeout: timeoutMs,
    perMessageDeflate: false,
    followRedirects: false,
    maxPayload: options.maxMessageBytes ?? defaultMaxMessageBytes(),
    closeTimeout: 2000,
    ...(ca === undefined ? {} : { ca }),
  };
  const socket = new WebSocket(target, [SUBPROTOCOL, TOKEN_PREFIX + encodeToken(token)], settings);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => fail(signal?.reason);
    const onError = (error: Error): void => fail(connectError(target, timeoutMs, error));
    const settle = (): void => {
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError).off('unexpected-response', onRefusal).off('open', onOpen);
      // An error of an open socket is reported by its close; without a listener it would end the process.
      socket.on('error', () => undefined);
    };
    const fail = (error: unknown): void => {
      settle();
      socket.terminate();
      reject(error);
    };
    const onRefusal = (_request: unknown, response: IncomingMessage): void => {
      response.resume();
      fail(refusalError(target, response.statusCode ?? 0));
    };
    const onOpen = (): void => {
      settle();
      resolve(socket);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.on('error', onError).on('unexpected-response', onRefusal).on('open', onOpen);
  });
}

function connectError(target: URL, timeoutMs: number, cause: Error): TransportError {
  if (cause.message.includes('handshake has timed out')) {
    const message = `dial: ${target.href} must answer within timeoutMs, got nothing for ${timeoutMs} ms`;
    return new TransportError('ERR_TIMEOUT', message, {}, { cause });
  }
  const reason = cause.message || String((cause as NodeJS.ErrnoException).code);
  return new TransportError(
    'ERR_CONNECT',
    `dial: ${target.href} must accept a connection, got ${reason}`,
    {},
    { cause },
  );
}

function refusalError(target: URL, status: number): KvringError {
  const where = `dial: ${target.href}`;
  switch (status) {
    case 401:
      return new ProtocolError('ERR_TOKEN', `${where} refused the token; give both sides the same KVRING_TOKEN`);
    case 403:
      return new ProtocolError(
        'ERR_ORIGIN',
        `${where} does not allow this origin; open the page that it serves itself`,
      );
    case 400:
      return new ProtocolError('ERR_VERSION', `${where} speaks another protocol than ${SUBPROTOCOL}; use one version`);
    case 404:
      return new TransportError('ERR_CONNECT', `${where} has no such path, got status=404; is it a kvring server?`);
    default:
      return new TransportError('ERR_CONNECT', `${where} must accept a WebSocket, got status=${status}`);
  }
}

// The listening side of a process: one HTTP or HTTPS server whose WebSocket routes open only to clients that present the
// token of the run and, if they are browsers, come from an allowed origin. Refuses to be reachable from other hosts in
// clear text by accident. The token is never in a URL, an answer or an error.
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import { ConfigError, TransportError } from '../errors.ts';
import { SUBPROTOCOL, TOKEN_PREFIX, defaultMaxMessageBytes, encodeToken } from './websocket-protocol.ts';

/** Takes an admitted WebSocket; an error of the socket has a listener already. */
export type ConnectionHandler = (socket: WebSocket, request: IncomingMessage) => void;

export interface ListenOptions {
  /** Address to listen on. Default 127.0.0.1; any other than loopback needs `tls` or `insecure`. */
  host?: string | undefined;
  /** Default 0: any free port. */
  port?: number | undefined;
  /** The secret of the run, any text that is not empty; clients must present it. */
  token: string;
  /** PEM texts; makes the server https and wss. */
  tls?: { cert: string | Buffer; key: string | Buffer } | undefined;
  /** Allows clear text on an address that other hosts can reach. Default false. */
  insecure?: boolean | undefined;
  /** Origins such as `http://127.0.0.1:8080` from which browsers may connect, besides this server's own. Default none. */
  allowedOrigins?: readonly string[] | undefined;
  /** What to do with a WebSocket, by path (`/edge`). Others get 404. */
  routes: Readonly<Record<string, ConnectionHandler>>;
  /** Answers HTTP requests that are not WebSockets. Default: 404. */
  onRequest?: ((request: IncomingMessage, response: ServerResponse) => void) | undefined;
  /** Largest message of a WebSocket, in bytes, at most 2^31 − 1. Default: a frame with a chunk of the default size. */
  maxMessageBytes?: number | undefined;
}

export interface Listener {
  /** `ws://host:port` or `wss://host:port`, without a path. */
  readonly url: string;
  readonly port: number;
  /** Drops every connection and frees the port. Idempotent. */
  close(): Promise<void>;
}

/** Rejects with ConfigError ERR_OPTION before anything is opened, TransportError ERR_CONNECT when the port is not free. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { host = '127.0.0.1', port = 0, tls } = options;
  checkOptions(options, host);
  const onRequest = options.onRequest ?? ((_request, response) => void response.writeHead(404).end());
  const server = tls === undefined ? createServer(onRequest) : createTlsServer({ ...tls }, onRequest);
  const sockets = createSocketServer(options);
  await openPort(server, host, port);
  const address = server.address() as AddressInfo;
  const authority = `${host.includes(':') ? `[${host}]` : host}:${address.port}`;
  const gate = createGate(options, authority);
  server.on('upgrade', (request, stream, head) => {
    // Until `ws` takes the stream over, an error of it would be nobody's and end the process.
    stream.on('error', ignoreStreamError);
    const { path, refusal } = gate(request);
    if (refusal !== undefined) {
      refuseUpgrade(stream, refusal);
      return;
    }
    sockets.handleUpgrade(request, stream, head, (socket) => {
      stream.off('error', ignoreStreamError);
      socket.on('error', ignoreStreamError);
      options.routes[path](socket, request);
    });
  });
  let closed: Promise<void> | undefined;
  return {
    url: `${tls === undefined ? 'ws' : 'wss'}://${authority}`,
    port: address.port,
    close: () => (closed ??= closeServer(server, sockets)),
  };
}

function checkOptions(options: ListenOptions, host: string): void {
  if (options.token === '') throw new ConfigError('ERR_OPTION', 'listen: token must not be empty, got token=""');
  if (options.tls === undefined && options.insecure !== true && !isLoopback(host)) {
    const remedy = 'give tls: { cert, key }, or insecure: true (--insecure) on a network that you trust';
    throw new ConfigError('ERR_OPTION', `listen: clear text needs a loopback address, got host=${host}; ${remedy}`);
  }
}

/** Whether only this machine can reach `host`. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

function createSocketServer(options: ListenOptions): WebSocketServer {
  const settings = {
    noServer: true,
    perMessageDeflate: false,
    maxPayload: options.maxMessageBytes ?? defaultMaxMessageBytes(),
    closeTimeout: 2000,
    // The token is one of the protocols that the client offers; it is not echoed.
    handleProtocols: () => SUBPROTOCOL,
  };
  return new WebSocketServer(settings);
}

interface Refusal {
  readonly status: 400 | 401 | 403 | 404;
  readonly text: string;
}

/** Decides, from the request alone, whether a client may open a WebSocket. */
function createGate(options: ListenOptions, authority: string) {
  const expectedToken = digest(encodeToken(options.token));
  const scheme = options.tls === undefined ? 'http' : 'https';
  const origins = new Set([...(options.allowedOrigins ?? []), `${scheme}://${authority}`]);
  return (request: IncomingMessage): { path: string; refusal?: Refusal } => {
    const path = (request.url ?? '/').split('?', 1)[0];
    const { origin } = request.headers;
    const protocols = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((text) => text.trim());
    const token = protocols.find((text) => text.startsWith(TOKEN_PREFIX))?.slice(TOKEN_PREFIX.length) ?? '';
    if (!Object.hasOwn(options.routes, path)) return { path, refusal: { status: 404, text: 'no such path' } };
    // Only browsers send an Origin, and they always do: this keeps a foreign page from using its visitor's network.
    if (origin !== undefined && !origins.has(origin)) {
      return { path, refusal: { status: 403, text: 'origin not allowed' } };
    }
    if (!timingSafeEqual(digest(token), expectedToken)) {
      return { path, refusal: { status: 401, text: 'token missing or wrong' } };
    }
    if (!protocols.includes(SUBPROTOCOL)) return { path, refusal: { status: 400, text: `protocol is ${SUBPROTOCOL}` } };
    return { path };
  };
}

/** Makes texts of any length comparable in constant time. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

const REASONS = { 400: 'Bad Request', 401: 'Unauthorized', 403: 'Forbidden', 404: 'Not Found' } as const;

function refuseUpgrade(stream: Duplex, { status, text }: Refusal): void {
  const headers = `Connection: close\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(text)}`;
  stream.once('finish', () => stream.destroy());
  stream.end(`HTTP/1.1 ${status} ${REASONS[status]}\r\n${headers}\r\n\r\n${text}`);
}

function openPort(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (cause: Error): void => {
      const message = `listen: the port must be free, got host=${host}, port=${port}: ${cause.message}`;
      reject(new TransportError('ERR_CONNECT', message, {}, { cause }));
    };
    server.once('error', onError);
    server.listen(port, host, () => {
      server.off('error', onError);
      resolve();
    });
  });
}

async function closeServer(server: Server, sockets: WebSocketServer): Promise<void> {
  for (const socket of sockets.clients) socket.terminate();
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

/** The end of a connection is reported by its close; without a listener its error would end the process. */
function ignoreStreamError(): void {}

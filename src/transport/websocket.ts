// A link over a WebSocket: over one of the `ws` package without copying a payload, over the WHATWG one of a browser with
// one copy. Knows the API surface that both share, and imports neither.
import { ProtocolError, TransportError, observed } from '../errors.ts';
import type { CloseListener, FrameListener, Link } from './link.ts';

/** The part of the WHATWG WebSocket that a link needs; the classes of browsers, Node and `ws` all have it. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: 'close', listener: (event: { readonly code: number; readonly reason: string }) => void): void;
  addEventListener(type: 'error', listener: (event: unknown) => void): void;
}

/** What `ws` has besides: a message in fragments, and a callback when the kernel has the bytes. */
interface FragmentSocket extends Omit<WebSocketLike, 'send'> {
  send(
    data: Uint8Array,
    options: { fin: boolean; binary: boolean; compress: boolean },
    callback?: (error?: Error | null) => void,
  ): void;
  terminate(): void;
}

const OPEN = 1;
/** Bytes that may wait inside a socket without callbacks before a send resolves. */
const MAX_BUFFERED_BYTES = 4 * 1024 * 1024;
/** How often such a socket is asked, in ms; its waiting bytes last longer than that. */
const POLL_MS = 4;

/** Wraps an open WebSocket, which the link then owns. Text messages and errors of the socket end the link. */
export function webSocketLink(socket: WebSocketLike): Link {
  return isFragmentSocket(socket) ? new FragmentLink(socket) : new WhatwgLink(socket);
}

function isFragmentSocket(socket: WebSocketLike | FragmentSocket): socket is FragmentSocket {
  return 'terminate' in socket && typeof socket.terminate === 'function';
}

/** What both kinds share: events of the socket, which wait until somebody listens. */
abstract class SocketLink<Socket extends WebSocketLike | FragmentSocket> implements Link {
  protected readonly socket: Socket;
  #early: (readonly Uint8Array[])[] = [];
  #onFrame: FrameListener | undefined;
  #onClose: CloseListener | undefined;
  #error: Error | undefined;
  #end: { error: Error | undefined } | undefined;

  constructor(socket: Socket, binaryType: string) {
    this.socket = socket;
    socket.binaryType = binaryType;
    socket.addEventListener('message', (event) => this.#receive(event.data));
    socket.addEventListener('error', (event) => (this.#error ??= errorOfEvent(event)));
    socket.addEventListener('close', (event) => this.#finish(event.code, event.reason));
    if (socket.readyState > OPEN) this.#finish(1006, '');
  }

  abstract send(header: Uint8Array, payload?: Uint8Array): Promise<void>;
  abstract terminate(): void;

  onFrame(listener: FrameListener): void {
    this.#onFrame = listener;
    for (const pieces of this.#early.splice(0)) listener(pieces);
  }

  onClose(listener: CloseListener): void {
    this.#onClose = listener;
    if (this.#end !== undefined) queueMicrotask(() => this.#onClose?.(this.#end?.error));
  }

  close(): void {
    this.socket.close(1000);
  }

  #receive(data: unknown): void {
    const pieces = piecesOf(data);
    if (pieces === undefined) {
      this.#error ??= new ProtocolError('ERR_FRAME', 'link: messages must be binary, got text');
      this.terminate();
    } else if (this.#onFrame === undefined) {
      this.#early.push(pieces);
    } else {
      this.#onFrame(pieces);
    }
  }

  #finish(code: number, reason: string): void {
    if (this.#end !== undefined) return;
    const isClean = this.#error === undefined && (code === 1000 || code === 1001 || code === 1005);
    const text = `close code ${code}${reason === '' ? '' : `, ${reason}`}`;
    this.#end = { error: isClean ? undefined : (this.#error ?? new TransportError('ERR_PEER_LOST', text)) };
    this.#onClose?.(this.#end.error);
  }
}

class FragmentLink extends SocketLink<FragmentSocket> {
  constructor(socket: FragmentSocket) {
    super(socket, 'fragments');
  }

  send(header: Uint8Array, payload?: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error | null): void => (error ? reject(error) : resolve());
      const isWhole = payload === undefined || payload.length === 0;
      // Two fragments of one message: the payload leaves from where it lies.
      this.socket.send(header, { fin: isWhole, binary: true, compress: false }, isWhole ? settle : undefined);
      if (!isWhole) this.socket.send(payload, { fin: true, binary: true, compress: false }, settle);
    });
  }

  terminate(): void {
    this.socket.terminate();
  }
}

class WhatwgLink extends SocketLink<WebSocketLike> {
  #drained: Promise<void> = Promise.resolve();

  constructor(socket: WebSocketLike) {
    super(socket, 'arraybuffer');
  }

  send(header: Uint8Array, payload?: Uint8Array): Promise<void> {
    const message = new Uint8Array(header.length + (payload?.length ?? 0));
    message.set(header);
    if (payload !== undefined) message.set(payload, header.length);
    if (this.socket.readyState === OPEN) this.socket.send(message);
    this.#drained = observed(this.#drained.then(() => this.#drain()));
    return this.#drained;
  }

  /** A browser socket cannot be dropped: closing is the most that a page can do. */
  terminate(): void {
    this.socket.close();
  }

  async #drain(): Promise<void> {
    while (this.socket.readyState === OPEN && this.socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    if (this.socket.readyState !== OPEN) throw new TransportError('ERR_PEER_LOST', 'send: the socket is closed');
  }
}

function piecesOf(data: unknown): readonly Uint8Array[] | undefined {
  if (data instanceof ArrayBuffer) return [new Uint8Array(data)];
  if (data instanceof Uint8Array) return [data];
  return Array.isArray(data) ? (data as readonly Uint8Array[]) : undefined;
}

/** An error of the socket's own protocol layer is the peer's fault, or the network's that changed its bytes. */
function errorOfEvent(event: unknown): Error {
  const cause = typeof event === 'object' && event !== null && 'error' in event ? event.error : undefined;
  const message = cause instanceof Error ? cause.message : 'WebSocket error';
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  if (code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') return new ProtocolError('ERR_FRAME_TOO_LARGE', message, { cause });
  if (code.startsWith('WS_ERR_')) return new ProtocolError('ERR_FRAME', message, { cause });
  return new TransportError('ERR_PEER_LOST', message, {}, { cause });
}

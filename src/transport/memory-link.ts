// Two links that are each other's ends. Messages are delivered one per microtask, in order, and a send resolves when the
// other side has taken its message: a slow reader slows its writer, as over a socket.
import { TransportError } from '../errors.ts';
import type { CloseListener, FrameListener, Link } from './link.ts';

export interface LinkPairOptions {
  /** Whether messages are copied. Default true. */
  copy?: boolean | undefined;
}

interface Message {
  readonly pieces: readonly Uint8Array[];
  resolve(): void;
  reject(error: Error): void;
}

/** The two ends of one pipe. */
export function createLinkPair(options: LinkPairOptions = {}): [Link, Link] {
  const { copy = true } = options;
  const a = new MemoryLink(copy);
  const b = new MemoryLink(copy);
  a.connect(b);
  b.connect(a);
  return [a, b];
}

class MemoryLink implements Link {
  readonly #copy: boolean;
  #other: MemoryLink | undefined;
  /** What the other end has sent and this end's listener has not had. */
  readonly #inbox: Message[] = [];
  #isDelivering = false;
  #isClosing = false;
  #isClosed = false;
  #onFrame: FrameListener | undefined;
  #onClose: CloseListener | undefined;

  constructor(copy: boolean) {
    this.#copy = copy;
  }

  connect(other: MemoryLink): void {
    this.#other = other;
  }

  send(header: Uint8Array, payload?: Uint8Array): Promise<void> {
    const pieces = payload === undefined ? [header] : [header, payload];
    return new Promise((resolve, reject) => {
      if (this.#isClosed || this.#isClosing) reject(closedError());
      else this.#other?.post({ pieces: this.#copy ? pieces.map((piece) => piece.slice()) : pieces, resolve, reject });
    });
  }

  onFrame(listener: FrameListener): void {
    this.#onFrame = listener;
    this.#deliver();
  }

  onClose(listener: CloseListener): void {
    this.#onClose = listener;
    if (this.#isClosed) queueMicrotask(() => this.#onClose?.());
  }

  close(): void {
    if (this.#isClosing || this.#isClosed) return;
    this.#isClosing = true;
    this.#other?.post(undefined);
  }

  terminate(): void {
    this.finish();
    this.#other?.finish();
  }

  /** Takes a message of the other end, or undefined for the end of its messages. */
  post(message: Message | undefined): void {
    this.#inbox.push(message ?? END);
    this.#deliver();
  }

  #deliver(): void {
    if (this.#isDelivering || this.#inbox.length === 0 || this.#onFrame === undefined) return;
    this.#isDelivering = true;
    queueMicrotask(() => {
      this.#isDelivering = false;
      const message = this.#inbox.shift();
      if (message === END) this.terminate();
      else if (message !== undefined) {
        this.#onFrame?.(message.pieces);
        message.resolve();
      }
      this.#deliver();
    });
  }

  /** Ends this end only. */
  finish(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const message of this.#inbox.splice(0)) message.reject(closedError());
    queueMicrotask(() => this.#onClose?.());
  }
}

/** Stands in an inbox for the end of the other side's messages. */
const END: Message = { pieces: [], resolve: () => undefined, reject: () => undefined };

function closedError(): TransportError {
  return new TransportError('ERR_PEER_LOST', 'send: the link is closed');
}

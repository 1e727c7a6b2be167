// The pipe that control messages travel in: ordered text, both ways. node/ makes one from a WebSocket; tests use a pair
// in memory.

export interface ControlChannel {
  /** Queues one message; silently dropped once the channel has closed. */
  send(text: string): void;
  /** The one listener of incoming messages. */
  onMessage(listener: (text: string) => void): void;
  /** Called once, when the channel has closed for whatever reason; at once if it already has. */
  onClose(listener: () => void): void;
  /** Closes in good order; idempotent. */
  close(): void;
}

/** Two ends of an in-memory channel. Messages arrive in a later microtask, in order. */
export function createChannelPair(): [ControlChannel, ControlChannel] {
  const left = new MemoryChannel();
  const right = new MemoryChannel();
  left.connect(right);
  right.connect(left);
  return [left, right];
}

class MemoryChannel implements ControlChannel {
  #peer: MemoryChannel | undefined;
  #closed = false;
  #messages: string[] = [];
  #onMessage: ((text: string) => void) | undefined;
  #onClose: (() => void)[] = [];

  connect(peer: MemoryChannel): void {
    this.#peer = peer;
  }

  send(text: string): void {
    const peer = this.#peer!;
    if (!this.#closed) queueMicrotask(() => peer.#deliver(text));
  }

  onMessage(listener: (text: string) => void): void {
    this.#onMessage = listener;
    for (const text of this.#messages.splice(0)) listener(text);
  }

  onClose(listener: () => void): void {
    if (this.#closed) queueMicrotask(listener);
    else this.#onClose.push(listener);
  }

  close(): void {
    if (this.#closed) return;
    this.#end();
    const peer = this.#peer!;
    queueMicrotask(() => peer.#end());
  }

  #deliver(text: string): void {
    if (this.#closed) return;
    if (this.#onMessage) this.#onMessage(text);
    else this.#messages.push(text);
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const listener of this.#onClose.splice(0)) listener();
  }
}

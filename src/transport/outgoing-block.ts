// A block that is being sent: the bytes that its writer has given and that still wait to leave, cut into chunks.
import { Transfer } from './transfer.ts';

interface PendingWrite {
  readonly bytes: Uint8Array;
  /** Bytes of it that have left, and that are through. */
  sent: number;
  through: number;
  resolve(): void;
  reject(error: unknown): void;
}

export class OutgoingBlock extends Transfer {
  /** Whether the receiver has posted this block. */
  isGranted = false;
  /** Writes of which bytes are not yet through, in order. */
  readonly #writes: PendingWrite[] = [];
  #bytesWritten = 0;
  #bytesSent = 0;
  #hasSentEmpty = false;
  #rejection: { error: unknown } | undefined;

  /** How many more bytes the writer may give. */
  get bytesExpected(): number {
    return this.block.byteLength - this.#bytesWritten;
  }

  get isAllSent(): boolean {
    return this.block.byteLength === 0 ? this.#hasSentEmpty : this.#bytesSent === this.block.byteLength;
  }

  get isDone(): boolean {
    return this.isAllSent && this.bytesDone === this.block.byteLength;
  }

  /** Queues bytes, at most {@link bytesExpected}. Resolves when they are through. */
  write(bytes: Uint8Array): Promise<void> {
    if (this.#rejection !== undefined) return Promise.reject(this.#rejection.error);
    if (bytes.length === 0) return Promise.resolve();
    this.#bytesWritten += bytes.length;
    return new Promise((resolve, reject) => {
      this.#writes.push({ bytes, sent: 0, through: 0, resolve, reject });
    });
  }

  /** Takes the next chunk of at most `limit` bytes, or undefined when the writer has given no more. */
  nextChunk(limit: number): { bytes: Uint8Array; byteOffset: number } | undefined {
    const byteOffset = this.#bytesSent;
    if (this.block.byteLength === 0) {
      if (this.#hasSentEmpty) return undefined;
      this.#hasSentEmpty = true;
      return { bytes: new Uint8Array(0), byteOffset };
    }
    const write = this.#writes.find(({ sent, bytes }) => sent < bytes.length);
    if (write === undefined) return undefined;
    const bytes = write.bytes.subarray(write.sent, write.sent + limit);
    write.sent += bytes.length;
    this.#bytesSent += bytes.length;
    return { bytes, byteOffset };
  }

  /** Notes that the oldest `byteLength` bytes that had left are through. */
  acknowledge(byteLength: number): void {
    this.bytesDone += byteLength;
    const write = this.#writes[0];
    if (write === undefined) return;
    // A chunk never spans two writes, so it is always the first one's.
    write.through += byteLength;
    if (write.through < write.bytes.length) return;
    this.#writes.shift();
    write.resolve();
  }

  override reject(error: unknown): void {
    this.#rejection = { error };
    for (const write of this.#writes.splice(0)) write.reject(error);
    super.reject(error);
  }
}

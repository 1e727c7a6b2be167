// The sending end of one directed edge in one epoch: queues blocks, waits for the receiver to dial and to grant the block
// at the head of the queue, and keeps a few chunks on their way to the network. Any failure fails the whole edge, as in
// edge-receiver.ts.
import { ConfigError, ProtocolError, TransportError, observed } from '../errors.ts';
import { describeBlock, isSameBlock } from './block.ts';
import { Channel } from './channel.ts';
import type { Endpoint } from './channel.ts';
import { Deadline } from './deadline.ts';
import type { FrameHeader } from './frame.ts';
import type { Link } from './link.ts';
import { OutgoingBlock } from './outgoing-block.ts';
import type { BlockDescriptor, BlockWriter, TransferOptions } from './transport.ts';

export interface EdgeSenderOptions {
  readonly endpoint: Endpoint;
  readonly peer: number;
  /** Chunks that may be on their way to the network at once. */
  readonly maxInFlight: number;
  /** Told when the edge fails while nothing is being sent. */
  readonly onLost: (peer: number, error: Error) => void;
}

/** What the receiver said in its HELLO. */
export interface ReceiverTerms {
  /** Largest payload that it takes, in bytes. */
  readonly maxPayloadBytes: number;
  readonly checksum: boolean;
}

/** Credits that a receiver may have given before blocks are sent; far above any use, it bounds what a bad peer can hold. */
const MAX_CREDITS = 4096;

export class EdgeSender {
  readonly #options: EdgeSenderOptions;
  /** Blocks of which bytes are not yet through, in order. */
  readonly #queue: OutgoingBlock[] = [];
  readonly #credits: BlockDescriptor[] = [];
  readonly #deadline = new Deadline((timeoutMs) => this.#expire(timeoutMs));
  #channel: Channel | undefined;
  #terms: ReceiverTerms | undefined;
  #inFlight = 0;
  #failure: Error | undefined;

  constructor(options: EdgeSenderOptions) {
    this.#options = options;
  }

  get epoch(): number {
    return this.#options.endpoint.epoch;
  }

  get failure(): Error | undefined {
    return this.#failure;
  }

  get isAttached(): boolean {
    return this.#channel !== undefined;
  }

  /** Takes the link that the receiver dialled, after its HELLO; an edge takes one link in its life. */
  attach(link: Link, terms: ReceiverTerms): Channel {
    const { endpoint, peer } = this.#options;
    this.#channel = new Channel(link, endpoint, peer, {
      onFrame: (header) => this.#takeCredit(header),
      onEnd: (error) => this.#lose(error),
      describePending: () => this.#describePending(),
    });
    this.#terms = terms;
    return this.#channel;
  }

  /** Queues a block. */
  send(block: BlockDescriptor, options: TransferOptions): BlockWriter {
    const outgoing = new OutgoingBlock(block, options, {
      aborts: this.#options.endpoint.aborts,
      onAbort: (reason) => this.fail(reason as Error),
    });
    if (this.#failure !== undefined || options.signal?.aborted) {
      outgoing.reject(this.#failure ?? options.signal?.reason);
    } else {
      this.#queue.push(outgoing);
      this.#pump();
      if (this.#queue[0] === outgoing) this.#watch();
    }
    return {
      done: outgoing.done,
      write: (chunk) => observed(this.#write(outgoing, chunk)),
    };
  }

  /** Rejects everything under way with `reason` and ends the link. Idempotent. */
  fail(reason: Error): void {
    this.#settle(reason);
    this.#channel?.end(reason);
  }

  async #write(outgoing: OutgoingBlock, chunk: Uint8Array): Promise<void> {
    if (chunk.length > outgoing.bytesExpected) {
      const { peer, endpoint } = this.#options;
      const got = `${chunk.length} more bytes from rank ${endpoint.rank} to rank ${peer}, ${outgoing.describe()}`;
      throw new ConfigError('ERR_OPTION', `write: a block takes byteLength bytes, got ${got}`);
    }
    const written = outgoing.write(chunk);
    this.#pump();
    await written;
  }

  #takeCredit(header: FrameHeader): void {
    if (header.type !== 'credit') {
      throw new ProtocolError('ERR_FRAME', `send: a receiver sends only credits, got ${header.type}`);
    }
    if (this.#credits.length >= MAX_CREDITS) {
      throw new ProtocolError('ERR_FRAME', `send: a receiver may post ${MAX_CREDITS} blocks ahead, got one more`);
    }
    this.#credits.push(header.block);
    this.#pump();
  }

  /** Sends what may be sent. The only place that hands chunks to the link. */
  #pump(): void {
    if (this.#channel === undefined || this.#terms === undefined || this.#failure !== undefined) return;
    const { maxInFlight, endpoint } = this.#options;
    const limit = Math.min(endpoint.chunkBytes, this.#terms.maxPayloadBytes);
    for (const outgoing of this.#queue) {
      if (outgoing.isAllSent) continue;
      if (!outgoing.isGranted && !this.#takeGrant(outgoing)) return;
      while (this.#inFlight < maxInFlight) {
        const chunk = outgoing.nextChunk(limit);
        if (chunk === undefined) break;
        void this.#sendChunk(this.#channel, outgoing, chunk);
      }
      if (!outgoing.isAllSent) return;
    }
  }

  /** Whether the block may leave. A credit for another block ends the edge: the two ends do not run the same thing. */
  #takeGrant(outgoing: OutgoingBlock): boolean {
    const credit = this.#credits.shift();
    if (credit === undefined) return false;
    if (!isSameBlock(credit, outgoing.block)) {
      const { endpoint, peer } = this.#options;
      const expected = `rank ${peer} must receive what rank ${endpoint.rank} sends, ${describeBlock(outgoing.block)}`;
      const error = new ProtocolError('ERR_UNEXPECTED_BLOCK', `send: ${expected}, got ${describeBlock(credit)}`);
      error.peerRank = peer;
      this.fail(error);
      return false;
    }
    outgoing.isGranted = true;
    if (outgoing === this.#queue[0]) this.#watch();
    return true;
  }

  async #sendChunk(
    channel: Channel,
    outgoing: OutgoingBlock,
    chunk: { bytes: Uint8Array; byteOffset: number },
  ): Promise<void> {
    const { bytes, byteOffset } = chunk;
    this.#inFlight++;
    if (this.#inFlight === 1) this.#watch();
    this.#options.endpoint.counters.payloadBytesSent += bytes.length;
    const checksum = this.#terms?.checksum ?? false;
    try {
      await channel.send('chunk', { block: outgoing.block, byteOffset, checksum }, bytes);
    } catch {
      return; // The link closed: the channel's onEnd says why.
    }
    if (this.#failure !== undefined) return;
    this.#inFlight--;
    outgoing.acknowledge(bytes.length);
    // Chunks are through in the order in which they left, so only the head of the queue can be done.
    if (outgoing.isDone) {
      this.#queue.shift();
      outgoing.resolve();
    }
    this.#pump();
    this.#watch();
  }

  /** Restarts the clock of the head of the queue, unless it waits for nobody but this end's caller. */
  #watch(): void {
    const head = this.#queue[0];
    if (head === undefined || (head.isGranted && this.#inFlight === 0)) this.#deadline.stop();
    else this.#deadline.start(head.timeoutMs);
  }

  #expire(timeoutMs: number): void {
    const { endpoint, peer } = this.#options;
    const { rank } = endpoint;
    const what = this.#queue[0]?.isGranted ? 'take bytes' : 'post its receive';
    const message = `rank ${rank}: rank ${peer} must ${what} within timeoutMs, got nothing for ${timeoutMs} ms ${this.#describePending()}`;
    this.fail(new TransportError('ERR_TIMEOUT', message, { rank, peerRank: peer }));
  }

  #lose(error: Error): void {
    const { peer, onLost } = this.#options;
    const wasIdle = this.#queue.length === 0;
    this.#settle(error);
    if (wasIdle) onLost(peer, error);
  }

  #settle(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#deadline.stop();
    this.#credits.length = 0;
    for (const outgoing of this.#queue.splice(0)) outgoing.reject(error);
  }

  #describePending(): string {
    const head = this.#queue[0];
    return head === undefined ? 'with nothing to send' : `while sending ${head.describe()}`;
  }
}

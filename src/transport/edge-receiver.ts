// The receiving end of one directed edge in one epoch: dials the sender when the first receive is posted, grants a credit
// for every receive, and takes the chunks of the granted blocks in order. Whatever goes wrong, an abort included, fails the
// whole edge, because the stream of its blocks then has an unknown state; the transport's reset() starts a new one.
import { KvringError, ProtocolError, TransportError } from '../errors.ts';
import { describeBlock, isSameBlock } from './block.ts';
import { Channel, NO_BLOCK } from './channel.ts';
import type { Endpoint } from './channel.ts';
import { Deadline } from './deadline.ts';
import type { FrameHeader } from './frame.ts';
import type { Link } from './link.ts';
import { Transfer } from './transfer.ts';
import type { BlockDescriptor, ChunkSink, TransferOptions } from './transport.ts';

export interface EdgeReceiverOptions {
  readonly endpoint: Endpoint;
  readonly peer: number;
  /** Whether the peer must send checksums with its payloads. */
  readonly checksum: boolean;
  readonly dial: (peer: number, signal: AbortSignal) => Promise<Link>;
  /** Told when the edge fails while no receive is posted. */
  readonly onLost: (peer: number, error: Error) => void;
  /** Told of the channel, so that its end can be awaited. */
  readonly onChannel: (channel: Channel) => void;
}

interface PostedReceive {
  readonly transfer: Transfer;
  readonly sink: ChunkSink;
}

export class EdgeReceiver {
  readonly #options: EdgeReceiverOptions;
  readonly #posted: PostedReceive[] = [];
  readonly #deadline = new Deadline((timeoutMs) => this.#expire(timeoutMs));
  readonly #dialling = new AbortController();
  #hasDialled = false;
  #channel: Channel | undefined;
  #failure: Error | undefined;

  constructor(options: EdgeReceiverOptions) {
    this.#options = options;
  }

  /** Posts a receive. Resolves when the sink has had the last byte. */
  post(block: BlockDescriptor, sink: ChunkSink, options: TransferOptions): Promise<void> {
    const transfer = new Transfer(block, options, {
      aborts: this.#options.endpoint.aborts,
      onAbort: (reason) => this.fail(reason as Error),
    });
    if (this.#failure !== undefined || options.signal?.aborted) {
      transfer.reject(this.#failure ?? options.signal?.reason);
      return transfer.done;
    }
    this.#posted.push({ transfer, sink });
    if (this.#posted.length === 1) this.#deadline.start(transfer.timeoutMs);
    if (this.#channel !== undefined) this.#grant(this.#channel, block);
    else if (!this.#hasDialled) void this.#connect();
    return transfer.done;
  }

  /** Rejects everything posted with `reason` and ends the link. Idempotent. */
  fail(reason: Error): void {
    this.#settle(reason);
    this.#channel?.end(reason);
  }

  async #connect(): Promise<void> {
    const { endpoint, peer, checksum, dial, onChannel } = this.#options;
    this.#hasDialled = true;
    let link: Link;
    try {
      link = await dial(peer, this.#dialling.signal);
    } catch (error) {
      this.#settle(error instanceof KvringError ? error : connectError(endpoint.rank, peer, error));
      return;
    }
    if (this.#failure !== undefined) {
      link.terminate();
      return;
    }
    const channel = new Channel(link, endpoint, peer, {
      onFrame: (header, payload) => this.#takeChunk(header, payload),
      onEnd: (error) => this.#lose(error),
      describePending: () => this.#describePending(),
    });
    this.#channel = channel;
    onChannel(channel);
    const hello = { ...NO_BLOCK, byteLength: endpoint.chunkBytes };
    channel.send('hello', { block: hello, checksum }).catch(ignoreBecauseTheLinkReportsIt);
    for (const { transfer } of this.#posted) this.#grant(channel, transfer.block);
  }

  #grant(channel: Channel, block: BlockDescriptor): void {
    channel.send('credit', { block }).catch(ignoreBecauseTheLinkReportsIt);
  }

  #takeChunk(header: FrameHeader, payload: Uint8Array): void {
    const { endpoint, checksum } = this.#options;
    const head = this.#posted[0];
    checkChunk(header, payload.length, head?.transfer, checksum);
    if (head === undefined) return;
    const { transfer, sink } = head;
    endpoint.counters.payloadBytesReceived += payload.length;
    sink(payload, header.byteOffset);
    transfer.bytesDone += payload.length;
    if (transfer.bytesDone === transfer.block.byteLength) {
      this.#posted.shift();
      transfer.resolve();
    }
    if (this.#posted.length === 0) this.#deadline.stop();
    else this.#deadline.start(this.#posted[0].transfer.timeoutMs);
  }

  #expire(timeoutMs: number): void {
    const { endpoint, peer } = this.#options;
    const { rank } = endpoint;
    const message = `rank ${rank}: rank ${peer} must go on sending within timeoutMs, got nothing for ${timeoutMs} ms ${this.#describePending()}`;
    this.fail(new TransportError('ERR_TIMEOUT', message, { rank, peerRank: peer }));
  }

  #lose(error: Error): void {
    const { peer, onLost } = this.#options;
    const wasIdle = this.#posted.length === 0;
    this.#settle(error);
    if (wasIdle) onLost(peer, error);
  }

  #settle(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#deadline.stop();
    this.#dialling.abort();
    for (const { transfer } of this.#posted.splice(0)) transfer.reject(error);
  }

  #describePending(): string {
    const head = this.#posted[0];
    return head === undefined ? 'with no receive posted' : `while receiving ${head.transfer.describe()}`;
  }
}

function checkChunk(header: FrameHeader, length: number, expected: Transfer | undefined, checksum: boolean): void {
  const got = `${header.type} of ${describeBlock(header.block)}, byteOffset=${header.byteOffset}`;
  if (header.type !== 'chunk') throw new ProtocolError('ERR_FRAME', `receive: a sender sends only chunks, got ${got}`);
  if (expected === undefined) {
    throw new ProtocolError('ERR_UNEXPECTED_BLOCK', `receive: a block needs a posted receive, got ${got}`);
  }
  if (!isSameBlock(header.block, expected.block)) {
    const rule = `the next block must be ${describeBlock(expected.block)}`;
    throw new ProtocolError('ERR_UNEXPECTED_BLOCK', `receive: ${rule}, got ${got}`);
  }
  if (header.byteOffset !== expected.bytesDone || (length === 0 && expected.block.byteLength > 0)) {
    const rule = `the next chunk must have bytes from ${expected.bytesDone}`;
    throw new ProtocolError('ERR_FRAME', `receive: ${rule}, got ${got}, payloadBytes=${length}`);
  }
  if (checksum && !header.checksum) {
    throw new ProtocolError('ERR_FRAME', `receive: payloads of this link must carry a checksum, got none in ${got}`);
  }
}

function connectError(rank: number, peer: number, cause: unknown): TransportError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const message = `rank ${rank}: must reach rank ${peer}, got ${reason}`;
  return new TransportError('ERR_CONNECT', message, { rank, peerRank: peer }, { cause });
}

/** A send that fails means that the link closed, which the channel's onEnd reports with more to say. */
function ignoreBecauseTheLinkReportsIt(): void {}

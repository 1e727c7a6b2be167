// A link with an identity: speaks frames instead of messages, lets in only those of its peer, run and epoch, and ends once,
// for a reason that the other end is told. Knows nothing of the order of blocks.
import { ProtocolError, TransportError, observed } from '../errors.ts';
import type { AbortWatch } from './abort-watch.ts';
import type { Crc32 } from './checksum.ts';
import { decodeFrame, encodeHeader } from './frame.ts';
import type { FrameHeader, FrameType } from './frame.ts';
import { decodeGoodbye, encodeGoodbye } from './goodbye.ts';
import type { Link } from './link.ts';
import type { BlockDescriptor, TransportCounters } from './transport.ts';

/** What all channels of one end point and epoch share. */
export interface Endpoint {
  readonly rank: number;
  readonly worldSize: number;
  readonly epoch: number;
  readonly runHash: number;
  /** Largest payload that this end takes or makes, in bytes. */
  readonly chunkBytes: number;
  readonly crc32: Crc32;
  readonly counters: TransportCounters;
  readonly aborts: AbortWatch;
}

export interface ChannelHandlers {
  /** A CREDIT or CHUNK of the peer. What it throws ends the channel, and the peer is told. */
  onFrame(header: FrameHeader, payload: Uint8Array): void;
  /** Called once, when the peer, the network or a bad frame has ended the channel; not after {@link Channel.end}. */
  onEnd(error: Error): void;
  /** What was under way, for the error of a lost link. */
  describePending(): string;
}

/** The block of frames that are about none. */
export const NO_BLOCK: BlockDescriptor = { opSeq: 0, step: 0, tensor: 0, byteLength: 0, shapeHash: 0 };

/** How long an ending link may take to close in good order before it is dropped, in ms. */
const CLOSE_GRACE_MS = 1000;

export class Channel {
  readonly peer: number;
  /** Resolves when the link is gone, or has been given the time for it. */
  readonly closed: Promise<void>;
  readonly #link: Link;
  readonly #endpoint: Endpoint;
  readonly #handlers: ChannelHandlers;
  #ended = false;
  #graceTimer: ReturnType<typeof setTimeout> | undefined;
  #resolveClosed: (() => void) | undefined;

  /** Takes over `link`, which has carried at most a HELLO so far. */
  constructor(link: Link, endpoint: Endpoint, peer: number, handlers: ChannelHandlers) {
    this.peer = peer;
    this.#link = link;
    this.#endpoint = endpoint;
    this.#handlers = handlers;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    link.onClose((error) => {
      this.#lose(error);
      clearTimeout(this.#graceTimer);
      this.#resolveClosed?.();
    });
    link.onFrame((pieces) => this.#receive(pieces));
  }

  /** Resolves when the frame has been handed to the network. */
  send(
    type: FrameType,
    fields: { block?: BlockDescriptor; byteOffset?: number; checksum?: boolean },
    payload?: Uint8Array,
  ): Promise<void> {
    const { rank, epoch, runHash, worldSize, crc32, counters } = this.#endpoint;
    const { block = NO_BLOCK, byteOffset = 0, checksum = false } = fields;
    const identity = { epoch, runHash, worldSize, srcRank: rank, dstRank: this.peer };
    const header = encodeHeader({ type, ...identity, block, byteOffset, checksum }, payload, crc32);
    counters.messagesSent++;
    return this.#link.send(header, payload);
  }

  /** Ends the channel from this side; the peer is told `reason`, if there is one. Idempotent, no handler is called. */
  end(reason?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    if (reason !== undefined) void observed(this.send('goodbye', {}, encodeGoodbye(reason)));
    this.#graceTimer = setTimeout(() => {
      this.#link.terminate();
      // A browser may hold on to a dead socket for minutes; nobody should wait for that.
      this.#resolveClosed?.();
    }, CLOSE_GRACE_MS);
    this.#link.close();
  }

  #receive(pieces: readonly Uint8Array[]): void {
    if (this.#ended) return;
    const { rank, epoch, chunkBytes, crc32, counters } = this.#endpoint;
    try {
      const { header, payload } = decodeFrame(pieces, { maxPayloadBytes: chunkBytes, crc32 });
      if (header.epoch < epoch) return;
      checkIdentity(header, this.#endpoint, this.peer);
      counters.messagesReceived++;
      if (header.type === 'goodbye') {
        this.#endBecause(decodeGoodbye(payload, rank, this.peer), undefined);
      } else if (header.type === 'hello') {
        throw new ProtocolError('ERR_FRAME', `frame: HELLO must be the first frame of a link, got another one`);
      } else {
        this.#handlers.onFrame(header, payload);
      }
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      if (error instanceof ProtocolError) error.peerRank ??= this.peer;
      this.#endBecause(error, error);
    }
  }

  #lose(error: Error | undefined): void {
    if (this.#ended) return;
    if (error instanceof ProtocolError) {
      error.peerRank ??= this.peer;
      this.#endBecause(error, undefined);
      return;
    }
    const { rank } = this.#endpoint;
    const how = error === undefined ? 'closed its link' : `was lost (${error.message})`;
    const message = `rank ${rank}: rank ${this.peer} ${how} ${this.#handlers.describePending()}`;
    const where = { rank, peerRank: this.peer };
    this.#endBecause(new TransportError('ERR_PEER_LOST', message, where, { cause: error }), undefined);
  }

  #endBecause(error: Error, reasonForPeer: Error | undefined): void {
    if (this.#ended) return;
    this.end(reasonForPeer);
    this.#handlers.onEnd(error);
  }
}

/** Throws ProtocolError unless the frame is of this run and epoch, and from `peer` to this end. */
export function checkIdentity(header: FrameHeader, endpoint: Endpoint, peer: number): void {
  const { rank, worldSize, epoch, runHash } = endpoint;
  if (header.runHash !== runHash) throw identityError('ERR_RUN_ID', 'runHash', header.runHash, runHash);
  if (header.worldSize !== worldSize) throw identityError('ERR_WORLD_SIZE', 'worldSize', header.worldSize, worldSize);
  if (header.srcRank !== peer) throw identityError('ERR_RANK', 'srcRank', header.srcRank, peer);
  if (header.dstRank !== rank) throw identityError('ERR_RANK', 'dstRank', header.dstRank, rank);
  if (header.epoch !== epoch) throw identityError('ERR_EPOCH', 'epoch', header.epoch, epoch);
}

function identityError(
  code: 'ERR_RUN_ID' | 'ERR_WORLD_SIZE' | 'ERR_RANK' | 'ERR_EPOCH',
  field: string,
  got: number,
  expected: number,
): ProtocolError {
  return new ProtocolError(code, `frame: ${field} must be ${expected} on this link, got ${field}=${got}`);
}

// The Transport over links: one edge object per peer and direction, made on first use and dropped by reset(). The receiver
// of blocks dials their sender, so that payload flows from the server of a WebSocket to its client: unmasked, by reference.
import { ConfigError, ProtocolError, observed } from '../errors.ts';
import { AbortWatch } from './abort-watch.ts';
import { checkBlock } from './block.ts';
import {
  DEFAULT_CHUNK_BYTES,
  DEFAULT_HELLO_TIMEOUT_MS,
  DEFAULT_IN_FLIGHT,
  checkInteger,
  checkOptions,
} from './block-transport-options.ts';
import type { BlockTransportOptions } from './block-transport-options.ts';
import { Channel, checkIdentity } from './channel.ts';
import type { Endpoint } from './channel.ts';
import { crc32 as defaultCrc32 } from './checksum.ts';
import { EdgeReceiver } from './edge-receiver.ts';
import { EdgeSender } from './edge-sender.ts';
import type { FrameHeader } from './frame.ts';
import { receiveHello } from './handshake.ts';
import type { Link } from './link.ts';
import type {
  BlockDescriptor,
  BlockWriter,
  ChunkSink,
  TransferOptions,
  Transport,
  TransportCounters,
} from './transport.ts';

export class BlockTransport implements Transport {
  readonly rank: number;
  readonly worldSize: number;
  readonly chunkBytes: number;
  readonly #options: BlockTransportOptions;
  readonly #counters: TransportCounters = {
    payloadBytesSent: 0,
    payloadBytesReceived: 0,
    messagesSent: 0,
    messagesReceived: 0,
  };
  readonly #receivers = new Map<number, EdgeReceiver>();
  readonly #senders = new Map<number, EdgeSender>();
  /** Edges of peers that are already in a later epoch; reset() takes up those of its epoch. */
  readonly #early = new Map<number, EdgeSender>();
  readonly #channels = new Set<Channel>();
  /** Gives up on a link whose HELLO has not come. */
  readonly #strangers = new Set<(reason: Error) => void>();
  #endpoint: Endpoint;
  #closed: Promise<void> | undefined;

  /** Throws ConfigError ERR_OPTION. Opens nothing. */
  constructor(options: BlockTransportOptions) {
    const { rank, worldSize, epoch = 0, runHash, chunkBytes = DEFAULT_CHUNK_BYTES } = options;
    checkOptions(options);
    this.rank = rank;
    this.worldSize = worldSize;
    this.chunkBytes = chunkBytes;
    this.#options = options;
    const crc32 = options.crc32 ?? defaultCrc32;
    this.#endpoint = {
      rank,
      worldSize,
      epoch,
      runHash,
      chunkBytes,
      crc32,
      counters: this.#counters,
      aborts: new AbortWatch(),
    };
  }

  get counters(): Readonly<TransportCounters> {
    return this.#counters;
  }

  /** The epoch in which this end stands. */
  get epoch(): number {
    return this.#endpoint.epoch;
  }

  /**
   * Takes a link that a peer dialled in order to receive from this end. Resolves with the peer's rank once it has said who
   * it is; rejects, without harm to any other link, when it is refused. The result may be ignored.
   */
  accept(link: Link): Promise<number> {
    return observed(
      new Promise((resolve, reject) => {
        if (this.#closed !== undefined) {
          link.terminate();
          reject(closedError());
          return;
        }
        const giveUp = receiveHello(link, this.#options.helloTimeoutMs ?? DEFAULT_HELLO_TIMEOUT_MS, {
          onHello: (header) => {
            this.#strangers.delete(giveUp);
            const error = this.#admit(link, header);
            if (error === undefined) resolve(header.srcRank);
            else reject(error);
          },
          onRefuse: (error) => {
            this.#strangers.delete(giveUp);
            reject(error);
          },
        });
        this.#strangers.add(giveUp);
      }),
    );
  }

  receive(from: number, block: BlockDescriptor, sink: ChunkSink, options: TransferOptions = {}): Promise<void> {
    try {
      this.#checkCall('receive', from, block);
    } catch (error) {
      return observed(Promise.reject(error));
    }
    let edge = this.#receivers.get(from);
    if (edge === undefined) {
      edge = this.#createReceiver(from);
      this.#receivers.set(from, edge);
    }
    return edge.post(block, sink, options);
  }

  send(to: number, block: BlockDescriptor, options: TransferOptions = {}): BlockWriter {
    this.#checkCall('send', to, block);
    let edge = this.#senders.get(to);
    if (edge === undefined) {
      edge = this.#createSender(to, this.#endpoint);
      this.#senders.set(to, edge);
    }
    return edge.send(block, options);
  }

  reset(epoch: number, reason: Error): void {
    checkInteger('reset', 'epoch', epoch, this.epoch + 1, 0xffffffff);
    this.#failEdges(reason);
    this.#endpoint = { ...this.#endpoint, epoch };
    for (const [peer, edge] of this.#early) {
      if (edge.epoch > epoch) continue;
      this.#early.delete(peer);
      if (edge.epoch < epoch) edge.fail(reason);
      else if (edge.failure === undefined) this.#senders.set(peer, edge);
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const reason = closedError();
    for (const giveUp of this.#strangers) giveUp(reason);
    this.#failEdges(reason);
    for (const edge of this.#early.values()) edge.fail(reason);
    this.#early.clear();
    await Promise.all([...this.#channels].map((channel) => channel.closed));
  }

  #failEdges(reason: Error): void {
    for (const edge of [...this.#receivers.values(), ...this.#senders.values()]) edge.fail(reason);
    this.#receivers.clear();
    this.#senders.clear();
  }

  /** Gives the link to the edge of its peer, or tells the peer why not and returns that error. */
  #admit(link: Link, header: FrameHeader): ProtocolError | undefined {
    const peer = header.srcRank;
    const endpoint = { ...this.#endpoint, epoch: Math.max(header.epoch, this.epoch) };
    try {
      checkPeer(peer, this.rank, this.worldSize);
      checkIdentity(header, endpoint, peer);
      checkTerms(header.block.byteLength);
      const edge = this.#senderFor(peer, endpoint);
      if (edge.isAttached) {
        const got = `another one of epoch ${header.epoch}`;
        throw new ProtocolError(
          'ERR_RANK',
          `accept: rank ${peer} may have one link with rank ${this.rank}, got ${got}`,
        );
      }
      const terms = { maxPayloadBytes: header.block.byteLength, checksum: header.checksum };
      this.#track(edge.attach(link, terms));
      return undefined;
    } catch (thrown) {
      const error = thrown as ProtocolError;
      this.#track(new Channel(link, endpoint, peer, REFUSED)).end(error);
      return error;
    }
  }

  #senderFor(peer: number, endpoint: Endpoint): EdgeSender {
    const edges = endpoint.epoch > this.epoch ? this.#early : this.#senders;
    const edge = edges.get(peer);
    if (edge !== undefined && edge.epoch >= endpoint.epoch) return edge;
    edge?.fail(new ProtocolError('ERR_EPOCH', `accept: rank ${peer} came back in epoch ${endpoint.epoch}`));
    const created = this.#createSender(peer, endpoint);
    edges.set(peer, created);
    return created;
  }

  #createReceiver(peer: number): EdgeReceiver {
    const { dial, checksum = false } = this.#options;
    return new EdgeReceiver({
      endpoint: this.#endpoint,
      peer,
      checksum: typeof checksum === 'function' ? checksum(peer) : checksum,
      dial,
      onLost: (rank, error) => this.#options.onPeerLost?.(rank, error),
      onChannel: (channel) => this.#track(channel),
    });
  }

  #createSender(peer: number, endpoint: Endpoint): EdgeSender {
    return new EdgeSender({
      endpoint,
      peer,
      maxInFlight: this.#options.maxInFlight ?? DEFAULT_IN_FLIGHT,
      onLost: (rank, error) => this.#options.onPeerLost?.(rank, error),
    });
  }

  #track(channel: Channel): Channel {
    this.#channels.add(channel);
    void channel.closed.then(() => this.#channels.delete(channel));
    return channel;
  }

  #checkCall(where: string, peer: number, block: BlockDescriptor): void {
    if (this.#closed !== undefined) throw closedError();
    checkInteger(where, 'peer', peer, 0, this.worldSize);
    if (peer === this.rank) {
      throw new ConfigError('ERR_OPTION', `${where}: a rank has no edge to itself, got rank=${peer}`);
    }
    checkBlock(where, block);
  }
}

/** Handlers of a link that is only told why it is refused. */
const REFUSED = { onFrame: () => undefined, onEnd: () => undefined, describePending: () => '' };

function checkPeer(peer: number, rank: number, worldSize: number): void {
  if (peer > worldSize || peer === rank) {
    throw new ProtocolError(
      'ERR_RANK',
      `accept: srcRank must be another end, at most ${worldSize}, got srcRank=${peer}`,
    );
  }
}

/** A receiver that takes no bytes at all would keep its sender busy for ever. */
function checkTerms(maxPayloadBytes: number): void {
  if (maxPayloadBytes < 1) {
    throw new ProtocolError('ERR_FRAME', `accept: a receiver takes payloads of 1 byte or more, got ${maxPayloadBytes}`);
  }
}

function closedError(): ConfigError {
  return new ConfigError(
    'ERR_CLOSED',
    'BlockTransport: must not be used after close(), got a call or a transfer under way',
  );
}

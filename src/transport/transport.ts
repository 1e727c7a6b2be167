// Bytes between two ranks. A Transport moves blocks (byte strings of an agreed length) over directed edges, in chunks.
// A receive is posted first and grants the sender one block (a credit), so memory on both sides is bounded by what
// receivers have posted. Knows no tensors and no GPU.
import { observed } from '../errors.ts';

/** Names one block; sender and receiver must agree on every field. */
export interface BlockDescriptor {
  /** Counts the collective operations of an epoch. */
  readonly opSeq: number;
  /** The ring step, or any other number below 65536 that tells blocks of one operation apart. */
  readonly step: number;
  /** What the bytes are, 0 to 255; see the constants where they are used. */
  readonly tensor: number;
  readonly byteLength: number;
  /** A hash of the shapes and options of the operation: ranks that run different things find out at once. */
  readonly shapeHash: number;
}

/** Takes the chunks of a block, in order; `chunk` may be kept (for example to forward it), but not changed. */
export type ChunkSink = (chunk: Uint8Array, byteOffset: number) => void;

export interface TransferOptions {
  signal?: AbortSignal | undefined;
  /** Longest wait for the next sign of progress of this block, in ms; rejects with ERR_TIMEOUT. Default: no limit. */
  timeoutMs?: number | undefined;
}

/** The sending end of one block. */
export interface BlockWriter {
  /**
   * Queues the next bytes of the block, which leave once the receiver has posted its receive. Resolves when they have
   * been handed to the network: until then the caller must not change them.
   */
  write(chunk: Uint8Array): Promise<void>;
  /** Resolves when all byteLength bytes have been handed to the network. */
  readonly done: Promise<void>;
}

/** Everything a transport has moved since it was made. Payload bytes are those of blocks, without headers. */
export interface TransportCounters {
  payloadBytesSent: number;
  payloadBytesReceived: number;
  /** Frames sent, of every type. */
  messagesSent: number;
  messagesReceived: number;
}

export interface Transport {
  /** This end: a rank number, or the driver's, which is worldSize. */
  readonly rank: number;
  /** The number of ranks. The engine's driver is one more end point, numbered worldSize. */
  readonly worldSize: number;
  /** Largest payload of one frame, in bytes. */
  readonly chunkBytes: number;
  readonly counters: Readonly<TransportCounters>;

  /**
   * Posts a receive, which grants `from` the right to send exactly this block. Receives of one edge complete in the
   * order in which they were posted. Resolves when every byte has been given to `sink`.
   * Rejects with ProtocolError when the peer sends another block, TransportError when it is lost or too slow.
   */
  receive(from: number, block: BlockDescriptor, sink: ChunkSink, options?: TransferOptions): Promise<void>;

  /** Starts sending a block. Blocks of one edge leave in the order of these calls. */
  send(to: number, block: BlockDescriptor, options?: TransferOptions): BlockWriter;

  /** Drops every link, rejects everything under way with `reason`, and starts epoch `epoch` with no state left over. */
  reset(epoch: number, reason: Error): void;

  /** Idempotent. Rejects everything under way and leaves no handle behind. */
  close(): Promise<void>;
}

/** Writes a whole block that lies in memory, chunk by chunk. Resolves when it has been handed to the network. */
export async function writeBlock(writer: BlockWriter, bytes: Uint8Array, chunkBytes: number): Promise<void> {
  for (let offset = 0; offset < bytes.length; offset += chunkBytes) {
    observed(writer.write(bytes.subarray(offset, offset + chunkBytes)));
  }
  await writer.done;
}

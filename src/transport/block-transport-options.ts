// What a block transport is told at its start, and the limits of that.
import { ConfigError } from '../errors.ts';
import type { Crc32 } from './checksum.ts';
import type { Link } from './link.ts';

/** 2 MiB: large enough that the cost of a message vanishes, small enough to be forwarded while the block still arrives. */
export const DEFAULT_CHUNK_BYTES = 2 * 1024 * 1024;

export interface BlockTransportOptions {
  /** This end: a rank, or worldSize for the driver. */
  rank: number;
  /** Number of ranks, 1 to 65534. */
  worldSize: number;
  /** Generation of the ring, a u32. Default 0. */
  epoch?: number | undefined;
  /** A u32 that all ends of a run share; see hashText. */
  runHash: number;
  /** Opens a link to `peer`, whose transport must accept() the other end. Aborted when the link is no longer wanted. */
  dial: (peer: number, signal: AbortSignal) => Promise<Link>;
  /** Largest payload of one frame, in bytes, 1 to 2^31 − 1. Default 2 MiB. Ends may differ: the smaller one holds. */
  chunkBytes?: number | undefined;
  /** Chunks on their way to the network at once, per edge, at least 1. Default 3. */
  maxInFlight?: number | undefined;
  /** Whether blocks that this end receives from a peer must carry checksums. Default false. */
  checksum?: boolean | ((peer: number) => boolean) | undefined;
  /** Checksum of payloads. Default: the one in JavaScript. */
  crc32?: Crc32 | undefined;
  /** How long an accepted link may take to say HELLO, in ms. Default 5000. */
  helloTimeoutMs?: number | undefined;
  /** Told when a peer goes while nothing is under way on that edge; what is under way is rejected instead. */
  onPeerLost?: ((peerRank: number, error: Error) => void) | undefined;
}

/** Chunks on their way to the network at once, per edge: the next is there when one is through. */
export const DEFAULT_IN_FLIGHT = 3;
export const DEFAULT_HELLO_TIMEOUT_MS = 5000;

/** Throws ConfigError ERR_OPTION when an option is out of range. */
export function checkOptions(options: BlockTransportOptions): void {
  const { rank, worldSize, epoch = 0, runHash, chunkBytes = DEFAULT_CHUNK_BYTES } = options;
  checkInteger('BlockTransport', 'worldSize', worldSize, 1, 65534);
  checkInteger('BlockTransport', 'rank', rank, 0, worldSize);
  checkInteger('BlockTransport', 'epoch', epoch, 0, 0xffffffff);
  checkInteger('BlockTransport', 'runHash', runHash, 0, 0xffffffff);
  checkInteger('BlockTransport', 'chunkBytes', chunkBytes, 1, 0x7fffffff);
  checkInteger('BlockTransport', 'maxInFlight', options.maxInFlight ?? DEFAULT_IN_FLIGHT, 1, 64);
}

/** Throws ConfigError ERR_OPTION unless `value` is an integer from `min` to `max`. */
export function checkInteger(where: string, name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new ConfigError(
      'ERR_OPTION',
      `${where}: ${name} must be an integer in [${min}, ${max}], got ${name}=${value}`,
    );
  }
}

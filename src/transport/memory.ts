// A network within one process: transports whose links are pairs of queues. The same edges, frames, credits and
// backpressure as over sockets, so that a whole ring runs in a test, or on a machine with one adapter, without a port.
import { TransportError } from '../errors.ts';
import { BlockTransport } from './block-transport.ts';
import type { BlockTransportOptions } from './block-transport-options.ts';
import { createLinkPair } from './memory-link.ts';

export interface MemoryNetworkOptions extends Omit<
  Partial<BlockTransportOptions>,
  'rank' | 'worldSize' | 'dial' | 'onPeerLost'
> {
  /** Also makes the driver's end, numbered worldSize. Default false. */
  driver?: boolean | undefined;
  /**
   * Whether the receiver gets bytes of its own, as it does from a socket. With false it gets the very memory that was
   * written, which the writer must then never change again. Default true.
   */
  copy?: boolean | undefined;
  onPeerLost?: ((rank: number, peerRank: number, error: Error) => void) | undefined;
}

/** One transport for each rank, in order; the driver's, if wanted, comes last. Closing them is the caller's. */
export function createMemoryNetwork(worldSize: number, options: MemoryNetworkOptions = {}): BlockTransport[] {
  const { driver = false, copy = true, onPeerLost, runHash = 0, ...rest } = options;
  const transports: BlockTransport[] = [];
  const dial = async (rank: number, peer: number) => {
    const target = transports[peer];
    if (target === undefined) {
      const message = `dial: the network has no end ${peer}, got worldSize=${worldSize}, driver=${driver}`;
      throw new TransportError('ERR_CONNECT', message, { rank, peerRank: peer });
    }
    const [near, far] = createLinkPair({ copy });
    void target.accept(far);
    return near;
  };
  for (let rank = 0; rank < worldSize + (driver ? 1 : 0); rank++) {
    transports.push(
      new BlockTransport({
        ...rest,
        rank,
        worldSize,
        runHash,
        dial: (peer) => dial(rank, peer),
        onPeerLost: (peerRank, error) => onPeerLost?.(rank, peerRank, error),
      }),
    );
  }
  return transports;
}

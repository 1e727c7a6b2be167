// Networks of block transports for tests: one shape, whatever carries the links.
import { createMemoryNetwork } from '../../src/transport/memory.ts';
import type { BlockTransport } from '../../src/transport/block-transport.ts';
import { acceptEdge, createNodeTransport } from '../../src/node/node-transport.ts';
import { listen } from '../../src/node/websocket-server.ts';
import type { Listener } from '../../src/node/websocket-server.ts';

export interface NetworkOptions {
  chunkBytes?: number;
  checksum?: boolean;
  helloTimeoutMs?: number;
  onPeerLost?: (rank: number, peerRank: number, error: Error) => void;
}

export interface Network {
  readonly transports: BlockTransport[];
  close(): Promise<void>;
}

export type MakeNetwork = (worldSize: number, options?: NetworkOptions) => Promise<Network>;

export const TEST_TOKEN = 'correct horse';
export const TEST_RUN_HASH = 0x12345678;

/** Ranks and the driver in one process, over queues. */
export async function makeMemoryNetwork(worldSize: number, options: NetworkOptions = {}): Promise<Network> {
  const transports = createMemoryNetwork(worldSize, { ...options, driver: true, runHash: TEST_RUN_HASH });
  return { transports, close: async () => void (await Promise.all(transports.map((transport) => transport.close()))) };
}

export interface SocketNetwork extends Network {
  readonly servers: Listener[];
}

/** Ranks and the driver in one process, each with a server of its own on loopback. `route` may put a proxy before a rank. */
export async function makeSocketNetwork(
  worldSize: number,
  options: NetworkOptions = {},
  route: (rank: number, url: string) => string = (_rank, url) => url,
): Promise<SocketNetwork> {
  const { onPeerLost, ...rest } = options;
  const transports: BlockTransport[] = [];
  const servers: Listener[] = [];
  for (let rank = 0; rank <= worldSize; rank++) {
    const transport = createNodeTransport({
      ...rest,
      rank,
      worldSize,
      runHash: TEST_RUN_HASH,
      token: TEST_TOKEN,
      peerUrl: (peer) => route(peer, servers[peer].url),
      onPeerLost: (peerRank, error) => onPeerLost?.(rank, peerRank, error),
    });
    transports.push(transport);
    servers.push(await listen({ token: TEST_TOKEN, routes: { '/edge': (socket) => acceptEdge(transport, socket) } }));
  }
  const close = async (): Promise<void> => {
    await Promise.all(transports.map((transport) => transport.close()));
    await Promise.all(servers.map((server) => server.close()));
  };
  return { transports, servers, close };
}

// A rank that is a Node process: its adapter, its listening socket, its control connection, its transport. Everything
// that joins one platform-neutral part to another for a rank, and nothing else.
import { createSocket } from 'node:dgram';
import type { WebSocket } from 'ws';
import { Member, type MemberEvents } from '../cluster/member.ts';
import { TransportError } from '../errors.ts';
import type { Gpu } from '../gpu/device.ts';
import type { BlockTransport } from '../transport/block-transport.ts';
import { hashText } from '../transport/checksum.ts';
import { openGpu } from './adapter.ts';
import { webSocketChannel } from './control-websocket.ts';
import { CONTROL_PATH } from './coordinator-host.ts';
import { throttleGpuPolling } from './gpu-polling.ts';
import { readPem, readTls } from './link-security.ts';
import { EDGE_PATH, acceptEdge, createNodeTransport } from './node-transport.ts';
import type { RankEnvironment } from './rank-environment.ts';
import { dialWebSocket } from './websocket-client.ts';
import { listen } from './websocket-server.ts';

export interface RankNode {
  rank: number;
  worldSize: number;
  gpu: Gpu;
  /** For people: the adapter's name. */
  label: string;
  member: Member;
  transport: BlockTransport;
  /** Leaves the run and frees everything. Idempotent. */
  close(): Promise<void>;
}

export interface RankNodeOptions {
  environment: RankEnvironment;
  /** What all ranks must have in common; compared byte by byte. */
  agreement: string;
  events?: MemberEvents;
  /** How long to try to reach the coordinator and wait for the others, in ms; default 120 000. */
  joinTimeoutMs?: number | undefined;
}

const RETRY_MS = 200;

/** Opens the adapter, joins the run and waits for all other ranks. */
export async function startRankNode(options: RankNodeOptions): Promise<RankNode> {
  const { environment, agreement, events = {}, joinTimeoutMs = 120_000 } = options;
  const { token, runId, worldSize } = environment;
  // This process is ours: nobody else's timing depends on setImmediate.
  const restorePolling = throttleGpuPolling();
  const signal = AbortSignal.timeout(joinTimeoutMs);
  const ca = environment.tlsCa === undefined ? undefined : await readPem(environment.tlsCa);
  const [{ gpu }, control] = await Promise.all([
    openGpu({ adapter: environment.adapter }),
    dialCoordinator(environment, ca, signal),
  ]);

  // Successors may dial before this rank has been welcomed. Paused: nothing is lost before there is somebody to listen.
  const early: WebSocket[] = [];
  let acceptSocket = (socket: WebSocket): void => {
    socket.pause();
    early.push(socket);
  };
  let resetTransport = (_epoch: number, _reason: Error): void => undefined;
  const listener = await listen({
    host: await localAddress(environment.masterAddress, environment.masterPort),
    token,
    insecure: environment.insecure,
    tls: await readTls(environment),
    routes: { [EDGE_PATH]: (socket) => acceptSocket(socket) },
  });
  const member = await Member.join(
    webSocketChannel(control),
    { runId, rank: environment.rank, worldSize, agreement, url: listener.url, label: gpu.adapter.name },
    {
      ...events,
      onAbort(error, epoch) {
        resetTransport(epoch, error);
        events.onAbort?.(error, epoch);
      },
    },
    signal,
  );
  const { urls } = member.welcome;
  const transport = createNodeTransport({
    rank: member.rank,
    worldSize,
    epoch: member.epoch,
    runHash: hashText(runId),
    token,
    peerUrl: (peer) => urls[peer] || undefined,
    chunkBytes: environment.chunkBytes,
    checksum: environment.checksum,
    ca,
  });
  resetTransport = (newEpoch, reason) => transport.reset(newEpoch, reason);
  acceptSocket = (socket) => acceptEdge(transport, socket);
  for (const socket of early) {
    acceptSocket(socket);
    socket.resume();
  }
  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    member.leave();
    await transport.close();
    await listener.close();
    gpu.close();
    restorePolling();
  };
  return {
    rank: member.rank,
    worldSize,
    gpu,
    label: gpu.adapter.name,
    member,
    transport,
    close: () => (closed ??= close()),
  };
}

/** Tries until the coordinator is up: ranks of other machines may start before it. A refusal is final. */
async function dialCoordinator(
  { masterAddress, masterPort, token, tlsCert, tlsCa }: RankEnvironment,
  ca: Buffer | undefined,
  signal: AbortSignal,
): Promise<WebSocket> {
  const scheme = tlsCert !== undefined || tlsCa !== undefined ? 'wss' : 'ws';
  const host = masterAddress.includes(':') ? `[${masterAddress}]` : masterAddress;
  const url = `${scheme}://${host}:${masterPort}`;
  for (;;) {
    try {
      return await dialWebSocket(url, { token, path: CONTROL_PATH, signal, ca });
    } catch (error) {
      if (signal.aborted)
        throw new TransportError('ERR_TIMEOUT', `rendezvous: no coordinator answers at ${url}`, {}, { cause: error });
      if (!(error instanceof TransportError) || error.code !== 'ERR_CONNECT') throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** This machine's address on the way to the coordinator: where other ranks can reach this one. No packet is sent. */
async function localAddress(masterAddress: string, masterPort: number): Promise<string> {
  const socket = createSocket(masterAddress.includes(':') ? 'udp6' : 'udp4');
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.connect(masterPort, masterAddress, resolve);
    });
    return socket.address().address;
  } finally {
    socket.close();
  }
}

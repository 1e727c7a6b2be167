// One process of `bench transport`: the sender or the receiver of an edge. Runs what its parent asks for over the IPC
// channel, one block at a time, over the real transport or over a raw socket, and reports time and CPU.
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { acceptEdge, createNodeTransport } from '../src/node/node-transport.ts';
import { listen } from '../src/node/websocket-server.ts';
import type { BlockTransport } from '../src/transport/block-transport.ts';
import { writeBlock } from '../src/transport/transport.ts';
import type { BlockDescriptor } from '../src/transport/transport.ts';

/** What carries a block. */
export type Path = 'raw-socket' | 'websocket' | 'websocket+checksum';

export interface PeerSettings {
  role: 'sender' | 'receiver';
  token: string;
  chunkBytes: number;
  timeoutMs: number | undefined;
  /** Ports of the sender by path, for the receiver. */
  ports: Record<Path, number> | undefined;
}

export interface PeerRequest {
  path: Path;
  bytes: number;
  opSeq: number;
  /** Compare what arrived with what was sent; such a run is not timed. */
  verify: boolean;
}

export type PeerReport =
  | { ready: Record<Path, number> | undefined }
  | { done: { timeMs: number; cpuMs: number; wrong: number } }
  | { failed: string };

/** Chunks on their way to the kernel at once, as in the transport. */
const IN_FLIGHT = 3;
const SENDER = 0;
const RECEIVER = 1;

/** Moves one whole block; as the receiver it copies every chunk into `block`. */
type Move = (block: Uint8Array, opSeq: number) => Promise<void>;

/** Bytes that repeat only every 251 × 256 places: a chunk that is missing, late or in the wrong place shows. */
function fillPattern(block: Uint8Array, seed: number): void {
  for (let i = 0; i < block.length; i++) block[i] = (i % 251) ^ ((i >>> 8) + seed);
}

function describeBlock(block: Uint8Array, opSeq: number): BlockDescriptor {
  return { opSeq, step: 0, tensor: 0, byteLength: block.length, shapeHash: 0 };
}

async function openSender(settings: PeerSettings): Promise<{ moves: Record<Path, Move>; ports: Record<Path, number> }> {
  const openTransport = async (): Promise<{ move: Move; port: number }> => {
    const transport = createTransport(settings, SENDER, () => undefined);
    const { port } = await listen({
      token: settings.token,
      routes: { '/edge': (socket) => acceptEdge(transport, socket) },
      maxMessageBytes: settings.chunkBytes + 1088,
    });
    const move: Move = (block, opSeq) => {
      const writer = transport.send(RECEIVER, describeBlock(block, opSeq), { timeoutMs: settings.timeoutMs });
      return writeBlock(writer, block, settings.chunkBytes);
    };
    return { move, port };
  };
  const [raw, plain, checked] = [
    await openRawSender(settings.chunkBytes),
    await openTransport(),
    await openTransport(),
  ];
  return {
    moves: { 'raw-socket': raw.move, websocket: plain.move, 'websocket+checksum': checked.move },
    ports: { 'raw-socket': raw.port, websocket: plain.port, 'websocket+checksum': checked.port },
  };
}

/** A server whose one client asks for a block with one byte, which is the raw socket's credit. */
async function openRawSender(chunkBytes: number): Promise<{ move: Move; port: number }> {
  let arrived: (socket: Socket) => void;
  const client = new Promise<Socket>((resolve) => (arrived = resolve));
  const server = createServer({ noDelay: true }, (socket) => arrived(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const move: Move = async (block) => {
    const socket = await client;
    await new Promise<void>((resolve) => socket.once('data', () => resolve()));
    const inFlight: Promise<void>[] = [];
    for (let offset = 0; offset < block.length; offset += chunkBytes) {
      if (inFlight.length === IN_FLIGHT) await inFlight.shift();
      const chunk = block.subarray(offset, offset + chunkBytes);
      inFlight.push(new Promise((resolve) => socket.write(chunk, () => resolve())));
    }
    await Promise.all(inFlight);
  };
  return { move, port: (server.address() as AddressInfo).port };
}

async function openReceiver(settings: PeerSettings, ports: Record<Path, number>): Promise<Record<Path, Move>> {
  const openTransport = (path: Path): Move => {
    const transport = createTransport(settings, RECEIVER, () => `ws://127.0.0.1:${ports[path]}`, path !== 'websocket');
    return (block, opSeq) => {
      const takeChunk = (chunk: Uint8Array, byteOffset: number): void => block.set(chunk, byteOffset);
      return transport.receive(SENDER, describeBlock(block, opSeq), takeChunk, { timeoutMs: settings.timeoutMs });
    };
  };
  const socket = connect({ port: ports['raw-socket'], host: '127.0.0.1', noDelay: true });
  return {
    'raw-socket': (block) => receiveRaw(socket, block),
    websocket: openTransport('websocket'),
    'websocket+checksum': openTransport('websocket+checksum'),
  };
}

function receiveRaw(socket: Socket, block: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    let received = 0;
    const takeBytes = (bytes: Buffer): void => {
      block.set(bytes, received);
      received += bytes.length;
      if (received < block.length) return;
      socket.off('data', takeBytes);
      resolve();
    };
    socket.on('data', takeBytes);
    socket.write(Uint8Array.of(1));
  });
}

function createTransport(
  { token, chunkBytes }: PeerSettings,
  rank: number,
  peerUrl: () => string | undefined,
  checksum = false,
): BlockTransport {
  return createNodeTransport({ rank, worldSize: 2, runHash: 0, token, peerUrl, chunkBytes, checksum });
}

function countWrong(block: Uint8Array, seed: number): number {
  const expected = new Uint8Array(block.length);
  fillPattern(expected, seed);
  let wrong = 0;
  for (let i = 0; i < block.length; i++) if (block[i] !== expected[i]) wrong++;
  return wrong;
}

async function serve(settings: PeerSettings): Promise<void> {
  const isSender = settings.role === 'sender';
  let moves: Record<Path, Move>;
  let ports: Record<Path, number> | undefined;
  if (settings.ports === undefined) ({ moves, ports } = await openSender(settings));
  else moves = await openReceiver(settings, settings.ports);
  let block = new Uint8Array(0);
  const run = async ({ path, bytes, opSeq, verify }: PeerRequest): Promise<PeerReport> => {
    const isNew = block.length !== bytes;
    if (isNew) block = new Uint8Array(bytes);
    if (isSender && (isNew || verify)) fillPattern(block, opSeq);
    if (!isSender && verify) block.fill(0);
    const cpuBefore = process.cpuUsage();
    const started = performance.now();
    await moves[path](block, opSeq);
    const timeMs = performance.now() - started;
    const cpu = process.cpuUsage(cpuBefore);
    const wrong = !isSender && verify ? countWrong(block, opSeq) : 0;
    return { done: { timeMs, cpuMs: (cpu.user + cpu.system) / 1000, wrong } };
  };
  process.on('message', (request: PeerRequest) => {
    run(request).then(report, (error: unknown) => report({ failed: (error as Error).message }));
  });
  report({ ready: ports });
}

function report(message: PeerReport): void {
  process.send?.(message);
}

process.once('disconnect', () => process.exit());
await serve(JSON.parse(process.argv[2]) as PeerSettings);

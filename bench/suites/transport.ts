// `bench transport`: blocks from one process to another over loopback, the real transport interleaved with a raw socket in
// the same rounds, so that the ratio holds on a noisy machine. Both receivers copy into one block that exists already.
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { TransportError } from '../../src/errors.ts';
import { DEFAULT_CHUNK_BYTES } from '../../src/transport/block-transport-options.ts';
import { gigabytesPerSecond, nearestRank, summarize } from '../metrics.ts';
import type { SuiteContext, TransportRow } from '../suite.ts';
import type { Path, PeerReport, PeerRequest, PeerSettings } from '../transport-peer.ts';

export interface TransportBenchOptions {
  /** Sizes of a block, in bytes. */
  bytes: number[];
  /** Largest payload of one frame, in bytes. Default: the transport's, 2 MiB. */
  chunkBytes?: number | undefined;
}

interface Sample {
  timeMs: number;
  senderCpuMs: number;
  receiverCpuMs: number;
  wrong: number;
}

const GIB = 1024 ** 3;
/** Moved over each connection first: TCP's window grows with use, and the links of a ring live long. In bytes. */
const RAMP_BYTES = 64 * 1024 * 1024;

/** Yields a row per size for the raw socket, and for the transport without and with checksum, or the one asked for. */
export async function* benchTransport(
  options: TransportBenchOptions,
  context: SuiteContext,
): AsyncGenerator<TransportRow> {
  const { bytes: sizes, chunkBytes = DEFAULT_CHUNK_BYTES } = options;
  const paths = choosePaths(context.checksum);
  const edge = await startEdge(chunkBytes, context);
  try {
    let opSeq = 0;
    for (const path of paths) await edge.run({ path, bytes: RAMP_BYTES, opSeq: ++opSeq, verify: false });
    for (const bytes of sizes) {
      const samples = new Map<Path, Sample[]>(paths.map((path) => [path, []]));
      const wrong = new Map<Path, number>();
      for (const path of context.check ? paths : []) {
        wrong.set(path, (await edge.run({ path, bytes, opSeq: ++opSeq, verify: true })).wrong);
      }
      for (let round = -context.warmup; round < context.iters; round++) {
        context.progress(`transport: ${bytes} bytes, round ${round + 1} of ${context.iters}`);
        for (const path of paths) {
          const sample = await edge.run({ path, bytes, opSeq: ++opSeq, verify: false });
          if (round >= 0) samples.get(path)?.push(sample);
        }
      }
      for (const path of paths) {
        yield createRow({ path, bytes, chunkBytes, wrong: wrong.get(path) ?? null }, samples);
      }
    }
  } finally {
    edge.close();
  }
}

function choosePaths(checksum: boolean | undefined): Path[] {
  if (checksum === undefined) return ['raw-socket', 'websocket', 'websocket+checksum'];
  return ['raw-socket', checksum ? 'websocket+checksum' : 'websocket'];
}

interface Edge {
  /** Moves one block and waits until both processes have reported. */
  run(request: PeerRequest): Promise<Sample>;
  close(): void;
}

async function startEdge(chunkBytes: number, { timeoutMs, signal }: SuiteContext): Promise<Edge> {
  signal.throwIfAborted();
  const children: ChildProcess[] = [];
  const close = (): void => {
    signal.removeEventListener('abort', close);
    for (const child of children) child.kill();
  };
  signal.addEventListener('abort', close, { once: true });
  const settings = { token: randomBytes(32).toString('base64url'), chunkBytes, timeoutMs };
  const start = async (role: PeerSettings['role'], ports: PeerSettings['ports']) => {
    const child = startPeer({ ...settings, role, ports });
    children.push(child);
    const ready = await nextReport(child);
    return { child, ports: 'ready' in ready ? ready.ready : undefined };
  };
  try {
    const sender = await start('sender', undefined);
    const receiver = await start('receiver', sender.ports);
    const run = async (request: PeerRequest): Promise<Sample> => {
      const reports = Promise.all([nextReport(sender.child), nextReport(receiver.child)]);
      sender.child.send(request);
      receiver.child.send(request);
      const [sent, received] = (await reports).map(takeDone);
      const { timeMs, wrong } = received;
      return { timeMs, wrong, senderCpuMs: sent.cpuMs, receiverCpuMs: received.cpuMs };
    };
    return { run, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The script beside this suite, as TypeScript or as built; it needs whatever loader this process was started with. */
function startPeer(settings: PeerSettings): ChildProcess {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const script = fileURLToPath(new URL(`../transport-peer.${extension}`, import.meta.url));
  return fork(script, [JSON.stringify(settings)], {
    execPath: process.execPath,
    execArgv: process.execArgv,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
}

async function nextReport(child: ChildProcess): Promise<PeerReport> {
  const controller = new AbortController();
  const { signal } = controller;
  try {
    return await Promise.race([
      once(child, 'message', { signal }).then(([message]) => message as PeerReport),
      once(child, 'exit', { signal }).then(([code]) => {
        throw new TransportError('ERR_PEER_LOST', `bench transport: a process must not end, got exit code=${code}`);
      }),
    ]);
  } finally {
    controller.abort();
  }
}

function takeDone(report: PeerReport): { timeMs: number; cpuMs: number; wrong: number } {
  if ('done' in report) return report.done;
  const reason = 'failed' in report ? report.failed : 'no result';
  throw new TransportError('ERR_PEER_LOST', `bench transport: every block must arrive, got ${reason}`);
}

function createRow(
  { path, bytes, chunkBytes, wrong }: { path: Path; bytes: number; chunkBytes: number; wrong: number | null },
  samples: ReadonlyMap<Path, Sample[]>,
): TransportRow {
  const own = samples.get(path) ?? [];
  const raw = samples.get('raw-socket') ?? [];
  const timeMs = summarize(own.map((sample) => sample.timeMs));
  const ratios = own.map((sample, round) => raw[round].timeMs / sample.timeMs).toSorted((a, b) => a - b);
  const cpuSecondsPerGiB = (cpuMs: (sample: Sample) => number): number =>
    own.reduce((sum, sample) => sum + cpuMs(sample), 0) / 1000 / own.length / (bytes / GIB);
  return {
    suite: 'transport',
    transport: path === 'raw-socket' ? 'raw-socket' : 'websocket',
    bytes,
    chunkBytes,
    checksum: path === 'websocket+checksum',
    timeMs,
    bandwidthGBps: gigabytesPerSecond(bytes, timeMs.p50),
    senderCpuSecondsPerGiB: cpuSecondsPerGiB(({ senderCpuMs }) => senderCpuMs),
    receiverCpuSecondsPerGiB: cpuSecondsPerGiB(({ receiverCpuMs }) => receiverCpuMs),
    ratioToRawSocket: path === 'raw-socket' ? null : nearestRank(ratios, 50),
    wrong,
  };
}

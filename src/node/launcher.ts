// `kvring launch`: one process per rank, as torchrun does it. Machine 0 also runs the coordinator. The first process
// that fails ends them all, and is named last.
import { randomBytes } from 'node:crypto';
import { ConfigError } from '../errors.ts';
import { type CoordinatorHost, hostCoordinator } from './coordinator-host.ts';
import { type LineSplitter, createLineSplitter } from './lines.ts';
import { encodeRankEnvironment } from './rank-environment.ts';
import { type RankExit, RankProcesses } from './rank-processes.ts';

export interface LaunchOptions {
  /** A script for Node (.js, .mjs, .cjs, .ts, .mts) or a program, and its arguments. */
  command: readonly string[];
  nprocPerNode: number;
  /** Default 1. */
  nnodes?: number | undefined;
  /** Which machine this is, from 0; default 0. */
  nodeRank?: number | undefined;
  /** host:port where machine 0 listens; needed with several machines. */
  rdzvEndpoint?: string | undefined;
  rdzvId?: string | undefined;
  /** Allows plain ws:// off this host. */
  insecure?: boolean | undefined;
  /** PEM files. */
  tlsCert?: string | undefined;
  tlsKey?: string | undefined;
  tlsCa?: string | undefined;
  adapter?: string | undefined;
  signal: AbortSignal;
  stdout: { write(text: string): unknown };
  stderr: { write(text: string): unknown };
}

/**
 * Runs the command once per rank and resolves when all have ended: with exit code 0, or that of the rank that failed
 * first. Rejects with ConfigError before anything is started when the options do not fit together.
 */
export async function launch(options: LaunchOptions): Promise<{ exitCode: number }> {
  const { nprocPerNode, nnodes = 1, nodeRank = 0, signal, stdout, stderr } = options;
  const worldSize = nnodes * nprocPerNode;
  const token = chooseToken(nnodes);
  const { host, port } = parseEndpoint(options.rdzvEndpoint);
  const runId = options.rdzvId ?? 'default';
  const security = {
    insecure: options.insecure ?? false,
    tlsCert: options.tlsCert,
    tlsKey: options.tlsKey,
    tlsCa: options.tlsCa,
  };
  const coordinator: CoordinatorHost | undefined =
    nodeRank === 0
      ? await hostCoordinator({
          host,
          port,
          token,
          runId,
          worldSize,
          ...security,
          onRefused: ({ code, message }) => stderr.write(`kvring launch: refused a client: ${message} [${code}]\n`),
        })
      : undefined;

  let firstFailure: RankExit | undefined;
  const printer = new RankPrinter({ isPrefixed: worldSize > 1, stdout, stderr });
  const processes = new RankProcesses({
    command: nodeCommand(options.command),
    ranks: Array.from({ length: nprocPerNode }, (_, localRank) => nodeRank * nprocPerNode + localRank),
    environmentOf: (rank) =>
      encodeRankEnvironment({
        rank,
        worldSize,
        localRank: rank - nodeRank * nprocPerNode,
        localWorldSize: nprocPerNode,
        masterAddress: host,
        masterPort: coordinator?.port ?? port,
        token,
        runId,
        adapter: options.adapter,
        checksum: undefined,
        chunkBytes: undefined,
        ...security,
      }),
    output: 'pipe',
    onOutput: (rank, stream, chunk) => printer.write(rank, stream, chunk),
    onExit: (exit) => {
      if (exit.exitCode === 0 || firstFailure) return;
      firstFailure = exit;
      void processes.stop();
    },
  });
  const stop = (): void => void processes.stop();
  signal.addEventListener('abort', stop, { once: true });
  await processes.allEnded();
  printer.end();
  signal.removeEventListener('abort', stop);
  await coordinator?.close();
  if (signal.aborted) return { exitCode: 130 };
  if (!firstFailure) return { exitCode: 0 };
  stderr.write(`kvring launch: ${describeExit(firstFailure)} first; the other ranks were stopped\n`);
  return { exitCode: firstFailure.exitCode ?? 1 };
}

function describeExit({ rank, exitCode, signal }: RankExit): string {
  return signal ? `rank ${rank} was ended by ${signal}` : `rank ${rank} failed with exit code ${exitCode}`;
}

/** Scripts run under this process's Node with its flags; anything else is a program. */
function nodeCommand(command: readonly string[]): string[] {
  return /\.[cm]?[jt]s$/.test(command[0] ?? '') ? [process.execPath, ...process.execArgv, ...command] : [...command];
}

function chooseToken(nnodes: number): string {
  const token = process.env.KVRING_TOKEN;
  if (token) return token;
  if (nnodes === 1) return randomBytes(32).toString('base64url');
  throw new ConfigError(
    'ERR_OPTION',
    'launch: several machines must share a secret: set KVRING_TOKEN to the same value on each, for example from `openssl rand -hex 32`',
  );
}

function parseEndpoint(endpoint: string | undefined): { host: string; port: number } {
  if (endpoint === undefined) return { host: '127.0.0.1', port: 0 };
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(endpoint);
  const port = Number(match?.[3] ?? 29400);
  if (!match || port > 65535) {
    throw new ConfigError('ERR_OPTION', `launch: --rdzv-endpoint must be host:port, got ${endpoint}`);
  }
  return { host: match[1] ?? match[2], port };
}

/** Prints whole lines of each rank, with its number in front when there are several. */
class RankPrinter {
  readonly #options: Pick<LaunchOptions, 'stdout' | 'stderr'> & { isPrefixed: boolean };
  readonly #splitters = new Map<string, LineSplitter>();

  constructor(options: Pick<LaunchOptions, 'stdout' | 'stderr'> & { isPrefixed: boolean }) {
    this.#options = options;
  }

  write(rank: number, stream: 'stdout' | 'stderr', chunk: Buffer): void {
    const key = `${rank} ${stream}`;
    const prefix = this.#options.isPrefixed ? `[${rank}]: ` : '';
    const splitter =
      this.#splitters.get(key) ?? createLineSplitter((line) => this.#options[stream].write(`${prefix}${line}\n`));
    this.#splitters.set(key, splitter);
    splitter.write(chunk);
  }

  end(): void {
    for (const splitter of this.#splitters.values()) splitter.end();
  }
}

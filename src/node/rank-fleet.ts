// Rank processes of this machine that all run one module of kvring, with the coordinator that they join: what the engine
// and the benches start. A rank that is lost ends the others, and closing leaves no process and no handle.
import { randomBytes } from 'node:crypto';
import type { Coordinator, CoordinatorOptions } from '../cluster/coordinator.ts';
import { type WireError, decodeError } from '../errors.ts';
import { probeAdapter } from './adapter-probe.ts';
import type { AdapterReport } from './adapter.ts';
import { type CoordinatorHost, hostCoordinator } from './coordinator-host.ts';
import { type LineSplitter, createLineSplitter } from './lines.ts';
import { LOOPBACK_SECURITY } from './link-security.ts';
import { encodeRankEnvironment } from './rank-environment.ts';
import { RankProcesses } from './rank-processes.ts';
import type { ConnectionHandler } from './websocket-server.ts';

export interface RankFleetOptions extends Pick<CoordinatorOptions, 'onAbort'> {
  ranks: number;
  /** Program and arguments of a rank; see moduleCommand. */
  command: readonly string[];
  timeoutMs?: number | undefined;
  heartbeatMs?: number | undefined;
  chunkBytes?: number | undefined;
  checksum?: boolean | undefined;
  adapter?: string | undefined;
  /** The driver's data links, where there is a driver. */
  onEdge?: ConnectionHandler | undefined;
}

const HOST = '127.0.0.1';
export const FLEET_RUN_ID = 'fleet';
/** How long ranks get to end by themselves when the fleet closes, in ms. */
const CLOSE_GRACE_MS = 1000;

export class RankFleet {
  /** The secret of the run. */
  readonly token: string;
  /** The adapter that the ranks take. */
  readonly report: AdapterReport;
  readonly #host: CoordinatorHost;
  readonly #processes: RankProcesses;
  readonly #complaints: Complaints;
  #closed: Promise<void> | undefined;

  private constructor(parts: {
    host: CoordinatorHost;
    processes: RankProcesses;
    complaints: Complaints;
    token: string;
    report: AdapterReport;
  }) {
    this.#host = parts.host;
    this.#processes = parts.processes;
    this.#complaints = parts.complaints;
    this.token = parts.token;
    this.report = parts.report;
  }

  /** Starts the processes; {@link joined} tells when all are there. */
  static async start(options: RankFleetOptions): Promise<RankFleet> {
    const { ranks, command, timeoutMs, heartbeatMs, chunkBytes, checksum, adapter, onEdge, onAbort } = options;
    const token = randomBytes(32).toString('base64url');
    const { report, environment } = await probeAdapter({ adapter });
    const host = await hostCoordinator({
      host: HOST,
      port: 0,
      token,
      runId: FLEET_RUN_ID,
      worldSize: ranks,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
      ...(onEdge === undefined ? {} : { onEdge }),
      ...LOOPBACK_SECURITY,
      onAbort: (error, epoch, isLost) => {
        onAbort?.(error, epoch, isLost);
        // Ranks are lost only after they have joined, and so after this has been made below.
        if (isLost) void processes.stop(0);
      },
    });
    const complaints = new Complaints();
    const processes = new RankProcesses({
      command,
      ranks: Array.from({ length: ranks }, (_, rank) => rank),
      environmentOf: (rank) => ({
        ...encodeRankEnvironment({
          rank,
          worldSize: ranks,
          localRank: rank,
          localWorldSize: ranks,
          masterAddress: HOST,
          masterPort: host.port,
          token,
          runId: FLEET_RUN_ID,
          adapter,
          checksum,
          chunkBytes,
          ...LOOPBACK_SECURITY,
        }),
        ...environment,
      }),
      output: 'pipe',
      onOutput: (rank, stream, chunk) => complaints.write(rank, stream, chunk),
      onExit: ({ rank, exitCode, signal }) => {
        const how = signal ? `its process was ended by ${signal}` : `its process ended with exit code ${exitCode}`;
        host.coordinator.declareLost(rank, complaints.of(rank)?.message ?? how);
      },
    });
    return new RankFleet({ host, processes, complaints, token, report });
  }

  get coordinator(): Coordinator {
    return this.#host.coordinator;
  }

  /** Process ids, by rank. */
  get pids(): ReadonlyMap<number, number> {
    return this.#processes.pids;
  }

  /** Waits for all ranks. When one does not come up, or `signal` aborts, the fleet is closed before this rejects. */
  async joined(signal?: AbortSignal): Promise<void> {
    const abort = (): void => void this.close();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await this.coordinator.joined;
      signal?.throwIfAborted();
    } catch (error) {
      await this.close();
      if (signal?.aborted) throw signal.reason;
      throw this.#complaints.first() ?? error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** Ends every process. Idempotent. */
  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  async #close(): Promise<void> {
    this.coordinator.close();
    await this.#processes.stop(CLOSE_GRACE_MS);
    await this.#host.close();
  }
}

/** The last error that each rank wrote on stderr before it ended. What drivers print there is left aside. */
class Complaints {
  readonly #errors = new Map<number, Error>();
  readonly #splitters = new Map<number, LineSplitter>();

  write(rank: number, stream: 'stdout' | 'stderr', chunk: Buffer): void {
    if (stream !== 'stderr') return;
    const splitter = this.#splitters.get(rank) ?? createLineSplitter((line) => this.#read(rank, line));
    this.#splitters.set(rank, splitter);
    splitter.write(chunk);
  }

  of(rank: number): Error | undefined {
    return this.#errors.get(rank);
  }

  first(): Error | undefined {
    return this.#errors.values().next().value;
  }

  #read(rank: number, line: string): void {
    if (!line.startsWith('{"name"')) return;
    try {
      this.#errors.set(rank, decodeError(JSON.parse(line) as WireError));
    } catch {
      // Not ours: a driver's line that happens to look like it.
    }
  }
}

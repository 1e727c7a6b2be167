// Rank processes on this machine: starts them, tells when one ends, and makes sure that none outlives its owner.
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface RankExit {
  /** The rank whose process ended. */
  rank: number;
  /** Exit code, or null when a signal ended it. */
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  atMs: number;
}

export interface SpawnOptions {
  /** Program and arguments. */
  command: readonly string[];
  /** Global rank of each process to start. */
  ranks: readonly number[];
  /** Environment of each rank, added to this process's own. */
  environmentOf(rank: number): Record<string, string>;
  /** `inherit` shares this process's streams; `pipe` hands them to `onOutput`. */
  output: 'inherit' | 'pipe';
  onOutput?: (rank: number, stream: 'stdout' | 'stderr', chunk: Buffer) => void;
  onExit?: (exit: RankExit) => void;
}

/** How long processes get to end by themselves after SIGTERM, in ms. */
const TERM_GRACE_MS = 2000;

export class RankProcesses {
  readonly #children = new Map<number, ChildProcess>();
  readonly #ended = new Map<number, Promise<RankExit>>();

  constructor({ command, ranks, environmentOf, output, onOutput, onExit }: SpawnOptions) {
    const [program, ...args] = command as [string, ...string[]];
    for (const rank of ranks) {
      const child = spawn(program, args, {
        env: { ...process.env, ...environmentOf(rank) },
        stdio: ['ignore', output, output],
      });
      this.#children.set(rank, child);
      child.stdout?.on('data', (chunk: Buffer) => onOutput?.(rank, 'stdout', chunk));
      child.stderr?.on('data', (chunk: Buffer) => onOutput?.(rank, 'stderr', chunk));
      this.#ended.set(rank, waitForEnd(rank, child, onOutput, onExit));
    }
  }

  /** Process ids by rank, of the processes that were started. */
  get pids(): Map<number, number> {
    const pids = new Map<number, number>();
    for (const [rank, { pid }] of this.#children) if (pid !== undefined) pids.set(rank, pid);
    return pids;
  }

  /** Resolves with how each process ended, by rank, once all have. */
  async allEnded(): Promise<RankExit[]> {
    return Promise.all(this.#ended.values());
  }

  signalAll(signal: NodeJS.Signals): void {
    for (const child of this.#children.values()) {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    }
  }

  /** Ends every process that still runs, also a stopped one: SIGTERM, and SIGKILL after `graceMs`. */
  async stop(graceMs = TERM_GRACE_MS): Promise<void> {
    this.signalAll(graceMs > 0 ? 'SIGTERM' : 'SIGKILL');
    const timer = setTimeout(() => this.signalAll('SIGKILL'), graceMs);
    await this.allEnded();
    clearTimeout(timer);
  }
}

function waitForEnd(
  rank: number,
  child: ChildProcess,
  onOutput: SpawnOptions['onOutput'],
  onExit: SpawnOptions['onExit'],
): Promise<RankExit> {
  return new Promise((resolve) => {
    let isEnded = false;
    const end = (exitCode: number | null, signal: NodeJS.Signals | null): void => {
      if (isEnded) return;
      isEnded = true;
      const exit = { rank, exitCode, signal, atMs: performance.now() };
      onExit?.(exit);
      resolve(exit);
    };
    child.once('error', (error) => {
      onOutput?.(rank, 'stderr', Buffer.from(`${error.message}\n`));
      end(127, null);
    });
    // A killed process has nothing more to say; of one that ended by itself the last output is still to come.
    child.once('exit', (exitCode, signal) => signal && end(exitCode, signal));
    child.once('close', end);
  });
}

/**
 * The command that runs a module of kvring as a Node program, with this process's own Node flags (a TypeScript loader,
 * say). `name` is a path without extension, relative to the module at `importMetaUrl`.
 */
export function moduleCommand(name: string, importMetaUrl: string): string[] {
  const extension = importMetaUrl.endsWith('.ts') ? '.ts' : '.js';
  return [process.execPath, ...process.execArgv, fileURLToPath(new URL(name + extension, importMetaUrl))];
}

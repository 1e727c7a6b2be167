// The command line in tests: in this process with captured streams, or as a process of its own.
import { type ChildProcess, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { runCli } from '../../src/cli/program.ts';

export interface CliResult {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** The loader, by path: it has to be found from any working directory. */
const TSX = createRequire(import.meta.url).resolve('tsx');

/** Collects what is written to it. */
export class TextSink extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

/** Runs a command line in this process: cheap, and right for what fails before any rank is started. */
export async function callCli(argv: readonly string[]): Promise<CliResult> {
  const stdout = new TextSink();
  const stderr = new TextSink();
  const exitCode = await runCli({ argv, stdout, stderr, signal: new AbortController().signal });
  return { exitCode, stdout: stdout.text, stderr: stderr.text };
}

/** A command line that runs as a process. */
export interface RunningCli {
  readonly process: ChildProcess;
  /** What it has written so far. */
  readonly output: { stdout: string; stderr: string };
  readonly ended: Promise<CliResult>;
}

/** Starts `kvring` as a process; it is killed when it has not ended after `timeoutMs` [60 000]. */
export function spawnCli(argv: readonly string[], options: { cwd?: string; timeoutMs?: number } = {}): RunningCli {
  const { cwd, timeoutMs = 60_000 } = options;
  const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', TSX, main, ...argv], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    ...(cwd === undefined ? {} : { cwd }),
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  const ended = new Promise<CliResult>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (exitCode) => resolve({ exitCode, ...output }));
  });
  return { process: child, output, ended };
}

// The entry point of `kvring`: process streams and signals in, an exit code out. Ctrl-C aborts the command, which takes its
// ranks down with it; a second one does not wait for that.
import { RingAbortError } from '../errors.ts';
import { runCli } from './program.ts';

/** How long an aborted command may take to stop its ranks, in ms. */
const ABORT_GRACE_MS = 5000;

const SIGNAL_EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** Runs the command line of this process and leaves its exit code. */
async function main(): Promise<void> {
  const controller = new AbortController();
  let interrupted: number | undefined;
  for (const [name, exitCode] of Object.entries(SIGNAL_EXIT_CODES)) {
    process.on(name, () => {
      if (interrupted !== undefined) process.exit(exitCode);
      interrupted = exitCode;
      controller.abort(new RingAbortError(-1, -1, `the command got ${name}`));
      setTimeout(() => process.exit(exitCode), ABORT_GRACE_MS).unref();
    });
  }
  const { stdout, stderr } = process;
  // A reader that has seen enough, such as head, ends the command.
  stdout.on('error', (error: Error) => controller.abort(new RingAbortError(-1, -1, `stdout: ${error.message}`)));
  const exitCode = await runCli({ argv: process.argv.slice(2), stdout, stderr, signal: controller.signal });
  process.exitCode = interrupted ?? exitCode;
}

await main();

// The command line as a whole: what the commands are, and how their errors become one line and an exit code.
import { Command, CommanderError } from 'commander';
import { ConfigError, KvringError } from '../errors.ts';
import { addBenchCommand } from './bench.ts';
import { type CliContext, EXIT_FAILED, EXIT_OK, EXIT_USAGE, type OutputStream } from './context.ts';
import { addDoctorCommand } from './doctor.ts';
import { addLaunchCommand } from './launch.ts';
import { packageVersion } from '../node/package-info.ts';
import { addRunCommand } from './run.ts';

/** Commands of kvring that this version does not have. */
const LATER_COMMANDS = ['serve', 'join'];

/** The outside world of one call of {@link runCli}. */
export interface CliOptions {
  /** The arguments after `kvring`. */
  argv: readonly string[];
  stdout: OutputStream;
  stderr: OutputStream;
  signal: AbortSignal;
}

/** Runs one command line and resolves to its exit code; errors become one line on stderr. Never rejects. */
export async function runCli(options: CliOptions): Promise<number> {
  const context: CliContext = { ...options, exitCode: EXIT_OK };
  try {
    await buildProgram(context).parseAsync(options.argv, { from: 'user' });
    return context.exitCode;
  } catch (error) {
    const { message, exitCode } = explainError(error);
    if (message !== undefined) options.stderr.write(`kvring: ${message}\n`);
    return exitCode;
  }
}

function buildProgram(context: CliContext): Command {
  const program = new Command('kvring')
    .description('context-parallel (ring) attention for WebGPU')
    .version(packageVersion())
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      // runCli prints the error, in the form of every other error.
      outputError: () => undefined,
    });
  addBenchCommand(program, context);
  addRunCommand(program, context);
  addLaunchCommand(program, context);
  addDoctorCommand(program, context);
  for (const name of LATER_COMMANDS) {
    program
      .command(name, { hidden: true })
      .allowUnknownOption()
      .allowExcessArguments()
      .action(() => {
        throw new ConfigError('ERR_UNSUPPORTED', `this version has no 'kvring ${name}'`);
      });
  }
  return program;
}

function explainError(error: unknown): { message?: string; exitCode: number } {
  if (error instanceof CommanderError) {
    // Help and version have printed themselves; help that nobody asked for means that the command was missing.
    if (error.exitCode === 0) return { exitCode: EXIT_OK };
    if (error.code === 'commander.help') return { exitCode: EXIT_USAGE };
    const message = error.message.replace(/^error: /, '').replaceAll(/\s+/g, ' ');
    return { message: `${message} [ERR_USAGE]`, exitCode: EXIT_USAGE };
  }
  const exitCode = error instanceof ConfigError ? EXIT_USAGE : EXIT_FAILED;
  if (error instanceof KvringError) return { message: `${error.message} [${error.code}]`, exitCode };
  // Not an error that kvring throws on purpose: the stack is what a bug report needs.
  return { message: error instanceof Error ? (error.stack ?? error.message) : String(error), exitCode };
}

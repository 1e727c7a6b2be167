// What a command may touch of the world: two streams, a signal, its arguments, and the exit code that it leaves.

/** Exit codes of `kvring`: a contract with the scripts that call it. */
export const EXIT_OK = 0;
/** A result is wrong, or the work failed. */
export const EXIT_FAILED = 1;
/** The command line, an option or an input file is wrong; nothing was computed. */
export const EXIT_USAGE = 2;

/** A stream to write text to, and whether a person sits behind it. */
export type OutputStream = NodeJS.WritableStream & { isTTY?: boolean; columns?: number };

export interface CliContext {
  /** Results, and nothing else. */
  readonly stdout: OutputStream;
  /** Progress, logs and errors. */
  readonly stderr: OutputStream;
  /** Aborted when the person presses Ctrl-C. */
  readonly signal: AbortSignal;
  /** The arguments after `kvring`. */
  readonly argv: readonly string[];
  /** Set by a command that ended without an error: {@link EXIT_OK} or {@link EXIT_FAILED}. */
  exitCode: number;
}

// Progress for a person: one line on stderr, rewritten in place, and lines that stay. The rewritten line is for a terminal
// only: a file or a pipe gets the lines that stay.
import type { OutputStream } from './context.ts';

export interface Progress {
  /** Replaces the line. */
  update(message: string): void;
  /** Prints a line that stays, also where no terminal is. */
  log(message: string): void;
  /** Removes the line, so that what is printed next starts at the left. */
  clear(): void;
}

const ERASE_LINE = '\r\u001b[2K';

/** Progress on `stream`. */
export function createProgress(stream: OutputStream): Progress {
  let shown = false;
  const clear = () => {
    if (shown) stream.write(ERASE_LINE);
    shown = false;
  };
  return {
    clear,
    update(message) {
      if (stream.isTTY !== true) return;
      // A line that wraps could not be erased again.
      const width = Math.max(1, (stream.columns ?? 80) - 1);
      stream.write(ERASE_LINE + message.replaceAll(/\s+/g, ' ').slice(0, width));
      shown = true;
    },
    log(message) {
      clear();
      stream.write(`${message}\n`);
    },
  };
}

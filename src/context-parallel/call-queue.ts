// Calls of an engine run one after another, in the order in which they were made; none starts after close().
import { ConfigError, observed } from '../errors.ts';

export class CallQueue {
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** Runs `task` when the tasks before it have ended, however they ended. */
  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(() => {
      if (this.#closed) throw new ConfigError('ERR_CLOSED', 'engine: the engine was closed; create another one');
      return task();
    });
    this.#last = result.catch(() => undefined);
    return observed(result);
  }

  /** Lets no further task start. */
  close(): void {
    this.#closed = true;
  }

  /** Resolves when every task has ended. */
  async idle(): Promise<void> {
    await this.#last;
  }
}

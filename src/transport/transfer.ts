// One block under way, in either direction: a promise that settles once, the abort signal that may end it, its progress.
import { observed } from '../errors.ts';
import type { AbortWatch } from './abort-watch.ts';
import { describeBlock } from './block.ts';
import type { BlockDescriptor, TransferOptions } from './transport.ts';

export interface TransferAborts {
  readonly aborts: AbortWatch;
  readonly onAbort: (reason: unknown) => void;
}

export class Transfer {
  readonly block: BlockDescriptor;
  readonly timeoutMs: number | undefined;
  /** Settles with the transfer; never an unhandled rejection. */
  readonly done: Promise<void>;
  /** Bytes of the block that are through: given to the sink, or handed to the network. */
  bytesDone = 0;
  readonly #unwatch: (() => void) | undefined;
  #settle: { resolve: () => void; reject: (error: unknown) => void } | undefined;

  /** `onAbort` is called with the signal's reason when it fires before the transfer has settled. */
  constructor(block: BlockDescriptor, options: TransferOptions, { aborts, onAbort }: TransferAborts) {
    this.block = block;
    this.timeoutMs = options.timeoutMs;
    this.done = observed(new Promise<void>((resolve, reject) => (this.#settle = { resolve, reject })));
    // A signal that has fired already fires no more; the edge looks at that itself.
    if (options.signal?.aborted === false) this.#unwatch = aborts.watch(options.signal, onAbort);
  }

  resolve(): void {
    this.#settle?.resolve();
    this.#release();
  }

  reject(error: unknown): void {
    this.#settle?.reject(error);
    this.#release();
  }

  /** For error messages. */
  describe(): string {
    return `${describeBlock(this.block)}, done=${this.bytesDone} of ${this.block.byteLength} bytes`;
  }

  #release(): void {
    this.#settle = undefined;
    this.#unwatch?.();
  }
}

// A group of ranks that work together, in a fixed order.
import { ConfigError } from '../errors.ts';

export class ProcessGroup {
  /** World ranks, in the group's order. */
  readonly ranks: readonly number[];
  /** This process's place in the group. */
  readonly rank: number;
  /** For people and for messages: `cp`, `dp`. */
  readonly description: string;
  #opSeq = 0;

  /** Throws ConfigError when this process is not in the group. */
  constructor(description: string, ranks: readonly number[], worldRank: number) {
    this.description = description;
    this.ranks = ranks;
    this.rank = ranks.indexOf(worldRank);
    if (this.rank < 0) {
      throw new ConfigError('ERR_OPTION', `group ${description}: rank ${worldRank} is not one of ${ranks.join(', ')}`);
    }
  }

  get size(): number {
    return this.ranks.length;
  }

  /** Numbers the next operation of this group. Every member calls it once per operation, in the same order. */
  nextOpSeq(): number {
    return ++this.#opSeq;
  }
}

// The communication half of a ring, as the ring sees it: where the KV block of each step comes from.

export interface KvSource {
  /** Begins to move blocks. */
  start(): void;
  /** Waits for the block of `step` and tells the slot that holds it. */
  block(step: number): Promise<number>;
  /** The slot of `step` may be filled anew once `attended` has resolved. */
  release(step: number, attended: Promise<void>): void;
  /** Resolves when everything that this rank has to send has been handed to the network. */
  finish(): Promise<void>;
}

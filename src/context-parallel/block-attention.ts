// The compute half of a ring: one rank's queries against KV blocks that lie in slots. The ring knows nothing else of a
// GPU; the same ring runs on the CPU.

/** The slot that holds the rank's own KV block; received blocks lie in slots 1 and 2. */
export const OWN_SLOT = 0;

export interface BlockAttention {
  /** The bytes of the rank's own KV block [K | V], as they travel. Called when there is a next rank, once a call. */
  ownKv(): Promise<Uint8Array>;

  /** Copies `bytes` of step `step`'s block, which start at `byteOffset` of it, into a slot. */
  writeKv(step: number, slot: number, byteOffset: number, bytes: Uint8Array): void;

  /**
   * Attends to the block of `step` in `slot` and merges the result into the running (out, lse). Step 0 starts them.
   * Work is done in the order of the calls; resolves when the device has finished with the slot.
   */
  attend(step: number, slot: number): Promise<void>;
}

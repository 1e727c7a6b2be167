// What an SPMD script knows of the run it is part of: its rank, the others, and ways to reach them.
import type { Transport } from '../transport/transport.ts';

export interface World {
  /** This process, in [0, worldSize). */
  readonly rank: number;
  readonly worldSize: number;
  readonly transport: Transport;
  /** Aborts, with a RingAbortError as its reason, when the ring is aborted. Read it anew for each operation. */
  readonly signal: AbortSignal;
  /** The deadline of every wait for a peer, in ms. */
  readonly timeoutMs: number;
  /** Gives this rank's value and resolves with every rank's, by rank: a barrier that carries small JSON values. */
  gather<T>(key: string, value: T): Promise<T[]>;
  /** Reports a failure of an operation that was started under `signal`; resolves with the error it failed with everywhere. */
  reportFailure(error: unknown, signal: AbortSignal): Promise<Error>;
  /** Tells the coordinator which ring step this rank is in; −1 outside a ring. */
  enterStep(step: number): void;
  /** Leaves the run and frees everything. Idempotent. */
  close(): Promise<void>;
}

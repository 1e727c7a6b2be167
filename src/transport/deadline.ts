// A timer that is pushed back by every sign of progress and that tells a silent peer from a busy process of its own.
// Pushing it back costs no timer call.

/** Calls `onExpire` once when `timeoutMs` have passed since the last {@link Deadline.start}. */
export class Deadline {
  readonly #onExpire: (timeoutMs: number) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timeoutMs = 0;
  #dueAt = Infinity;
  /** When the armed timer should fire; never later than #dueAt. */
  #firesAt = 0;

  constructor(onExpire: (timeoutMs: number) => void) {
    this.#onExpire = onExpire;
  }

  /** Starts, or starts again from now. Without `timeoutMs` there is no limit. */
  start(timeoutMs: number | undefined): void {
    if (timeoutMs === undefined) {
      this.stop();
      return;
    }
    this.#timeoutMs = timeoutMs;
    this.#dueAt = performance.now() + timeoutMs;
    if (this.#timer !== undefined && this.#firesAt <= this.#dueAt) return;
    this.#arm(timeoutMs);
  }

  /** Stops and leaves no timer behind. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#dueAt = Infinity;
  }

  #arm(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#firesAt = performance.now() + delayMs;
    this.#timer = setTimeout(() => this.#fire(), delayMs);
  }

  #fire(): void {
    this.#timer = undefined;
    const now = performance.now();
    const lateMs = now - this.#firesAt;
    // A timer that fires late was held up by this process, and so were the bytes that the peer may have sent meanwhile.
    if (lateMs > LATE_MS) this.#dueAt = Math.max(this.#dueAt, now + Math.min(lateMs, this.#timeoutMs));
    if (this.#dueAt > now) {
      this.#arm(this.#dueAt - now);
      return;
    }
    this.stop();
    this.#onExpire(this.#timeoutMs);
  }
}

/** Timers are this late at most when the event loop is free, in ms. */
const LATE_MS = 50;

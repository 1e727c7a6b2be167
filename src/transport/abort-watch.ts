// Many transfers under one AbortSignal, one listener on it: a signal with a listener for each transfer makes Node warn of
// a leak from the eleventh on.

export class AbortWatch {
  readonly #callbacks = new Map<AbortSignal, Set<(reason: unknown) => void>>();

  /** Calls `onAbort` with the signal's reason when it fires. Returns a function that forgets it; idempotent. */
  watch(signal: AbortSignal, onAbort: (reason: unknown) => void): () => void {
    const callbacks = this.#callbacks.get(signal) ?? this.#listen(signal);
    callbacks.add(onAbort);
    return () => {
      callbacks.delete(onAbort);
      if (callbacks.size > 0 || this.#callbacks.get(signal) !== callbacks) return;
      this.#callbacks.delete(signal);
      signal.removeEventListener('abort', this.#onAbort);
    };
  }

  #listen(signal: AbortSignal): Set<(reason: unknown) => void> {
    const callbacks = new Set<(reason: unknown) => void>();
    this.#callbacks.set(signal, callbacks);
    signal.addEventListener('abort', this.#onAbort);
    return callbacks;
  }

  readonly #onAbort = (event: Event): void => {
    const signal = event.target as AbortSignal;
    const callbacks = this.#callbacks.get(signal) ?? [];
    this.#callbacks.delete(signal);
    signal.removeEventListener('abort', this.#onAbort);
    for (const onAbort of callbacks) onAbort(signal.reason);
  };
}

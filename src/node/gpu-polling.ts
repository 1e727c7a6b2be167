// While a GPU promise is pending, Dawn's binding polls the driver through globalThis.setImmediate, some 20 000 times a
// second, and takes half a core from everything else. This slows its polling down, and nobody else's immediates. Only for
// processes that kvring owns: it replaces a global.

/** How long a burst of polls runs at full speed, for work that is done at once, in ms. */
const SPIN_MS = 0.3;
/**
 * After that a poll waits for 1/32 of the time since the burst began, within these bounds, in ms: that is how late a
 * completion may be seen. A poll takes some 40 µs, so that ranks which share two cores feel every one of them.
 */
const POLL_FRACTION = 1 / 32;
const MIN_POLL_INTERVAL_MS = 1;
const MAX_POLL_INTERVAL_MS = 10;
/** Polls further apart than this belong to different bursts, in ms. */
const BURST_GAP_MS = 25;

/** Slows the binding's polling down; returns what undoes it. */
export function throttleGpuPolling(): () => void {
  const original = globalThis.setImmediate;
  let burstStart = 0;
  let lastPoll = -Infinity;

  const throttled = (callback: (...args: unknown[]) => void, ...args: unknown[]): unknown => {
    if (!isBindingPoll(callback)) return original(callback, ...args);
    const now = performance.now();
    if (now - lastPoll > BURST_GAP_MS) burstStart = now;
    lastPoll = now;
    if (now - burstStart < SPIN_MS) return original(callback, ...args);
    const intervalMs = Math.max(
      MIN_POLL_INTERVAL_MS,
      Math.min(MAX_POLL_INTERVAL_MS, (now - burstStart) * POLL_FRACTION),
    );
    return setTimeout(callback, intervalMs, ...args);
  };
  // util.promisify finds the promise form of setImmediate in one of its properties.
  Object.defineProperties(throttled, Object.getOwnPropertyDescriptors(original));
  globalThis.setImmediate = throttled as unknown as typeof setImmediate;
  return () => {
    if (globalThis.setImmediate === (throttled as unknown)) globalThis.setImmediate = original;
  };
}

/** The binding passes a nameless native function; a function of JavaScript shows its source, a bound one has a name. */
function isBindingPoll(callback: (...args: unknown[]) => void): boolean {
  return callback.name === '' && Function.prototype.toString.call(callback).endsWith('{ [native code] }');
}

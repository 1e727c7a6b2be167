// The throttle slows nameless native callbacks down and nothing else, keeps every form of setImmediate working, and can be
// undone.
import { expect } from 'chai';
import { promisify } from 'node:util';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';

/** A native function without a name, as the binding passes it. */
function createNativeCallback(onCall: () => void): () => void {
  const callback = Function.prototype.call.bind(onCall) as () => void;
  Object.defineProperty(callback, 'name', { value: '' });
  return callback;
}

describe('throttleGpuPolling', () => {
  let restore = (): void => undefined;
  beforeEach(() => {
    restore = throttleGpuPolling();
  });
  afterEach(() => restore());

  it('leaves immediates of JavaScript alone: arguments, order, clearImmediate and promisify', async () => {
    const calls: unknown[] = [];
    setImmediate((...args: unknown[]) => calls.push(args), 1, 2);
    clearImmediate(setImmediate(() => calls.push('cleared')));
    expect(await promisify(setImmediate)('value')).to.equal('value');
    expect(calls).to.deep.equal([[1, 2]]);
  });

  it('slows a burst of polls down after a short spin', async () => {
    let polls = 0;
    const start = performance.now();
    await new Promise<void>((resolve) => {
      const poll = createNativeCallback(() => {
        polls++;
        if (performance.now() - start < 30) setImmediate(poll);
        else resolve();
      });
      setImmediate(poll);
    });
    expect(polls).to.be.above(3).and.below(1000);
  });

  it('restores what was there before', () => {
    const throttled = globalThis.setImmediate;
    restore();
    expect(globalThis.setImmediate).not.to.equal(throttled);
  });
});

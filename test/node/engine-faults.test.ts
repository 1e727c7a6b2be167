// What an engine does when things go wrong: a rank that is killed or stopped in the middle of a ring, a caller who
// aborts, bad input, close() at any moment. Nothing partial, nothing left behind, the culprit named, in bounded time.
import { expect } from 'chai';
import { ConfigError, RingAbortError } from '../../src/errors.ts';
import { createEngine } from '../../src/node/engine.ts';
import { ProcessEngine } from '../../src/node/process-engine.ts';
import { f32Tensor } from '../../src/tensor/tensor.ts';
import { type AttentionCase, createCase, expectReference } from '../helpers/attention-case.ts';

const STEP_TIMEOUT_MS = 3000;
const HEARTBEAT_MS = 300;

/** Long enough on a software adapter that a signal 300 ms later hits the middle of the ring. */
const LONG = { seqLen: 4096, numHeads: 8, numKvHeads: 8, headDim: 64 };

async function startEngine(ranks = 4): Promise<ProcessEngine> {
  return ProcessEngine.create({ ranks, timeoutMs: STEP_TIMEOUT_MS, heartbeatMs: HEARTBEAT_MS });
}

/** An engine that has compiled its kernels for `one`, so that the next call goes straight into the ring. */
async function startWarmEngine(one: AttentionCase): Promise<ProcessEngine> {
  const engine = await startEngine();
  await engine.forward(createCase({ ...LONG, seqLen: 64 }, 'no_mask').inputs);
  expect(one.inputs.q.shape[3]).to.equal(LONG.headDim);
  return engine;
}

async function failureOf(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => expect.fail('expected a rejection'),
    (error: Error) => error,
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function waitForDeath(pids: Iterable<number>): Promise<void> {
  for (const pid of pids) {
    const deadline = performance.now() + 3000;
    while (isAlive(pid)) {
      expect(performance.now(), `process ${pid} still lives`).to.be.below(deadline);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

describe('an engine whose rank dies', function () {
  this.timeout(120_000);
  const one = createCase(LONG, 'no_mask');

  it('rejects with RingAbortError naming the killed rank within 1 s, keeps rejecting, and leaves no process', async () => {
    const engine = await startWarmEngine(one);
    const pids = [...engine.pids.values()];
    try {
      const call = failureOf(engine.forward(one.inputs));
      await new Promise((resolve) => setTimeout(resolve, 300));
      const killedAt = performance.now();
      process.kill(engine.pids.get(2)!, 'SIGKILL');
      const error = (await call) as RingAbortError;
      const tookMs = performance.now() - killedAt;
      expect(error).to.be.instanceOf(RingAbortError);
      expect(error.rootCauseRank).to.equal(2);
      expect(error.code).to.equal('ERR_RING_ABORTED');
      expect(tookMs).to.be.below(1000);
      const next = (await failureOf(engine.forward(one.inputs))) as RingAbortError;
      expect(next.rootCauseRank).to.equal(2);
      await waitForDeath(pids);
    } finally {
      await engine.close();
    }
  });

  it('rejects within the step deadline and one heartbeat when a rank is stopped, and kills it', async () => {
    const engine = await startWarmEngine(one);
    const pids = [...engine.pids.values()];
    try {
      const call = failureOf(engine.forward(one.inputs));
      await new Promise((resolve) => setTimeout(resolve, 300));
      const stoppedAt = performance.now();
      process.kill(engine.pids.get(1)!, 'SIGSTOP');
      const error = (await call) as RingAbortError;
      const tookMs = performance.now() - stoppedAt;
      expect(error).to.be.instanceOf(RingAbortError);
      expect(error.rootCauseRank, error.message).to.equal(1);
      expect(tookMs).to.be.below(STEP_TIMEOUT_MS + HEARTBEAT_MS);
      await waitForDeath(pids);
    } finally {
      await engine.close();
    }
  });

  it('notices a rank that dies while nothing runs', async () => {
    const engine = await startEngine(2);
    try {
      process.kill(engine.pids.get(0)!, 'SIGKILL');
      await waitForDeath(engine.pids.values());
      const error = (await failureOf(engine.forward(one.inputs))) as RingAbortError;
      expect(error.rootCauseRank).to.equal(0);
    } finally {
      await engine.close();
    }
  });
});

describe('an engine whose caller aborts', function () {
  this.timeout(120_000);
  const one = createCase(LONG, 'no_mask');

  it('rejects with the signal’s reason and computes the next call right', async () => {
    const engine = await startWarmEngine(one);
    try {
      const controller = new AbortController();
      const call = failureOf(engine.forward(one.inputs, { signal: controller.signal }));
      await new Promise((resolve) => setTimeout(resolve, 200));
      controller.abort(new Error('changed my mind'));
      expect((await call).message).to.equal('changed my mind');
      const small = createCase({ ...LONG, seqLen: 100 }, 'causal');
      expectReference(small, await engine.forward(small.inputs, { maskType: 'causal' }));
    } finally {
      await engine.close();
    }
  });

  it('does nothing when the signal has already aborted', async () => {
    const engine = await createEngine();
    const signal = AbortSignal.abort(new Error('too late'));
    expect((await failureOf(engine.forward(one.inputs, { signal }))).message).to.equal('too late');
    await engine.close();
    expect((await failureOf(createEngine({ ranks: 2, signal }))).message).to.equal('too late');
  });
});

describe('an engine that closes', function () {
  this.timeout(60_000);

  it('leaves no process and no handle, and may be closed twice', async () => {
    const before = countHandles();
    const engine = await startEngine(3);
    const pids = [...engine.pids.values()];
    const small = createCase({ ...LONG, seqLen: 100 }, 'causal');
    await engine.forward(small.inputs, { maskType: 'causal' });
    await Promise.all([engine.close(), engine.close()]);
    await engine.close();
    expect(pids.filter(isAlive)).to.deep.equal([]);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(countHandles()).to.deep.equal(before);
    const error = (await failureOf(engine.forward(small.inputs))) as ConfigError;
    expect(error.code).to.equal('ERR_CLOSED');
  });

  it('rejects the call that is under way', async () => {
    const one = createCase(LONG, 'no_mask');
    const engine = await startEngine(2);
    const call = failureOf(engine.forward(one.inputs));
    await new Promise((resolve) => setTimeout(resolve, 200));
    await engine.close();
    expect(await call).to.be.instanceOf(Error);
  });
});

describe('an engine given bad input', function () {
  this.timeout(60_000);
  const good = createCase({ seqLen: 8, numHeads: 4, numKvHeads: 2, headDim: 8 }, 'causal').inputs;

  it('refuses tensors that do not fit, before any work, with their codes', async () => {
    const engine = await createEngine();
    const cases: [string, object, string][] = [
      ['ERR_SHAPE', { ...good, k: f32Tensor([1, 8, 3, 8]), v: f32Tensor([1, 8, 3, 8]) }, 'multiple of numKvHeads'],
      ['ERR_SHAPE', { ...good, v: f32Tensor([1, 9, 2, 8]) }, 'same length'],
      ['ERR_SHAPE', { ...good, k: f32Tensor([1, 8, 2, 16]) }, 'same head dim'],
      ['ERR_SHAPE', { ...good, q: f32Tensor([8, 4, 8]) }, 'must be [batch'],
      ['ERR_SHAPE', { ...good, q: { ...good.q, shape: [1, NaN, 4, 8] } }, 'positive integer'],
      ['ERR_SHAPE', { ...good, q: { ...good.q, shape: [1, 9, 4, 8] } }, 'elements'],
      ['ERR_SHAPE', { q: good.q, v: good.v }, 'k: a tensor is'],
      ['ERR_DTYPE', { ...good, q: { ...good.q, dtype: 'f64' } }, 'dtype must be'],
      ['ERR_DTYPE', { ...good, q: { ...good.q, dtype: 'f16', data: new Uint16Array(8 * 4 * 8) } }, 'one dtype'],
      ['ERR_SHAPE', { ...good, bias: good.q }, 'bias must be [1 or 1, 1 or 4, 8, 8]'],
      ['ERR_OPTION', { ...good, sink: f32Tensor([4]) }, 'sink=learnable'],
      ['ERR_OPTION', { ...good, keys: good.k }, 'unknown tensor keys'],
    ];
    for (const [code, inputs, text] of cases) {
      const error = (await failureOf(engine.forward(inputs as typeof good))) as ConfigError;
      expect(error, text).to.be.instanceOf(ConfigError);
      expect(error.code, error.message).to.equal(code);
      expect(error.message).to.contain(text);
    }
    await engine.close();
  });

  it('refuses options that are unknown, out of range or of a later version', async () => {
    const engine = await createEngine();
    const cases: [string, object][] = [
      ['ERR_OPTION', { maskType: 'diagonal' }],
      ['ERR_OPTION', { softmaxScale: NaN }],
      ['ERR_OPTION', { casual: true }],
      ['ERR_OPTION', { timeoutMs: -1 }],
      ['ERR_OPTION', { window: [128] }],
      ['ERR_OPTION', { dropout: 1 }],
      ['ERR_OPTION', { softcap: null }],
      ['ERR_DTYPE', { dtype: 'i32' }],
      ['ERR_UNSUPPORTED', { wireDtype: 'bf16' }],
    ];
    for (const [code, options] of cases) {
      const error = (await failureOf(engine.forward(good, options))) as ConfigError;
      expect(error, JSON.stringify(options)).to.be.instanceOf(ConfigError);
      expect(error.code, error.message).to.equal(code);
    }
    await engine.close();
    for (const [code, options] of [
      ['ERR_OPTION', { ranks: 0 }],
      ['ERR_OPTION', { ranks: 1.5 }],
      ['ERR_OPTION', { ranks: 65 }],
      ['ERR_OPTION', { layout: 'diagonal' }],
      ['ERR_OPTION', { cpCommType: 'a2a' }],
      ['ERR_OPTION', { rank: 2 }],
      ['ERR_OPTION', { ranks: 2, device: {} }],
      ['ERR_UNSUPPORTED', { remoteRanks: 1 }],
    ] as const) {
      const error = (await failureOf(createEngine(options as object))) as ConfigError;
      expect(error, JSON.stringify(options)).to.be.instanceOf(ConfigError);
      expect(error.code, error.message).to.equal(code);
    }
  });
});

/** Handles that keep a process alive, by kind; what the GPU binding holds does not change. */
function countHandles(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) {
    if (name === 'Timeout' || name === 'Immediate') continue;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

// One device for all tests of this process, with error scopes around every test: a stray validation error fails the test
// that caused it. Without any adapter the tests are skipped, unless KVRING_REQUIRE_ADAPTER is set.
import { DeviceError } from '../../src/errors.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { openGpu } from '../../src/node/adapter.ts';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';

const SCOPES = ['validation', 'out-of-memory', 'internal'] as const;

/** A crashed driver never answers. */
const POP_TIMEOUT_MS = 10_000;

/** The device of this process, opened by the first test that wants one. */
class PooledGpu {
  #gpu: Promise<Gpu> | undefined;

  get(): Promise<Gpu> {
    this.#gpu ??= this.#open();
    return this.#gpu;
  }

  async #open(): Promise<Gpu> {
    throttleGpuPolling();
    return (await openGpu()).gpu;
  }
}

const pooled = new PooledGpu();

/** Registers hooks in the surrounding `describe`; the result gives the device inside its tests. */
export function useGpu(): () => Gpu {
  let gpu: Gpu | undefined;
  before('an adapter', async function () {
    try {
      gpu = await pooled.get();
    } catch (error) {
      if (!(error instanceof DeviceError) || process.env.KVRING_REQUIRE_ADAPTER) throw error;
      process.stderr.write(`skipped: ${error.message}\n`);
      this.skip();
    }
  });
  beforeEach('error scopes', () => {
    for (const scope of SCOPES) gpu?.device.pushErrorScope(scope);
  });
  afterEach('no stray GPU error', async () => {
    if (!gpu) return;
    for (const scope of SCOPES.toReversed()) {
      const error = await popErrorScope(gpu.device);
      if (error) throw new Error(`${scope} error during the test: ${error.message}`);
    }
    gpu.throwIfFailed();
  });
  return () => gpu!;
}

async function popErrorScope(device: GPUDevice): Promise<GPUError | null> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    const message = `popErrorScope: no answer within ${POP_TIMEOUT_MS} ms: the device hangs`;
    timer = setTimeout(() => reject(new Error(message)), POP_TIMEOUT_MS);
  });
  try {
    return await Promise.race([device.popErrorScope(), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

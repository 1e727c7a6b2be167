// createEngine(): whole tensors in, whole tensors out. With one rank the work stays in this process; with more, each
// rank is a process that this one starts, feeds, watches and ends.
import { type Engine, type EngineOptions, validateEngineOptions } from '../context-parallel/engine-options.ts';
import { LocalEngine } from '../context-parallel/local-engine.ts';
import { adoptDevice } from '../gpu/device.ts';
import { openGpu } from './adapter.ts';
import { ProcessEngine } from './process-engine.ts';
import { readShaders } from './shader-source.ts';

/** Starts an engine. Rejects with ConfigError, DeviceError (no adapter) or TransportError (a rank did not come up). */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  validateEngineOptions(options);
  const { ranks = 1, adapter, device, signal } = options;
  signal?.throwIfAborted();
  if (ranks > 1) return ProcessEngine.create({ ...options, ranks });
  const gpu = device ? adoptDevice(device, await readShaders()) : (await openGpu({ adapter })).gpu;
  return new LocalEngine(gpu, options);
}

// createEngine() of a page: one rank on the page's own GPU. Ranks in other tabs and processes are not in this version.
import { type Engine, type EngineOptions, validateEngineOptions } from '../context-parallel/engine-options.ts';
import { LocalEngine } from '../context-parallel/local-engine.ts';
import { ConfigError, DeviceError } from '../errors.ts';
import { adoptDevice, requestGpu } from '../gpu/device.ts';
import { fetchShaders } from './shader-source.ts';

/**
 * An engine of one rank. Rejects with ConfigError for options of other places, DeviceError ERR_NO_ADAPTER where the
 * browser has no WebGPU (it needs a secure context: https or localhost).
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  validateEngineOptions(options);
  if ((options.ranks ?? 1) !== 1) {
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      `createEngine: a page is one rank in this version, got ranks=${options.ranks}`,
    );
  }
  if (options.device) return new LocalEngine(adoptDevice(options.device, await fetchShaders()), options);
  const { gpu } = navigator;
  if (!gpu) {
    throw new DeviceError(
      'ERR_NO_ADAPTER',
      'createEngine: this browser or context has no WebGPU; it needs https or localhost',
    );
  }
  return new LocalEngine(await requestGpu(gpu, await fetchShaders()), options);
}

// Dawn's Node binding, the npm package `webgpu`: loaded on demand, because it is an optional dependency, and asked which
// adapters there are.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { DeviceError } from '../errors.ts';

export const WEBGPU_INSTALL = 'npm install webgpu@0.6.2';

/** The binding. `create` takes flags such as `adapter=<part of a name>`. */
export interface Dawn {
  create(flags: string[]): GPU;
}

/** Loads the binding. Throws DeviceError ERR_NO_ADAPTER, with the command that installs it, when it is not there. */
export async function loadDawn(): Promise<Dawn> {
  try {
    const { create } = await import('webgpu');
    return { create };
  } catch (cause) {
    throw new DeviceError(
      'ERR_NO_ADAPTER',
      `loadDawn: the package webgpu cannot be loaded: ${(cause as Error).message}; ${WEBGPU_INSTALL}`,
      { cause },
    );
  }
}

/** The folder of dawn.node, where Dawn looks for the Vulkan loader first; undefined when it is not installed. */
export function findDawn(): string | undefined {
  try {
    const entry = createRequire(import.meta.url).resolve('webgpu');
    const platform = process.platform === 'darwin' ? 'darwin-universal' : `${process.platform}-${process.arch}`;
    return join(dirname(entry), 'dist', platform);
  } catch {
    return undefined;
  }
}

/** A name that no adapter has: Dawn answers with a list of those that there are. */
const NO_SUCH_ADAPTER = 'kvring: list all';

/** The names of the adapters that the drivers of this process offer, best first as the driver loader orders them. */
export async function listAdapters({ create }: Dawn): Promise<string[]> {
  try {
    await create([`adapter=${NO_SUCH_ADAPTER}`]).requestAdapter();
    return [];
  } catch (error) {
    const names = [...(error as Error).message.matchAll(/backend: '(\w+)', name: '(.*)'/g)]
      .filter(([, backend]) => backend !== 'null')
      .map(([, , name]) => name);
    return [...new Set(names)];
  }
}

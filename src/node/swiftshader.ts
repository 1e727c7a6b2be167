// SwiftShader, a Vulkan driver that runs on the CPU, from the npm package @sparticuz/chromium: unpacked once into the cache
// folder, whole or not at all, however many processes start at the same time. No root and no system package needed.
import { randomUUID } from 'node:crypto';
import { copyFile, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { brotliDecompress } from 'node:zlib';
import { ConfigError } from '../errors.ts';
import { cacheFolder } from './cache-folder.ts';
import { readTar } from './tar.ts';

/** The last release that runs on Node 20. */
export const CHROMIUM_PACKAGE = '@sparticuz/chromium@147.0.0';

const LOADER = 'libvulkan.so.1';
const ICD = 'vk_swiftshader_icd.json';
const FILES = [LOADER, 'libvk_swiftshader.so', ICD];

/** An unpacked driver. */
export interface SwiftShader {
  /** For VK_ICD_FILENAMES. */
  icdFile: string;
  /** Holds the Vulkan loader libvulkan.so.1, for LD_LIBRARY_PATH where the system has none. */
  folder: string;
}

/** The folder of the installed package, or undefined. */
export function findChromiumPackage(): string | undefined {
  try {
    // …/node_modules/@sparticuz/chromium/build/cjs/index.cjs
    const entry = createRequire(import.meta.url).resolve('@sparticuz/chromium');
    return dirname(dirname(dirname(entry)));
  } catch {
    return undefined;
  }
}

/** Unpacks the driver unless it is there already. Undefined when the package is not installed, or not for this CPU. */
export async function unpackSwiftShader(): Promise<SwiftShader | undefined> {
  if (process.platform !== 'linux' || process.arch !== 'x64') return undefined;
  const root = findChromiumPackage();
  const archive = root === undefined ? undefined : join(root, 'bin', 'swiftshader.tar.br');
  if (archive === undefined || !(await exists(archive))) return undefined;
  // Named after the archive's size, so that another version of the package gets a folder of its own.
  const folder = join(await cacheFolder(), `swiftshader-${(await stat(archive)).size}`);
  if (!(await exists(join(folder, ICD)))) await unpack(archive, folder);
  return { icdFile: join(folder, ICD), folder };
}

/**
 * Puts the Vulkan loader beside Dawn's binding, which looks there first. False when that folder cannot be written: then a
 * process has to be started with LD_LIBRARY_PATH.
 */
export async function placeLoader({ folder }: SwiftShader, dawnFolder: string): Promise<boolean> {
  const target = join(dawnFolder, LOADER);
  const temporary = `${target}.${randomUUID()}`;
  try {
    await copyFile(join(folder, LOADER), temporary);
    await rename(temporary, target);
    return true;
  } catch {
    await rm(temporary, { force: true });
    return false;
  }
}

/** Fills a folder of its own, then gives it its name in one step. Whoever comes second throws its copy away. */
async function unpack(archive: string, folder: string): Promise<void> {
  const files = readTar(await promisify(brotliDecompress)(await readFile(archive)));
  const temporary = `${folder}.${randomUUID()}`;
  await mkdir(temporary, { mode: 0o700 });
  try {
    for (const name of FILES) {
      const content = files.get(name);
      if (!content) throw new ConfigError('ERR_FILE', `unpackSwiftShader: ${archive} has no ${name}`);
      await writeFile(join(temporary, name), content, { mode: 0o755 });
    }
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    if (!(await exists(join(folder, ICD)))) throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}

// Reads shaders/ from the package, wherever it runs from: the sources, dist/, or an installed copy.
import { readdir, readFile } from 'node:fs/promises';
import type { ShaderLibrary } from '../gpu/shader-library.ts';
import { packageRoot } from './package-info.ts';

/** Every `.wgsl` file of shaders/, by its name. */
export async function readShaders(): Promise<ShaderLibrary> {
  const folder = new URL('shaders/', packageRoot());
  const names = (await readdir(folder)).filter((name) => name.endsWith('.wgsl'));
  const texts = await Promise.all(names.map((name) => readFile(new URL(name, folder), 'utf8')));
  return new Map(names.map((name, index) => [name, texts[index]]));
}

// Shader texts for a page: the package's own .wgsl files, fetched from beside its modules.
import { DeviceError } from '../errors.ts';
import { SHADER_FILES, type ShaderLibrary } from '../gpu/shader-library.ts';

/** Fetches every shader below `baseUrl`; default: the package's shaders/ folder as dist/ lies in it. */
export async function fetchShaders(baseUrl = new URL('../../../shaders/', import.meta.url)): Promise<ShaderLibrary> {
  const texts = SHADER_FILES.map(async (name) => {
    const url = new URL(name, baseUrl);
    const response = await fetch(url);
    if (!response.ok)
      throw new DeviceError('ERR_SHADER', `fetchShaders: ${url.href} must be served, got status=${response.status}`);
    return [name, await response.text()] as const;
  });
  return new Map(await Promise.all(texts));
}

// Files, read whole and written whole: a file that kvring writes is either the old one or the new one, never half of one.
import { randomUUID } from 'node:crypto';
import { readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ConfigError } from '../errors.ts';
import { decodeSafetensors, encodeSafetensors, type SafetensorsContent } from '../tensor/safetensors.ts';
import type { HostTensor } from '../tensor/tensor.ts';

/** The bytes of a file. Throws a ConfigError ERR_FILE with the path when it cannot be read. */
export async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw fileError('read', path, cause);
  }
}

/**
 * Writes a file through a temporary one beside it and a rename. Throws a ConfigError ERR_FILE with the path when it
 * cannot be written; what was there before is then still there.
 */
export async function writeBytes(path: string, content: Uint8Array | string): Promise<void> {
  await checkWritable(path);
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await writeFile(temporary, content, { flag: 'wx' });
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw fileError('write', path, cause);
  }
}

/** Throws a ConfigError ERR_FILE unless a file can stand at `path`: in a directory that exists, and not be one itself. */
export async function checkWritable(path: string): Promise<void> {
  const isDirectory = async (at: string) => (await stat(at).catch(() => undefined))?.isDirectory();
  if (await isDirectory(path)) throw fileError('write', path, 'it is a directory; name a file in it');
  if (!(await isDirectory(dirname(path)))) throw fileError('write', path, 'its directory does not exist');
}

/** Reads a safetensors file. Errors are those of {@link readBytes} and {@link decodeSafetensors}. */
export async function readSafetensors(path: string): Promise<SafetensorsContent> {
  return decodeSafetensors(await readBytes(path));
}

/** Writes a safetensors file. Errors are those of {@link writeBytes} and {@link encodeSafetensors}. */
export async function writeSafetensors(path: string, tensors: Readonly<Record<string, HostTensor>>): Promise<void> {
  await writeBytes(path, encodeSafetensors(tensors));
}

function fileError(verb: 'read' | 'write', path: string, cause: unknown): ConfigError {
  return new ConfigError('ERR_FILE', `files: cannot ${verb} path=${path}: ${describeCause(cause)}`, { cause });
}

function describeCause(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const { code } = cause as NodeJS.ErrnoException;
  if (code === 'ENOENT') return 'there is no such file';
  if (code === 'EISDIR') return 'it is a directory';
  if (code === 'EACCES') return 'permission denied';
  return cause.message;
}

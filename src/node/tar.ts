// Reads the regular files of an uncompressed ustar archive. Pure.
import { ConfigError } from '../errors.ts';

const BLOCK = 512;
/** Fields of a header: name at 0, size (octal) at 124, type at 156. */
const NAME_LENGTH = 100;
const SIZE_OFFSET = 124;
const SIZE_LENGTH = 12;
const TYPE_OFFSET = 156;

/** The content of every regular file of an archive, by name, without a copy. */
export function readTar(archive: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  let offset = 0;
  while (offset + BLOCK <= archive.length && archive[offset] !== 0) {
    const name = readText(archive, offset, NAME_LENGTH);
    const size = Number.parseInt(readText(archive, offset + SIZE_OFFSET, SIZE_LENGTH), 8);
    const type = String.fromCharCode(archive[offset + TYPE_OFFSET]);
    const start = offset + BLOCK;
    if (!Number.isSafeInteger(size) || start + size > archive.length) {
      throw new ConfigError('ERR_FILE', `readTar: the archive is cut short or damaged at ${name}, got size=${size}`);
    }
    if (type === '0' || type === '\0') files.set(name.replace(/^\.\//, ''), archive.subarray(start, start + size));
    offset = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  return files;
}

function readText(archive: Buffer, offset: number, length: number): string {
  const field = archive.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return field.toString('latin1', 0, end < 0 ? length : end);
}

// CRC-32 (IEEE 802.3, the one of zlib and PNG) in plain JavaScript, and the type by which a platform injects a faster one.
// Guards against bytes that changed on the way, not against an attacker: the token of the run does that.

/**
 * CRC-32 of `bytes`, an unsigned 32-bit integer. With `seed` = the CRC of what came before, the CRC of both together;
 * default 0, the CRC of no bytes.
 */
export type Crc32 = (bytes: Uint8Array, seed?: number) => number;

/** The reversed polynomial. */
const POLYNOMIAL = 0xedb88320;

/** TABLES[k][b] is the effect of byte b when k zero bytes follow it, so that four bytes take one step. */
const TABLES = /* @__PURE__ */ createTables();

function createTables(): readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array] {
  const tables = [0, 1, 2, 3].map(() => new Uint32Array(256)) as [Uint32Array, Uint32Array, Uint32Array, Uint32Array];
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[0][byte] = crc;
  }
  for (let k = 1; k < 4; k++) {
    for (let byte = 0; byte < 256; byte++) {
      const previous = tables[k - 1][byte];
      tables[k][byte] = (previous >>> 8) ^ tables[0][previous & 0xff];
    }
  }
  return tables;
}

/** The default {@link Crc32}: correct everywhere, roughly a tenth of the speed of zlib's. */
export function crc32(bytes: Uint8Array, seed = 0): number {
  const [t0, t1, t2, t3] = TABLES;
  let crc = ~seed;
  let i = 0;
  for (const end = bytes.length - 3; i < end; i += 4) {
    crc ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    crc = t3[crc & 0xff] ^ t2[(crc >>> 8) & 0xff] ^ t1[(crc >>> 16) & 0xff] ^ t0[crc >>> 24];
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]) & 0xff];
  return ~crc >>> 0;
}

/** CRC-32 of a text's UTF-8 bytes: turns a run id or a list of shapes into the 32 bits that a frame carries. */
export function hashText(text: string): number {
  return crc32(new TextEncoder().encode(text));
}

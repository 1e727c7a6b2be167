// How the links of a run are protected: TLS from PEM files, or clear text where only this machine can see it.
import { readFile } from 'node:fs/promises';
import { ConfigError } from '../errors.ts';

export interface LinkSecurity {
  /** Allows plain ws:// off this host. */
  insecure: boolean;
  /** PEM files; with a certificate this side's servers are wss://. */
  tlsCert: string | undefined;
  tlsKey: string | undefined;
  /** Whose certificates are trusted; undefined trusts what Node trusts. */
  tlsCa: string | undefined;
}

/** For links that never leave this host. */
export const LOOPBACK_SECURITY: LinkSecurity = {
  insecure: false,
  tlsCert: undefined,
  tlsKey: undefined,
  tlsCa: undefined,
};

/** The certificate and key, where they are given. Throws ConfigError ERR_FILE when a file cannot be read. */
export async function readTls({ tlsCert, tlsKey }: LinkSecurity): Promise<{ cert: Buffer; key: Buffer } | undefined> {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  return { cert: await readPem(tlsCert), key: await readPem(tlsKey) };
}

/** Reads a PEM file. Throws ConfigError ERR_FILE. */
export async function readPem(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new ConfigError('ERR_FILE', `TLS: cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
}

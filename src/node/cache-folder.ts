// Where kvring keeps what it unpacks: KVRING_CACHE, else the user's cache folder, else a private folder of the system's
// temporary one.
import { access, constants, lstat, mkdir } from 'node:fs/promises';
import { homedir, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { ConfigError } from '../errors.ts';

/** The first of the candidate folders that can be made and written, as an absolute path. */
export async function cacheFolder(env: NodeJS.ProcessEnv = process.env): Promise<string> {
  if (env.KVRING_CACHE) {
    if (await makeWritable(env.KVRING_CACHE)) return env.KVRING_CACHE;
    throw new ConfigError('ERR_FILE', `cacheFolder: KVRING_CACHE must be writable, got ${env.KVRING_CACHE}`);
  }
  const candidates = [
    join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kvring'),
    join(tmpdir(), `kvring-${userInfo().username}`),
  ];
  for (const folder of candidates) if (await makeWritable(folder)) return folder;
  throw new ConfigError('ERR_FILE', `cacheFolder: none of ${candidates.join(', ')} is writable; set KVRING_CACHE`);
}

/** Also refuses a folder of somebody else: libraries are loaded from here, and everybody can write to /tmp. */
async function makeWritable(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await access(folder, constants.W_OK);
    const { uid } = await lstat(folder);
    return process.getuid === undefined || uid === process.getuid();
  } catch {
    return false;
  }
}

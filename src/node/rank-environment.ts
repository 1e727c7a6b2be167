// The environment variables that a launcher gives a rank process, and that a rank process reads: torchrun's names, plus
// KVRING_* for what torchrun does not know.
import { ConfigError } from '../errors.ts';
import type { LinkSecurity } from './link-security.ts';

export interface RankEnvironment extends LinkSecurity {
  rank: number;
  worldSize: number;
  localRank: number;
  localWorldSize: number;
  /** Where the coordinator listens. */
  masterAddress: string;
  masterPort: number;
  /** The secret that lets a client in; never printed. */
  token: string;
  runId: string;
  /** A part of the adapter's name. */
  adapter: string | undefined;
  /** Payload checksums: on, off, or (undefined) on over plain ws:// off this host. */
  checksum: boolean | undefined;
  /** Largest payload of a frame, in bytes; undefined is the transport's default. */
  chunkBytes: number | undefined;
}

/** The variables of one rank process, to be added to its environment. */
export function encodeRankEnvironment(rank: RankEnvironment): Record<string, string> {
  const optional: Record<string, string | undefined> = {
    KVRING_TLS_CERT: rank.tlsCert,
    KVRING_TLS_KEY: rank.tlsKey,
    KVRING_TLS_CA: rank.tlsCa,
    KVRING_ADAPTER: rank.adapter,
    KVRING_CHECKSUM: rank.checksum === undefined ? undefined : rank.checksum ? '1' : '0',
    KVRING_CHUNK_BYTES: rank.chunkBytes?.toString(),
    KVRING_INSECURE: rank.insecure ? '1' : undefined,
  };
  return {
    RANK: String(rank.rank),
    WORLD_SIZE: String(rank.worldSize),
    LOCAL_RANK: String(rank.localRank),
    LOCAL_WORLD_SIZE: String(rank.localWorldSize),
    MASTER_ADDR: rank.masterAddress,
    MASTER_PORT: String(rank.masterPort),
    KVRING_TOKEN: rank.token,
    KVRING_RUN_ID: rank.runId,
    ...(Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)) as Record<
      string,
      string
    >),
  };
}

/** Reads the variables that `kvring launch` sets. Throws ConfigError ERR_OPTION that names the first one missing. */
export function readRankEnvironment(env: Readonly<Record<string, string | undefined>>): RankEnvironment {
  return {
    rank: readInteger(env, 'RANK'),
    worldSize: readInteger(env, 'WORLD_SIZE'),
    localRank: readInteger(env, 'LOCAL_RANK'),
    localWorldSize: readInteger(env, 'LOCAL_WORLD_SIZE'),
    masterAddress: readString(env, 'MASTER_ADDR'),
    masterPort: readInteger(env, 'MASTER_PORT'),
    token: readString(env, 'KVRING_TOKEN'),
    runId: env.KVRING_RUN_ID ?? 'default',
    insecure: env.KVRING_INSECURE === '1',
    tlsCert: env.KVRING_TLS_CERT,
    tlsKey: env.KVRING_TLS_KEY,
    tlsCa: env.KVRING_TLS_CA,
    adapter: env.KVRING_ADAPTER,
    checksum: env.KVRING_CHECKSUM === undefined ? undefined : env.KVRING_CHECKSUM === '1',
    chunkBytes: env.KVRING_CHUNK_BYTES === undefined ? undefined : readInteger(env, 'KVRING_CHUNK_BYTES'),
  };
}

function readString(env: Readonly<Record<string, string | undefined>>, name: string): string {
  const value = env[name];
  if (!value) {
    throw new ConfigError(
      'ERR_OPTION',
      `init: ${name} is not set; start the script with: kvring launch --nproc-per-node N script`,
    );
  }
  return value;
}

function readInteger(env: Readonly<Record<string, string | undefined>>, name: string): number {
  const text = readString(env, name);
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new ConfigError('ERR_OPTION', `init: ${name} must be a whole number, got ${name}=${text}`);
  }
  return value;
}

// The engine's interface and options, the same wherever it runs, and their validation: what an engine cannot honour is
// refused before any work.
import { LAYOUTS, type Layout } from '../attention/layout.ts';
import type { AttentionInputs, AttentionResult, MaskType } from '../attention/shape.ts';
import { ConfigError } from '../errors.ts';
import type { RunMetrics } from '../trace/counters.ts';
import type { RankTimeline } from '../trace/timeline.ts';

export interface EngineOptions {
  /** Ranks of the ring, 1 to 64; default 1, which stays in this process. */
  ranks?: number;
  /** How the sequence is split; default zigzag. */
  layout?: Layout;
  /** Default p2p, the only one of this version. */
  cpCommType?: 'p2p';
  /** A part of the adapter's name; default: the best that is there (also KVRING_ADAPTER). */
  adapter?: string;
  /** The caller's device, for ranks: 1. It is left as it was when the engine closes. */
  device?: GPUDevice;
  /** The deadline of every wait for another rank, in ms; default 60 000. A ring of one waits for nobody. */
  timeoutMs?: number;
  /** How often a rank says that it lives, in ms; default 1000. */
  heartbeatMs?: number;
  /** Checksums of payloads; default: on over plain ws:// off this host, where ranks of this version never are. */
  checksum?: boolean;
  /** Largest payload of a frame, in bytes; default 2 MiB. */
  chunkBytes?: number;
  /** Record a timeline of every call; default false. */
  trace?: boolean;
  /** Aborts the start. */
  signal?: AbortSignal;
}

/** Options of one call. */
export interface ForwardOptions {
  /** Default no_mask. */
  maskType?: MaskType;
  /** Default 1/√Dqk. */
  softmaxScale?: number;
  /** Rejects the call with the signal's reason; the engine is ready for the next. */
  signal?: AbortSignal;
  /** The deadline of every wait for another rank in this call, in ms; default the engine's. */
  timeoutMs?: number;
}

export interface Engine {
  readonly ranks: number;
  /** The adapter of each rank, by rank. */
  readonly adapters: readonly string[];
  /**
   * Attention of q [B, Sq, H, Dqk] over k [B, Skv, Hkv, Dqk] and v [B, Skv, Hkv, Dv], f32: out [B, Sq, H, Dv] and
   * lse [B, H, Sq]. Calls run one after another. Rejects with ConfigError before any work when the tensors or options
   * do not fit, DeviceError when they exceed the adapter, RingAbortError when a rank fails: no part of a result is kept.
   */
  forward(inputs: AttentionInputs, options?: ForwardOptions): Promise<AttentionResult>;
  /** Counters of the last call, by rank. */
  metrics(): RunMetrics;
  /** Timelines of the last call, by rank; empty without `trace`. */
  timelines(): RankTimeline[];
  /** Ends every rank process. Idempotent; leaves no handle behind. */
  close(): Promise<void>;
}

export const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_RANKS = 64;

type Check = (value: unknown) => string | undefined;

const isPositive: Check = (value) =>
  Number.isSafeInteger(value) && (value as number) > 0 ? undefined : 'a positive whole number';
const isBoolean: Check = (value) => (typeof value === 'boolean' ? undefined : 'true or false');

const CHECKS: Record<keyof EngineOptions, Check> = {
  ranks: (value) =>
    isPositive(value) ?? ((value as number) <= MAX_RANKS ? undefined : `at most ${MAX_RANKS} on one machine`),
  layout: (value) => (LAYOUTS.includes(value as Layout) ? undefined : `one of ${LAYOUTS.join(', ')}`),
  cpCommType: (value) => (value === 'p2p' ? undefined : 'p2p: this version has no other'),
  adapter: (value) => (typeof value === 'string' && value !== '' ? undefined : "a part of an adapter's name"),
  device: (value) => (typeof value === 'object' && value !== null ? undefined : 'a GPUDevice'),
  timeoutMs: isPositive,
  heartbeatMs: isPositive,
  checksum: isBoolean,
  chunkBytes: isPositive,
  trace: isBoolean,
  signal: (value) => (value instanceof AbortSignal ? undefined : 'an AbortSignal'),
};

/** Options of the design that this version does not honour: refused, never ignored. */
const LATER_OPTIONS = ['remoteRanks', 'port', 'wireDtype', 'hierarchicalContextParallelSizes', 'seed', 'dropout'];

/** Throws ConfigError for an option that is unknown, out of range, or of a later version. */
export function validateEngineOptions(options: EngineOptions): void {
  checkOptions('createEngine', options, CHECKS, LATER_OPTIONS);
  if (options.device && (options.ranks ?? 1) !== 1) {
    throw new ConfigError(
      'ERR_OPTION',
      `createEngine: device is for ranks: 1, since a rank process opens its own, got ranks=${options.ranks}`,
    );
  }
}

const FORWARD_CHECKS: Record<keyof ForwardOptions, Check> = {
  // The values of these two are checked with the shapes.
  maskType: () => undefined,
  softmaxScale: () => undefined,
  signal: CHECKS.signal,
  timeoutMs: isPositive,
};
const LATER_FORWARD_OPTIONS = ['window', 'softcap', 'sink', 'dropout', 'seed', 'dtype', 'wireDtype', 'checksum'];

/** Throws ConfigError for inputs or options of a call that this version does not know. */
export function validateForward(inputs: AttentionInputs, options: ForwardOptions): void {
  checkOptions('forward', options, FORWARD_CHECKS, LATER_FORWARD_OPTIONS);
  const later = ['bias', 'sink', 'alibiSlopes', 'cuSeqlensQ', 'cuSeqlensKv'];
  for (const [name, value] of Object.entries(inputs ?? {})) {
    if (name in { q: 0, k: 0, v: 0 } || value === undefined) continue;
    const code = later.includes(name) ? 'ERR_UNSUPPORTED' : 'ERR_OPTION';
    throw new ConfigError(code, `forward: this version takes the tensors q, k and v, got ${name}`);
  }
}

function checkOptions(
  where: string,
  options: object,
  checks: Readonly<Record<string, Check>>,
  later: readonly string[],
): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (later.includes(name)) {
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `${where}: this version does not have ${name}, got ${name}=${String(value)}`,
      );
    }
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined;
    if (!check) {
      throw new ConfigError(
        'ERR_OPTION',
        `${where}: unknown option ${name}; known are ${Object.keys(checks).join(', ')}`,
      );
    }
    const rule = check(value);
    if (rule) throw new ConfigError('ERR_OPTION', `${where}: ${name} must be ${rule}, got ${name}=${String(value)}`);
  }
}

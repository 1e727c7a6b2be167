// The engine's interface and options, the same wherever it runs, and their validation: what an engine cannot honour is
// refused before any work.
import { LAYOUTS, type Layout } from '../attention/layout.ts';
import {
  type AttentionGradients,
  type AttentionInputs,
  type AttentionResult,
  describeCall,
  OPTIONAL_TENSORS,
} from '../attention/call.ts';
import { type AttentionOptions, OPTION_NAMES } from '../attention/options.ts';
import { ConfigError } from '../errors.ts';
import type { FloatDType, HostTensor } from '../tensor/tensor.ts';
import type { RunMetrics } from '../trace/counters.ts';
import type { RankTimeline } from '../trace/timeline.ts';
import type { RingCall } from './ring-plan.ts';

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

/** Options of one call: what changes its result, see {@link AttentionOptions}, and how long it may take. */
export interface ForwardOptions extends Partial<AttentionOptions>, BackwardOptions {
  /**
   * What q, k, v and dout are rounded to on devices and on the wire; out and gradients keep q's dtype. Default q's dtype.
   * Sums are always f32.
   */
  dtype?: FloatDType;
}

export interface BackwardOptions {
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
   * Attention of q over k and v (FlashAttention-2, Dao 2023, arXiv 2307.08691; over ranks: Liu et al. 2023, arXiv 2310.01889).
   * {@link AttentionInputs} has the shapes, {@link AttentionOptions} the formula, masks and defaults,
   * {@link AttentionResult} what comes back. Calls run one after another.
   *
   * Rejects with ConfigError before any work when tensors or options do not fit, DeviceError when they exceed the
   * adapter, RingAbortError when a rank fails: no part of a result is kept.
   */
  forward(inputs: AttentionInputs, options?: ForwardOptions): Promise<AttentionResult>;
  /**
   * Gradients of the last forward's inputs for dout, the gradient of its out: same shape, same dtype. May be called again
   * with another dout. Gradients are the same bits on every run.
   *
   * Rejects with ConfigError ERR_ORDER before any forward, ERR_SHAPE or ERR_DTYPE for a dout that does not fit,
   * ERR_UNSUPPORTED with several ranks, and otherwise as `forward` does.
   */
  backward(dout: HostTensor, options?: BackwardOptions): Promise<AttentionGradients>;
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
const LATER_OPTIONS = ['remoteRanks', 'port', 'wireDtype', 'hierarchicalContextParallelSizes'];

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

const BACKWARD_CHECKS: Record<keyof BackwardOptions, Check> = { signal: CHECKS.signal, timeoutMs: isPositive };
const FORWARD_CHECKS: Record<string, Check> = {
  // The values of these are checked with the tensors.
  ...Object.fromEntries(OPTION_NAMES.map((name) => [name, () => undefined])),
  ...BACKWARD_CHECKS,
  dtype: () => undefined,
};
const LATER_FORWARD_OPTIONS = ['wireDtype', 'checksum'];

/** Throws ConfigError for inputs or options of a call that this version does not know. */
function validateForward(inputs: AttentionInputs, options: ForwardOptions): void {
  checkOptions('forward', options, FORWARD_CHECKS, LATER_FORWARD_OPTIONS);
  const known: readonly string[] = ['q', 'k', 'v', ...OPTIONAL_TENSORS];
  const unknown = Object.keys(inputs ?? {}).find((name) => !known.includes(name));
  if (unknown === undefined) return;
  throw new ConfigError('ERR_OPTION', `forward: unknown tensor ${unknown}; known are ${known.join(', ')}`);
}

/** Throws ConfigError for options that backward does not have. */
export function validateBackward(options: BackwardOptions): void {
  checkOptions('backward', options, BACKWARD_CHECKS, LATER_FORWARD_OPTIONS);
}

/** The call that tensors and options make on an engine. Throws ConfigError before anything is asked of a rank. */
export function createRingCall(inputs: AttentionInputs, options: ForwardOptions, engine: EngineOptions): RingCall {
  validateForward(inputs, options);
  const chosen: Partial<AttentionOptions> = Object.fromEntries(
    OPTION_NAMES.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]),
  );
  return { ...describeCall(inputs, chosen, options.dtype), layout: engine.layout ?? 'zigzag' };
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

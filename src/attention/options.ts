// What changes the result of an attention call besides its tensors: the options of the API, of JSON and of the command
// line under one set of names, their defaults and their validation. Pure.
import { ConfigError } from '../errors.ts';
import { MASK_TYPES, type MaskType, UNLIMITED, type Window } from './mask.ts';

/** What a sink adds to the denominator of a row: nothing, exp(0), or exp(sink_h) with a learnable logit per head. */
export const SINKS = ['none', 'off_by_one', 'learnable'] as const;
export type Sink = (typeof SINKS)[number];

/**
 * Options of one call, every default filled in. With q of position i and k of position j (within their sequence),
 *
 *   score = softcap(softmaxScale · q·k) + bias[i, j] − slope_h · |i + o − j|,   softcap(x) = c · tanh(x / c)
 *   p     = exp(score) / (Σ_j exp(score) + exp(sink_h)),                        out = Σ_j dropout(p) · v
 *
 * over the keys that `maskType` and `window` keep; o is 0, or lenKv − lenQ for the bottom-right types.
 */
export interface AttentionOptions {
  /** Default `no_mask`; see {@link MASK_TYPES} for drawings. */
  maskType: MaskType;
  /**
   * Sliding window (Beltagy et al. 2020, arXiv 2004.05150): keeps i + o − left ≤ j ≤ i + o + right; −1 is unlimited.
   * Default [−1, −1]. `window: [1, 0]` with 4 queries and keys:
   *
   *   x . . .
   *   x x . .
   *   . x x .
   *   . . x x
   */
  window: Window;
  /** Multiplies q·k; finite. Default 1/√Dqk. */
  softmaxScale: number;
  /** c of the logit soft cap (Gemma 2, arXiv 2408.00118, §2); 0, the default, is off. */
  softcap: number;
  /** Default `none`. `off_by_one`: a key of score 0 and value 0. `learnable`: its score is the tensor `sink` [H]. */
  sink: Sink;
  /** Probability that a weight is dropped, 0 ≤ p < 1; kept ones are scaled by 1/(1 − p). Default 0. */
  dropout: number;
  /** Seed of the dropout mask, an integer from 0 to 2⁵³ − 1. Default 0. The mask depends on it and on positions alone. */
  seed: number;
  /** Also give the largest score of each head (for QK-clip). Default false. */
  maxLogit: boolean;
}

export const OPTION_NAMES = [
  'maskType',
  'window',
  'softmaxScale',
  'softcap',
  'sink',
  'dropout',
  'seed',
  'maxLogit',
] as const satisfies readonly (keyof AttentionOptions)[];

/** The options with their defaults. Throws ConfigError ERR_OPTION for a value out of range. */
export function fillOptions(options: Partial<AttentionOptions>, headDimQk: number): AttentionOptions {
  // Defaults of a destructuring, so that null is a value like any other, and refused.
  const {
    maskType = 'no_mask',
    window = [-1, -1],
    softmaxScale = 1 / Math.sqrt(headDimQk),
    softcap = 0,
    sink = 'none',
    dropout = 0,
    seed = 0,
    maxLogit = false,
  } = options;
  const filled: AttentionOptions = { maskType, window, softmaxScale, softcap, sink, dropout, seed, maxLogit };
  validateOptions(filled);
  return filled;
}

/** Throws ConfigError ERR_OPTION unless every option is known and in range. */
export function validateOptions(options: AttentionOptions): void {
  const { maskType, window, softmaxScale, softcap, sink, dropout, seed, maxLogit } = options;
  const isExtent = (value: unknown): boolean =>
    Number.isSafeInteger(value) && (value as number) >= -1 && (value as number) < UNLIMITED;
  const rules: [keyof AttentionOptions, boolean, string][] = [
    ['maskType', MASK_TYPES.includes(maskType), `one of ${MASK_TYPES.join(', ')}`],
    [
      'window',
      Array.isArray(window) && window.length === 2 && window.every(isExtent),
      '[left, right], each an integer from -1 (unlimited)',
    ],
    ['softmaxScale', Number.isFinite(softmaxScale), 'finite'],
    ['softcap', Number.isFinite(softcap) && softcap >= 0, 'finite and at least 0 (off)'],
    ['sink', SINKS.includes(sink), `one of ${SINKS.join(', ')}`],
    ['dropout', Number.isFinite(dropout) && dropout >= 0 && dropout < 1, 'at least 0 and below 1'],
    ['seed', Number.isSafeInteger(seed) && seed >= 0, 'an integer from 0 to 2^53 - 1'],
    ['maxLogit', typeof maxLogit === 'boolean', 'true or false'],
  ];
  for (const [name, holds, rule] of rules) {
    if (holds) continue;
    throw new ConfigError('ERR_OPTION', `attention: ${name} must be ${rule}, got ${name}=${String(options[name])}`);
  }
}

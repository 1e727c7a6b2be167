// A point of the grid as the call that it stands for, and its useful work. Pure.
import { type AttentionCall, forwardFlops } from '../src/attention/call.ts';
import { fillOptions } from '../src/attention/options.ts';
import { validateShape } from '../src/attention/shape.ts';
import type { RingCall } from '../src/context-parallel/ring-plan.ts';
import { ConfigError } from '../src/errors.ts';
import type { BenchCase, Direction } from './suite.ts';

/**
 * The call of a case, without lengths. Throws ConfigError ERR_SHAPE for sizes that do not fit together, or an odd
 * head dim in 16 bits, which kvring would store in 32; ERR_OPTION for a window out of range.
 */
export function describeCase(benchCase: BenchCase): RingCall {
  const { batch, seqLen, seqLenKv, numHeads, numKvHeads, headDim, dtype, maskType, window, layout } = benchCase;
  const sizes = { batch, seqLenQ: seqLen, seqLenKv, numHeads, numKvHeads };
  const shape = { ...sizes, headDimQk: headDim, headDimV: headDim };
  validateShape(shape);
  if (dtype !== 'f32' && headDim % 2 !== 0) {
    throw new ConfigError(
      'ERR_SHAPE',
      `bench: a head dim in ${dtype} must be even, got headDim=${headDim}; kvring computes odd ones in f32`,
    );
  }
  const options = fillOptions({ maskType, window }, headDim);
  return { shape, options, dtype, storage: dtype, lengths: null, bias: null, alibi: false, layout };
}

/** Useful work of each direction, in forwards: 2 products, 5 products, and both (FlashAttention-2, arXiv 2307.08691, §4.1). */
const FORWARDS: Readonly<Record<Direction, number>> = { forward: 1, backward: 2.5, forward_backward: 3.5 };

/** Useful floating-point operations of a call, whatever the kernels compute again. */
export function usefulFlops(call: AttentionCall, direction: Direction): number {
  return FORWARDS[direction] * forwardFlops(call);
}

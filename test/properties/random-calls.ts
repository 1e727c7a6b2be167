// Random legal calls of attention, from a few kernels, so that pipelines are reused.
import fc from 'fast-check';
import { MASK_TYPES } from '../../src/attention/mask.ts';
import { type AttentionOptions, SINKS } from '../../src/attention/options.ts';
import type { FloatDType } from '../../src/tensor/tensor.ts';
import type { InputsSpec, SequenceSizes } from '../helpers/attention-inputs.ts';

/** What changes kernels beside dtype and head dims; masks, windows, lengths, sinks and scales do not. */
interface Features {
  bias?: boolean;
  alibi?: boolean;
  softcap?: number;
  dropout?: number;
  maxLogit?: boolean;
}

const POSITIONAL: Features = { alibi: true, softcap: 0.7, dropout: 0.25 };
const EVERY: Features = { ...POSITIONAL, bias: true, softcap: 1.5, maxLogit: true };

/** What kernels are compiled for: few, since each is several pipelines, of which some take seconds on a software adapter. */
const KERNELS: readonly { dtype: FloatDType; headDims: readonly [number, number]; features: Features }[] = [
  { dtype: 'f32', headDims: [16, 8], features: {} },
  { dtype: 'f32', headDims: [16, 8], features: POSITIONAL },
  { dtype: 'f32', headDims: [16, 8], features: EVERY },
  { dtype: 'f16', headDims: [8, 8], features: {} },
  { dtype: 'f16', headDims: [8, 8], features: EVERY },
  { dtype: 'bf16', headDims: [8, 16], features: POSITIONAL },
];

const HEADS = [
  [1, 1],
  [4, 2],
  [3, 1],
] as const;
/** A call that the engine takes, small enough to be shown when it fails. */
export interface RandomCall {
  spec: InputsSpec;
  options: Partial<AttentionOptions>;
}

const anyWindow = fc.oneof(
  { weight: 2, arbitrary: fc.constant<[number, number]>([-1, -1]) },
  fc.tuple(fc.integer({ min: -1, max: 12 }), fc.integer({ min: -1, max: 12 })),
);
/** Rows of a sequence of queries and of one of keys, and the padding after each. */
const anySpan = fc.tuple(fc.nat(20), fc.nat(2), fc.nat(30), fc.nat(2));

/** Legal calls of up to 80 queries and 100 keys: plain, padded or packed, with every option. */
export const anyCall: fc.Arbitrary<RandomCall> = fc
  .record({
    batch: fc.integer({ min: 1, max: 2 }),
    seqLenQ: fc.integer({ min: 1, max: 40 }),
    seqLenKv: fc.integer({ min: 1, max: 70 }),
    heads: fc.constantFrom(...HEADS),
    kernel: fc.constantFrom(...KERNELS),
    packed: fc.boolean(),
    spans: fc.array(anySpan, { minLength: 1, maxLength: 4 }),
    biasBroadcast: fc.tuple(fc.boolean(), fc.boolean()),
    maskType: fc.constantFrom(...MASK_TYPES),
    window: anyWindow,
    sink: fc.constantFrom(...SINKS),
    softmaxScale: fc.constantFrom(undefined, 0, -0.4, 0.9),
    seed: fc.nat(1000),
  })
  .map(({ heads: [numHeads, numKvHeads], kernel: { dtype, headDims, features }, ...one }) => {
    const packed = one.packed && !features.bias;
    const sizes = packed ? packedSizes(one.spans) : { batch: one.batch, seqLenQ: one.seqLenQ, seqLenKv: one.seqLenKv };
    const [headDimQk, headDimV] = headDims;
    const [oneBatch, oneHead] = one.biasBroadcast;
    const { maskType, window, sink, softmaxScale, seed } = one;
    const { bias = false, alibi = false, ...options } = features;
    const spec: InputsSpec = {
      shape: { ...sizes, numHeads, numKvHeads, headDimQk, headDimV },
      dtype,
      seed,
      packed,
      bias: bias ? [oneBatch ? 1 : sizes.batch, oneHead ? 1 : numHeads] : undefined,
      alibi,
      sink: sink === 'learnable',
      sequences: packed
        ? packedSpans(one.spans)
        : maskType.startsWith('padding')
          ? paddedSpans(one.spans, sizes)
          : undefined,
    };
    return {
      spec,
      options: { ...options, maskType, window, sink, seed, ...(softmaxScale !== undefined && { softmaxScale }) },
    };
  });

const total = (lengths: readonly number[] = []): number => lengths.reduce((sum, length) => sum + length, 0);

type Span = readonly [lenQ: number, gapQ: number, lenKv: number, gapKv: number];

/** One token more than the spans take up. */
function packedSizes(spans: readonly Span[]): { batch: number; seqLenQ: number; seqLenKv: number } {
  const { paddedQ, paddedKv } = packedSpans(spans);
  return { batch: 1, seqLenQ: total(paddedQ) + 1, seqLenKv: total(paddedKv) + 1 };
}

function packedSpans(spans: readonly Span[]): SequenceSizes {
  return {
    q: spans.map(([length]) => length),
    paddedQ: spans.map(([length, gap]) => length + gap),
    kv: spans.map(([, , length]) => length),
    paddedKv: spans.map(([, , length, gap]) => length + gap),
  };
}

/** Lengths of batch entries, from none to all of their rows. */
function paddedSpans(
  spans: readonly Span[],
  { batch, seqLenQ, seqLenKv }: { batch: number; seqLenQ: number; seqLenKv: number },
): SequenceSizes {
  const entry = (b: number) => spans[b % spans.length];
  return {
    q: Array.from({ length: batch }, (_, b) => Math.min(entry(b)[0], seqLenQ)),
    kv: Array.from({ length: batch }, (_, b) => Math.min(entry(b)[2], seqLenKv)),
  };
}

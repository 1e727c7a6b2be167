// One forward of a query shard against KV shards, as a test describes it: sizes, options, seeded inputs, and the same
// rows of the f64 reference.
import { type Shard, shardLength } from '../../src/attention/layout.ts';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { type AttentionOptions, fillOptions } from '../../src/attention/options.ts';
import { type ReferenceInputs, referenceRow } from '../../src/attention/reference.ts';
import { listSequences, type Sequence, type SequenceLengths } from '../../src/attention/sequences.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import type { ForwardAttentionVariant } from '../../src/gpu/forward-attention.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import { type FloatDType, type HostTensor, numElements } from '../../src/tensor/tensor.ts';
import { seededNormal } from './seeded.ts';

/** The largest score of a bias that {@link createInputs} makes; one element in eight removes its key instead. */
const REMOVED_BIAS = -1e30;
const REMOVED_SHARE = 8;

export interface GpuCase {
  shape: AttentionShape;
  variant: ForwardAttentionVariant;
  options?: Partial<AttentionOptions>;
  /** How q, k and v are stored; default f32. */
  dtype?: FloatDType;
  /** Packed sequences, or valid lengths of batch entries. */
  lengths?: SequenceLengths;
  /** First two sizes of a bias; default none. */
  bias?: { batch: number; heads: number };
  /** Slopes 2^−1, 2^−2, … of the heads. Default none. */
  alibi?: boolean;
  /** Tokens of the query rank; default all. */
  query?: Shard;
  /** Tokens of each KV block, in the order in which they arrive; default one block of all. */
  kv?: readonly Shard[];
}

export interface GpuInputs {
  q: HostTensor;
  k: HostTensor;
  v: HostTensor;
  bias: Float32Array;
  sink: Float32Array;
  alibiSlopes: Float32Array;
}

/** out [B, rowsQ, H, Dv] and lse, maxLogit [B, H, rowsQ] of the query shard; maxLogit is empty unless asked for. */
export interface ShardResult {
  out: ArrayLike<number>;
  lse: ArrayLike<number>;
  maxLogit: ArrayLike<number>;
}

export function createShape(sizes: Partial<AttentionShape> & { headDimQk: number }): AttentionShape {
  const { seqLenQ = 64, numHeads = 2, headDimQk } = sizes;
  return { batch: 1, seqLenQ, seqLenKv: seqLenQ, numHeads, numKvHeads: numHeads, headDimV: headDimQk, ...sizes };
}

/** N(0, 1) inputs, rounded to the dtype of the case. */
export function createInputs({ shape, dtype = 'f32', bias }: GpuCase, seed = 1): GpuInputs {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const tensor = (sizes: number[], offset: number): HostTensor =>
    fromFloat32(seededNormal(numElements(sizes), seed + offset), sizes, dtype);
  const biasElements = bias ? bias.batch * bias.heads * seqLenQ * seqLenKv : 0;
  return {
    q: tensor([batch, seqLenQ, numHeads, headDimQk], 0),
    k: tensor([batch, seqLenKv, numKvHeads, headDimQk], 1),
    v: tensor([batch, seqLenKv, numKvHeads, headDimV], 2),
    bias: seededNormal(biasElements, seed + 3).map((value, at) => (at % REMOVED_SHARE === 5 ? REMOVED_BIAS : value)),
    sink: seededNormal(numHeads, seed + 4),
    alibiSlopes: Float32Array.from({ length: numHeads }, (_, head) => 2 ** -(head + 1)),
  };
}

const whole = (length: number): Shard => [{ start: 0, length, stride: 1 }];

export interface ResolvedCase {
  options: AttentionOptions;
  sequences: Sequence[];
  query: Shard;
  kvShards: readonly Shard[];
  rowsQ: number;
}

/** What a case leaves to defaults. */
export function resolveCase({ shape, options = {}, lengths, query, kv }: GpuCase): ResolvedCase {
  const filled = fillOptions(options, shape.headDimQk);
  const shard = query ?? whole(shape.seqLenQ);
  return {
    options: filled,
    sequences: listSequences(shape, filled.maskType, lengths ?? null),
    query: shard,
    kvShards: kv ?? [whole(shape.seqLenKv)],
    rowsQ: shardLength(shard),
  };
}

/** The same rows of the f64 reference; −Infinity is MASKED_LSE, as on the device. */
export function referenceShard(testCase: GpuCase, inputs: GpuInputs): ShardResult {
  const { shape, bias, alibi, lengths = null } = testCase;
  const { options, query } = resolveCase(testCase);
  const host: ReferenceInputs = {
    q: toFloat32(inputs.q),
    k: toFloat32(inputs.k),
    v: toFloat32(inputs.v),
    bias: bias ? { data: inputs.bias, ...bias } : null,
    sink: inputs.sink,
    alibiSlopes: alibi ? inputs.alibiSlopes : undefined,
    lengths,
  };
  const tokens = query.flatMap(({ start, length, stride }) => Array.from({ length }, (_, i) => start + i * stride));
  const { batch, numHeads, headDimV } = shape;
  const out = new Float64Array(batch * tokens.length * numHeads * headDimV);
  const lse = new Float64Array(batch * numHeads * tokens.length);
  const maxLogit = new Float64Array(options.maxLogit ? lse.length : 0);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < numHeads; h++) {
      for (const [row, token] of tokens.entries()) {
        const result = referenceRow(host, shape, options, [b, h, token]);
        out.set(result.out, ((b * tokens.length + row) * numHeads + h) * headDimV);
        const index = (b * numHeads + h) * tokens.length + row;
        lse[index] = Math.max(Math.fround(MASKED_LSE), result.lse);
        if (options.maxLogit) maxLogit[index] = Math.max(Math.fround(MASKED_LSE), result.maxLogit);
      }
    }
  }
  return { out, lse, maxLogit };
}

// One backward call for the tests of kernels: its seeded inputs, its ring steps, and the gradients of the f64 reference.
import { type Shard, shardLength } from '../../src/attention/layout.ts';
import { keyInterval } from '../../src/attention/mask.ts';
import { type AttentionOptions, fillOptions } from '../../src/attention/options.ts';
import { type ReferenceGradients, referenceBackward } from '../../src/attention/reference-backward.ts';
import type { ReferenceInputs } from '../../src/attention/reference.ts';
import { scheduleKeys, scheduleQueries } from '../../src/attention/schedule.ts';
import { listPadding, listSequences, pairShards, type Sequence } from '../../src/attention/sequences.ts';
import type { BackwardVariant } from '../../src/gpu/backward-kernel-choice.ts';
import type { KernelFeatures } from '../../src/gpu/kernel-features.ts';
import type { BlockRequest } from '../../src/gpu/prepared-block.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import { type HostTensor, numElements } from '../../src/tensor/tensor.ts';
import { createInputs, type GpuCase, type GpuInputs } from './gpu-case.ts';
import { seededNormal } from './seeded.ts';

export interface GradientCase extends Omit<GpuCase, 'variant' | 'query'> {
  variant: BackwardVariant;
  /** Tokens of every rank's queries; default one rank with all. */
  queries?: readonly Shard[];
  /** Whether rows of no sequence are listed as tiles of padding. Default true. */
  listsPadding?: boolean;
}

export interface GradientInputs extends GpuInputs {
  dout: HostTensor;
}

export function createGradientInputs(testCase: GradientCase, seed = 1): GradientInputs {
  const { shape, dtype = 'f32' } = testCase;
  const sizes = [shape.batch, shape.seqLenQ, shape.numHeads, shape.headDimV];
  const dout = seededNormal(numElements(sizes), seed + 7);
  return { ...createInputs(testCase, seed), dout: fromFloat32(dout, sizes, dtype) };
}

/** What the kernels of a case have to be compiled for. */
export function featuresOf(
  { dtype = 'f32', bias, alibi = false }: GradientCase,
  options: AttentionOptions,
): KernelFeatures {
  const { softcap, dropout } = options;
  return { dtype, alibi, bias: bias !== undefined, softcap: softcap > 0, dropout: dropout > 0 };
}

/** The inputs as the reference takes them, decoded from f16 and bf16. */
export function referenceOf({ alibi, bias, lengths }: GradientCase, inputs: GradientInputs): ReferenceInputs {
  return {
    q: toFloat32(inputs.q),
    k: toFloat32(inputs.k),
    v: toFloat32(inputs.v),
    bias: bias ? { data: inputs.bias, ...bias } : null,
    sink: inputs.sink,
    alibiSlopes: alibi ? inputs.alibiSlopes : undefined,
    lengths: lengths ?? null,
  };
}

/** The gradients of the f64 reference. */
export function referenceGradients(testCase: GradientCase, inputs: GradientInputs): ReferenceGradients {
  const options = fillOptions(testCase.options ?? {}, testCase.shape.headDimQk);
  return referenceBackward(referenceOf(testCase, inputs), testCase.shape, options, toFloat32(inputs.dout));
}

/** A case with its defaults filled in. */
export interface ResolvedGradientCase {
  testCase: GradientCase;
  options: AttentionOptions;
  sequences: Sequence[];
  queries: readonly Shard[];
  kv: readonly Shard[];
}

export function resolveGradientCase(testCase: GradientCase): ResolvedGradientCase {
  const { shape, queries, kv, lengths = null } = testCase;
  const options = fillOptions(testCase.options ?? {}, shape.headDimQk);
  const whole = (length: number): Shard => [{ start: 0, length, stride: 1 }];
  return {
    testCase,
    options,
    sequences: listSequences(shape, options.maskType, lengths),
    queries: queries ?? [whole(shape.seqLenQ)],
    kv: kv ?? [whole(shape.seqLenKv)],
  };
}

/** Rows of a tile, for each kernel. */
export interface TileRows {
  query: number;
  key: number;
  bias: number;
}

/** The blocks of one step, for each kernel: `rank` counts query shards, `step` KV shards. */
export function requestsOf(
  { testCase, options, sequences, queries, kv }: ResolvedGradientCase,
  [rank, step]: readonly [rank: number, step: number],
  { tileRows, heads }: { tileRows: TileRows; heads: GPUBuffer },
): Record<keyof TileRows, BlockRequest> {
  const { shape, lengths, bias = null, listsPadding = true } = testCase;
  const [rowsQ, rowsKv] = [shardLength(queries[rank]), shardLength(kv[step])];
  const base = { shape, options, rowsQ, rowsKv, heads, bias, packed: lengths?.packed ?? false };
  const pairs = pairShards(queries[rank], kv[step], sequences);
  const interval = keyInterval(options.maskType, options.window);
  const listing = (shard: Shard, isFirst: boolean, side: 'Q' | 'Kv') => {
    const spans = (entry: number) =>
      sequences.filter((one) => one.batch === entry).map((one) => [one[`start${side}`], one[`len${side}`]] as const);
    return { everyRow: isFirst, padding: isFirst && listsPadding ? listPadding(shard, shape.batch, spans) : [] };
  };
  const queryListing = listing(queries[rank], step === 0, 'Q');
  const keyListing = listing(kv[step], rank === 0, 'Kv');
  const queryTiles = (rows: number) => scheduleQueries(pairs, interval, { ...queryListing, tileRows: rows });
  const keyTiles = scheduleKeys(pairs, interval, { ...keyListing, tileRows: tileRows.key });
  return {
    query: { ...base, schedule: queryTiles(tileRows.query), accumulates: step > 0 },
    key: { ...base, schedule: keyTiles, accumulates: rank > 0 },
    bias: { ...base, schedule: queryTiles(tileRows.bias) },
  };
}

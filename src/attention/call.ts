// One attention call: its tensors, and everything about it that is not tensor data, as plain JSON that ranks can agree on.
// What is wrong with a call is found here, before any work. Pure.
import { ConfigError } from '../errors.ts';
import { type F32Tensor, FLOAT_DTYPES, type FloatDType, type HostTensor, validateTensor } from '../tensor/tensor.ts';
import { isCausal, keyInterval } from './mask.ts';
import { type AttentionOptions, fillOptions } from './options.ts';
import { countPairs } from './schedule.ts';
import { LENGTH_TENSORS, readLengths } from './lengths.ts';
import { listSequences, pairShards, type SequenceLengths } from './sequences.ts';
import { type AttentionShape, inferShape } from './shape.ts';

/** The tensors of a call, whole. q, k and v have one dtype: f32, f16 or bf16. */
export interface AttentionInputs {
  /** [B, Sq, H, Dqk], or packed [Tq, H, Dqk]. */
  q: HostTensor;
  /** [B, Skv, Hkv, Dqk], or packed [Tkv, Hkv, Dqk]. */
  k: HostTensor;
  /** [B, Skv, Hkv, Dv], or packed [Tkv, Hkv, Dv]. */
  v: HostTensor;
  /** [1 or B, 1 or H, Sq, Skv] f32, added to the scores; a value ≤ −1e30 (or −Infinity) removes the key. Not packed. */
  bias?: HostTensor | undefined;
  /** [H] f32: the logit of each head's sink, for `sink: 'learnable'` (StreamingLLM, arXiv 2309.17453; gpt-oss). */
  sink?: HostTensor | undefined;
  /** [H] f32: ALiBi's slope of each head (Press et al. 2021, arXiv 2108.12409, §3). */
  alibiSlopes?: HostTensor | undefined;
  /**
   * [B + 1] i32, cumulative lengths from 0 of the queries. Packed: sequence s is rows [cu[s], cu[s + 1]). With a padding
   * mask type: batch entry b has cu[b + 1] − cu[b] valid rows, its first ones.
   */
  cuSeqlensQ?: HostTensor | undefined;
  /** The same of the keys. Required with cuSeqlensQ. */
  cuSeqlensKv?: HostTensor | undefined;
  /** Packed with padding between sequences: sequence s begins at row cuPadded[s]; its length is still that of cuSeqlensQ. */
  cuSeqlensQPadded?: HostTensor | undefined;
  cuSeqlensKvPadded?: HostTensor | undefined;
}

export const OPTIONAL_TENSORS = [
  'bias',
  'sink',
  'alibiSlopes',
  ...LENGTH_TENSORS,
] as const satisfies readonly (keyof AttentionInputs)[];

/**
 * out [B, Sq, H, Dv] (packed [Tq, H, Dv]) in q's dtype, and lse [B, H, Sq] (packed [H, Tq]): the natural log of the
 * denominator of a row. A row with no key has out 0 and lse −Infinity (with a sink, lse = sink_h); so has padding.
 */
export interface AttentionResult {
  out: HostTensor;
  lse: F32Tensor;
  /** [H]: the largest score of each head, −Infinity without any; with `maxLogit`. */
  maxLogit?: F32Tensor;
}

/** Gradients of the inputs, in their shapes; dq, dk and dv in q's dtype, the others f32. 0 where nothing was attended to. */
export interface AttentionGradients {
  dq: HostTensor;
  dk: HostTensor;
  dv: HostTensor;
  /** In the shape of the bias; 0 where its value removed the key. */
  dbias?: F32Tensor;
  /** [H] */
  dsink?: F32Tensor;
}

/** A call without its tensor data. */
export interface AttentionCall {
  shape: AttentionShape;
  options: AttentionOptions;
  /** dtype of q, k, v, out and the gradients, as the caller has them. */
  dtype: FloatDType;
  /** How q, k, v and dout lie on devices and travel. */
  storage: FloatDType;
  /** Null: every batch entry is one sequence, of full length. */
  lengths: SequenceLengths | null;
  /** First two sizes of the bias; null without one. */
  bias: { batch: number; heads: number } | null;
  alibi: boolean;
}

/**
 * The call that tensors and options make. Throws ConfigError for whatever does not fit together.
 *
 * @param dtype what q, k and v are rounded to on devices and on the wire; default that of q
 */
export function describeCall(
  inputs: AttentionInputs,
  options: Partial<AttentionOptions> = {},
  dtype?: FloatDType,
): AttentionCall {
  const shape = inferShape(inputs.q, inputs.k, inputs.v);
  const filled = fillOptions(options, shape.headDimQk);
  const { numHeads } = shape;
  checkPerHead('sink', inputs.sink, numHeads, filled.sink === 'learnable');
  checkPerHead('alibiSlopes', inputs.alibiSlopes, numHeads, inputs.alibiSlopes !== undefined);
  return {
    shape,
    options: filled,
    dtype: inputs.q.dtype as FloatDType,
    storage: chooseStorage(dtype ?? (inputs.q.dtype as FloatDType), shape),
    lengths: readLengths(inputs, shape, filled.maskType),
    bias: readBias(inputs, shape),
    alibi: inputs.alibiSlopes !== undefined,
  };
}

/** The dtype, but f32 where a head dim is odd, so that the two 16-bit elements of a word never belong to two rows. */
function chooseStorage(dtype: FloatDType, { headDimQk, headDimV }: AttentionShape): FloatDType {
  if (!FLOAT_DTYPES.includes(dtype)) {
    throw new ConfigError(
      'ERR_DTYPE',
      `attention: dtype must be one of ${FLOAT_DTYPES.join(', ')}, got dtype=${String(dtype)}`,
    );
  }
  return headDimQk % 2 === 0 && headDimV % 2 === 0 ? dtype : 'f32';
}

function checkPerHead(name: string, tensor: HostTensor | undefined, numHeads: number, wanted: boolean): void {
  if (tensor === undefined && !wanted) return;
  if (tensor === undefined) {
    throw new ConfigError('ERR_OPTION', `attention: sink=learnable needs the tensor ${name} [${numHeads}], got none`);
  }
  validateTensor(name, tensor);
  if (!wanted) {
    throw new ConfigError(
      'ERR_OPTION',
      `attention: the tensor ${name} is for sink=learnable; set it or leave the tensor out`,
    );
  }
  if (tensor.dtype !== 'f32') throw new ConfigError('ERR_DTYPE', `attention: ${name} must be f32, got ${tensor.dtype}`);
  if (tensor.shape.length !== 1 || tensor.shape[0] !== numHeads) {
    throw new ConfigError('ERR_SHAPE', `attention: ${name} must be [${numHeads}], got [${tensor.shape.join(', ')}]`);
  }
}

function readBias({ q, bias }: AttentionInputs, shape: AttentionShape): AttentionCall['bias'] {
  if (bias === undefined) return null;
  validateTensor('bias', bias);
  const { batch, numHeads, seqLenQ, seqLenKv } = shape;
  if (q.shape.length === 3) {
    throw new ConfigError(
      'ERR_OPTION',
      'attention: a bias has a row per query of a batch entry: packed tensors take none',
    );
  }
  if (bias.dtype !== 'f32') throw new ConfigError('ERR_DTYPE', `attention: bias must be f32, got ${bias.dtype}`);
  const [biasBatch, biasHeads, rows, keys] = bias.shape;
  const fits =
    bias.shape.length === 4 &&
    (biasBatch === 1 || biasBatch === batch) &&
    (biasHeads === 1 || biasHeads === numHeads) &&
    rows === seqLenQ &&
    keys === seqLenKv;
  if (!fits) {
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: bias must be [1 or ${batch}, 1 or ${numHeads}, ${seqLenQ}, ${seqLenKv}], got [${bias.shape.join(', ')}]`,
    );
  }
  return { batch: biasBatch, heads: biasHeads };
}

/** The shape of out (and, with headDimQk, of q) as the caller sees it: [B, Sq, H, D], or packed [T, H, D]. */
export function queryShape({ shape, lengths }: AttentionCall, headDim: number): number[] {
  const { batch, seqLenQ, numHeads } = shape;
  return lengths?.packed ? [seqLenQ, numHeads, headDim] : [batch, seqLenQ, numHeads, headDim];
}

/** Throws ConfigError unless dout has the shape of out and the dtype of q. */
export function checkDout(dout: HostTensor, call: AttentionCall): void {
  validateTensor('dout', dout);
  const expected = queryShape(call, call.shape.headDimV);
  if (dout.dtype !== call.dtype) {
    throw new ConfigError('ERR_DTYPE', `backward: dout must have q's dtype ${call.dtype}, got dtype=${dout.dtype}`);
  }
  if (dout.shape.join() !== expected.join()) {
    throw new ConfigError(
      'ERR_SHAPE',
      `backward: dout must have the shape of out, [${expected.join(', ')}], got [${dout.shape.join(', ')}]`,
    );
  }
}

/** The shape of k or v as the caller sees it. */
export function kvShape({ shape, lengths }: AttentionCall, headDim: number): number[] {
  const { batch, seqLenKv, numKvHeads } = shape;
  return lengths?.packed ? [seqLenKv, numKvHeads, headDim] : [batch, seqLenKv, numKvHeads, headDim];
}

/** The shape of lse as the caller sees it: [B, H, Sq], or packed [H, T]. */
export function lseShape({ shape, lengths }: AttentionCall): number[] {
  const { batch, seqLenQ, numHeads } = shape;
  return lengths?.packed ? [numHeads, seqLenQ] : [batch, numHeads, seqLenQ];
}

/** Floating-point operations of a forward: 2·H·(pairs that the mask keeps)·(Dqk + Dv); a plain causal mask keeps half. */
export function forwardFlops({ shape, options, lengths }: AttentionCall): number {
  const { numHeads, seqLenQ, seqLenKv, headDimQk, headDimV, batch } = shape;
  const { maskType, window } = options;
  const isPlain = !lengths && window.every((extent) => extent < 0) && maskType !== 'causal_bottom_right';
  const whole = (length: number) => [{ start: 0, length, stride: 1 }];
  const pairs = isPlain
    ? batch * seqLenQ * seqLenKv * (isCausal(maskType) ? 0.5 : 1)
    : countPairs(
        pairShards(whole(seqLenQ), whole(seqLenKv), listSequences(shape, maskType, lengths)),
        keyInterval(maskType, window),
      );
  return 2 * numHeads * pairs * (headDimQk + headDimV);
}

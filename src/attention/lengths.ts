// The cumulative lengths that come with a call, as the sequences that they stand for. Every rule that they can break has its
// own message: lengths that are silently wrong give silently wrong attention. Pure.
import { ConfigError } from '../errors.ts';
import { type HostTensor, validateTensor } from '../tensor/tensor.ts';
import { isPadding, type MaskType } from './mask.ts';
import type { SequenceLengths } from './sequences.ts';
import type { AttentionShape } from './shape.ts';

/** The tensors of lengths of a call, by their names in AttentionInputs. */
export const LENGTH_TENSORS = ['cuSeqlensQ', 'cuSeqlensKv', 'cuSeqlensQPadded', 'cuSeqlensKvPadded'] as const;

type LengthInputs = { q: HostTensor } & { [name in (typeof LENGTH_TENSORS)[number]]?: HostTensor | undefined };

/**
 * The sequences of packed tensors, or the valid lengths of padded ones; null when every batch entry is one sequence of
 * full length. Throws ConfigError for lengths that are missing, that are not wanted, or that do not fit.
 */
export function readLengths(
  inputs: LengthInputs,
  { batch, seqLenQ, seqLenKv }: AttentionShape,
  maskType: MaskType,
): SequenceLengths | null {
  const packed = inputs.q.shape.length === 3;
  const { cuSeqlensQ, cuSeqlensKv, cuSeqlensQPadded, cuSeqlensKvPadded } = inputs;
  if (!packed && !isPadding(maskType)) {
    const extra = LENGTH_TENSORS.filter((name) => inputs[name] !== undefined);
    if (extra.length === 0) return null;
    throw new ConfigError(
      'ERR_OPTION',
      `attention: ${extra.join(', ')} is for packed tensors and padding mask types, got maskType=${maskType}`,
    );
  }
  if (cuSeqlensQ === undefined || cuSeqlensKv === undefined) {
    const wanted = packed ? 'packed tensors [tokens, heads, headDim] need' : `maskType=${maskType} needs`;
    throw new ConfigError('ERR_OPTION', `attention: ${wanted} the tensors cuSeqlensQ and cuSeqlensKv`);
  }
  if (!packed && (cuSeqlensQPadded !== undefined || cuSeqlensKvPadded !== undefined)) {
    throw new ConfigError('ERR_OPTION', 'attention: cuSeqlensQPadded and cuSeqlensKvPadded are for packed tensors');
  }
  const cuQ = readCumulative('cuSeqlensQ', cuSeqlensQ);
  const cuKv = readCumulative('cuSeqlensKv', cuSeqlensKv);
  const numSequences = cuQ.length - 1;
  if (cuKv.length !== cuQ.length || (!packed && numSequences !== batch)) {
    const expected = packed ? numSequences + 1 : batch + 1;
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: cuSeqlensQ and cuSeqlensKv must both be [${expected}], got [${cuQ.length}] and [${cuKv.length}]`,
    );
  }
  const sideQ = placeSequences('Q', cuQ, packed, seqLenQ, cuSeqlensQPadded);
  const sideKv = placeSequences('Kv', cuKv, packed, seqLenKv, cuSeqlensKvPadded);
  return { packed, startsQ: sideQ.starts, lensQ: sideQ.lens, startsKv: sideKv.starts, lensKv: sideKv.lens };
}

/** Cumulative lengths as numbers; the first is 0 and none is below the one before. */
function readCumulative(name: string, tensor: HostTensor): number[] {
  validateTensor(name, tensor);
  if (tensor.dtype !== 'i32') throw new ConfigError('ERR_DTYPE', `attention: ${name} must be i32, got ${tensor.dtype}`);
  const values = Array.from(tensor.data);
  if (tensor.shape.length !== 1 || values.length < 2) {
    throw new ConfigError('ERR_SHAPE', `attention: ${name} must be [sequences + 1], got [${tensor.shape.join(', ')}]`);
  }
  const wrong = values.findIndex((value, index) => (index === 0 ? value !== 0 : value < values[index - 1]));
  if (wrong >= 0) {
    throw new ConfigError(
      'ERR_OPTION',
      `attention: ${name} must begin with 0 and never fall, got ${name}[${wrong}]=${values[wrong]}`,
    );
  }
  return values;
}

/** Where each sequence of one side begins, and how long it is; all lie within `rows` rows and none overlaps the next. */
function placeSequences(
  side: 'Q' | 'Kv',
  cu: readonly number[],
  packed: boolean,
  rows: number,
  padded: HostTensor | undefined,
): { starts: number[]; lens: number[] } {
  const lens = cu.slice(1).map((end, index) => end - cu[index]);
  if (!packed) {
    const long = lens.findIndex((length) => length > rows);
    if (long < 0) return { starts: lens.map(() => 0), lens };
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: cuSeqlens${side} gives batch entry ${long} a length of ${lens[long]}, but it has ${rows} rows`,
    );
  }
  const ends = padded === undefined ? cu : readCumulative(`cuSeqlens${side}Padded`, padded);
  if (ends.length !== cu.length || ends[ends.length - 1] > rows) {
    throw new ConfigError(
      'ERR_SHAPE',
      `attention: cuSeqlens${side}${padded ? 'Padded' : ''} must have ${cu.length} entries and end within ${rows} tokens, ` +
        `got ${ends.length} entries and end ${ends[ends.length - 1]}`,
    );
  }
  const starts = ends.slice(0, -1);
  const long = lens.findIndex((length, index) => starts[index] + length > ends[index + 1]);
  if (long >= 0) {
    throw new ConfigError(
      'ERR_OPTION',
      `attention: sequence ${long} has ${lens[long]} rows by cuSeqlens${side}, ` +
        `but cuSeqlens${side}Padded leaves room for ${ends[long + 1] - starts[long]}`,
    );
  }
  return { starts, lens };
}

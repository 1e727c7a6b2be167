// Each rule of describeCall has a case that breaks it and nothing else, beside one that keeps it.
import { type AttentionInputs, describeCall, OPTIONAL_TENSORS } from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { cumulative } from '../helpers/attention-inputs.ts';
import { GAPS, PACKED, PADDED, PADDING, PLAIN } from '../helpers/call-tensors.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const heads = (length: number): HostTensor => f32Tensor([length], new Float32Array(length).fill(0.5));
const bias = (...shape: number[]): HostTensor => f32Tensor(shape);
const i32 = (...values: number[]): HostTensor => ({
  data: Int32Array.from(values),
  shape: [values.length],
  dtype: 'i32',
});
const f16 = ({ data, shape }: HostTensor): HostTensor => fromFloat32(data as Float32Array, shape, 'f16');

interface Refusal {
  /** A call that is right. */
  control: [AttentionInputs, Partial<AttentionOptions>?];
  /** What breaks one rule of it. */
  change?: Partial<AttentionInputs>;
  options?: Partial<AttentionOptions>;
  code: 'ERR_OPTION' | 'ERR_SHAPE' | 'ERR_DTYPE';
  pattern: RegExp;
}

const SINK: Refusal['control'] = [{ ...PLAIN, sink: heads(4) }, { sink: 'learnable' }];
const ALIBI: Refusal['control'] = [{ ...PLAIN, alibiSlopes: heads(4) }];
const BIAS: Refusal['control'] = [{ ...PLAIN, bias: bias(1, 4, 4, 6) }];
const PAD: Refusal['control'] = [PADDED, PADDING];

const REFUSALS: Record<string, Refusal> = {
  'an option out of range': { control: [PLAIN], options: { dropout: 1 }, code: 'ERR_OPTION', pattern: /dropout=1/ },
  'a learnable sink without its tensor': {
    control: SINK,
    change: { sink: undefined },
    code: 'ERR_OPTION',
    pattern: /sink=learnable needs the tensor sink \[4\]/,
  },
  'a sink tensor without its option': {
    control: SINK,
    options: { sink: 'off_by_one' },
    code: 'ERR_OPTION',
    pattern: /tensor sink is for sink=learnable/,
  },
  'a sink for another number of heads': {
    control: SINK,
    change: { sink: heads(2) },
    code: 'ERR_SHAPE',
    pattern: /sink must be \[4\], got \[2\]/,
  },
  'a sink of another rank': {
    control: SINK,
    change: { sink: f32Tensor([1, 4]) },
    code: 'ERR_SHAPE',
    pattern: /sink must be \[4\], got \[1, 4\]/,
  },
  'a sink that is not f32': {
    control: SINK,
    change: { sink: f16(heads(4)) },
    code: 'ERR_DTYPE',
    pattern: /sink must be f32, got f16/,
  },
  'slopes for another number of heads': {
    control: ALIBI,
    change: { alibiSlopes: heads(3) },
    code: 'ERR_SHAPE',
    pattern: /alibiSlopes must be \[4\]/,
  },
  'slopes that are not f32': {
    control: ALIBI,
    change: { alibiSlopes: f16(heads(4)) },
    code: 'ERR_DTYPE',
    pattern: /alibiSlopes must be f32/,
  },
  'slopes that are no tensor': {
    control: ALIBI,
    change: { alibiSlopes: [1, 2, 3, 4] as unknown as HostTensor },
    code: 'ERR_SHAPE',
    pattern: /alibiSlopes: every size/,
  },
  'a bias that is not f32': {
    control: BIAS,
    change: { bias: f16(bias(1, 4, 4, 6)) },
    code: 'ERR_DTYPE',
    pattern: /bias must be f32/,
  },
  'a bias of three dimensions': {
    control: BIAS,
    change: { bias: bias(4, 4, 6) },
    code: 'ERR_SHAPE',
    pattern: /bias must be \[1 or 2, 1 or 4, 4, 6\], got \[4, 4, 6\]/,
  },
  'a bias for another number of heads': {
    control: BIAS,
    change: { bias: bias(1, 2, 4, 6) },
    code: 'ERR_SHAPE',
    pattern: /got \[1, 2, 4, 6\]/,
  },
  'a bias for another batch': {
    control: BIAS,
    change: { bias: bias(3, 4, 4, 6) },
    code: 'ERR_SHAPE',
    pattern: /got \[3, 4, 4, 6\]/,
  },
  'a bias for other lengths': {
    control: BIAS,
    change: { bias: bias(1, 4, 6, 4) },
    code: 'ERR_SHAPE',
    pattern: /got \[1, 4, 6, 4\]/,
  },
  'a bias that broadcasts its keys': {
    control: BIAS,
    change: { bias: bias(1, 4, 4, 1) },
    code: 'ERR_SHAPE',
    pattern: /got \[1, 4, 4, 1\]/,
  },
  'a bias of packed tensors': {
    control: [PACKED],
    change: { bias: bias(1, 1, 9, 12) },
    code: 'ERR_OPTION',
    pattern: /packed tensors take none/,
  },
  'lengths with a mask type that has none': {
    control: PAD,
    options: { maskType: 'causal' },
    code: 'ERR_OPTION',
    pattern: /cuSeqlensQ, cuSeqlensKv is for packed tensors and padding mask types, got maskType=causal/,
  },
  'a padding mask type without lengths of queries': {
    control: PAD,
    change: { cuSeqlensQ: undefined },
    code: 'ERR_OPTION',
    pattern: /maskType=padding needs the tensors cuSeqlensQ and cuSeqlensKv/,
  },
  'a padding mask type without lengths of keys': {
    control: PAD,
    change: { cuSeqlensKv: undefined },
    code: 'ERR_OPTION',
    pattern: /needs the tensors cuSeqlensQ and cuSeqlensKv/,
  },
  'packed tensors without lengths': {
    control: [PACKED],
    change: { cuSeqlensQ: undefined, cuSeqlensKv: undefined },
    code: 'ERR_OPTION',
    pattern: /packed tensors .* need the tensors cuSeqlensQ/,
  },
  'places of sequences in a batch that is not packed': {
    control: PAD,
    change: { cuSeqlensQPadded: cumulative([4, 4]) },
    code: 'ERR_OPTION',
    pattern: /cuSeqlensQPadded and cuSeqlensKvPadded are for packed/,
  },
  'lengths that are not i32': {
    control: PAD,
    change: { cuSeqlensQ: f32Tensor([3], Float32Array.of(0, 4, 5)) },
    code: 'ERR_DTYPE',
    pattern: /cuSeqlensQ must be i32, got f32/,
  },
  'lengths of two dimensions': {
    control: PAD,
    change: { cuSeqlensKv: { ...i32(0, 0, 6), shape: [1, 3] } },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensKv must be \[sequences \+ 1\], got \[1, 3\]/,
  },
  'lengths of no sequence': {
    control: [PACKED],
    change: { cuSeqlensQ: i32(0), cuSeqlensKv: i32(0) },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensQ must be \[sequences \+ 1\], got \[1\]/,
  },
  'lengths that do not begin with 0': {
    control: PAD,
    change: { cuSeqlensQ: i32(1, 4, 5) },
    code: 'ERR_OPTION',
    pattern: /cuSeqlensQ must begin with 0 and never fall, got cuSeqlensQ\[0\]=1/,
  },
  'lengths that fall': {
    control: PAD,
    change: { cuSeqlensKv: i32(0, 5, 4) },
    code: 'ERR_OPTION',
    pattern: /cuSeqlensKv\[2\]=4/,
  },
  'lengths for another batch': {
    control: PAD,
    change: { cuSeqlensQ: i32(0, 1, 2, 3), cuSeqlensKv: i32(0, 1, 2, 3) },
    code: 'ERR_SHAPE',
    pattern: /must both be \[3\], got \[4\] and \[4\]/,
  },
  'another number of sequences of queries than of keys': {
    control: [PACKED],
    change: { cuSeqlensKv: i32(0, 12) },
    code: 'ERR_SHAPE',
    pattern: /must both be \[4\], got \[4\] and \[2\]/,
  },
  'a batch entry longer than its rows': {
    control: PAD,
    change: { cuSeqlensQ: i32(0, 4, 9) },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensQ gives batch entry 1 a length of 5, but it has 4 rows/,
  },
  'packed sequences beyond the last token': {
    control: [PACKED],
    change: { cuSeqlensKv: i32(0, 4, 9, 13) },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensKv must have 4 entries and end within 12 tokens, got 4 entries and end 13/,
  },
  'places for another number of sequences': {
    control: [GAPS],
    change: { cuSeqlensQPadded: i32(0, 9) },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensQPadded must have 3 entries and end within 9 tokens, got 2 entries/,
  },
  'places beyond the last token': {
    control: [GAPS],
    change: { cuSeqlensQPadded: i32(0, 4, 10) },
    code: 'ERR_SHAPE',
    pattern: /cuSeqlensQPadded .* end 10/,
  },
  'a sequence longer than its place': {
    control: [GAPS],
    change: { cuSeqlensKvPadded: i32(0, 5, 12) },
    code: 'ERR_OPTION',
    pattern: /sequence 0 has 6 rows by cuSeqlensKv, but cuSeqlensKvPadded leaves room for 5/,
  },
};

describe('describeCall refuses', () => {
  for (const [title, { control, change, options, code, pattern }] of Object.entries(REFUSALS)) {
    it(`${title}, with ${code}`, () => {
      const [inputs, controlOptions] = control;
      describeCall(inputs, controlOptions);
      expectConfigError(() => describeCall({ ...inputs, ...change }, { ...controlOptions, ...options }), code, pattern);
    });
  }

  it('each cumulative tensor of a call without sequences, by name', () => {
    for (const name of OPTIONAL_TENSORS.filter((one) => one.startsWith('cuSeqlens'))) {
      expectConfigError(
        () => describeCall({ ...PLAIN, [name]: i32(0, 4, 8) }),
        'ERR_OPTION',
        new RegExp(`${name} is for`),
      );
    }
  });
});

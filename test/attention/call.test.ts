// What makes a call of tensors and options, and what follows from it: shapes of results, storage, operations.
import { expect } from 'chai';
import {
  type AttentionInputs,
  describeCall,
  forwardFlops,
  kvShape,
  lseShape,
  queryShape,
} from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { createInputs } from '../helpers/attention-inputs.ts';
import { GAPS, PACKED, PACKED_SHAPE, PADDED, PADDING, PLAIN, SHAPE } from '../helpers/call-tensors.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const heads = (length: number): HostTensor => f32Tensor([length], new Float32Array(length).fill(0.5));
const bias = (...shape: number[]): HostTensor => f32Tensor(shape);

describe('describeCall', () => {
  it('reads shape, dtype and options of plain tensors, with nothing beside them', () => {
    const { options, ...call } = describeCall(PLAIN, { maskType: 'causal' });
    expect(call).to.deep.equal({
      shape: SHAPE,
      dtype: 'f32',
      storage: 'f32',
      lengths: null,
      bias: null,
      alibi: false,
    });
    expect([options.maskType, options.softmaxScale]).to.deep.equal(['causal', 1 / Math.sqrt(8)]);
  });

  it('is JSON that a rank can read again', () => {
    const inputs = { ...GAPS, sink: heads(4), alibiSlopes: heads(4) };
    const call = describeCall(inputs, { sink: 'learnable', window: [3, -1], dropout: 0.1, seed: 2 ** 40 });
    expect(JSON.parse(JSON.stringify(call))).to.deep.equal(call);
  });

  it('reads lengths of a padded batch: entries begin at row 0', () => {
    const { lengths } = describeCall(PADDED, PADDING);
    expect(lengths).to.deep.equal({ packed: false, startsQ: [0, 0], lensQ: [4, 1], startsKv: [0, 0], lensKv: [0, 6] });
  });

  it('reads packed sequences one after another, empty ones too, whatever the mask type', () => {
    const lengths = { packed: true, startsQ: [0, 3, 3], lensQ: [3, 0, 6], startsKv: [0, 4, 9], lensKv: [4, 5, 3] };
    for (const maskType of ['no_mask', 'padding_causal'] as const) {
      expect(describeCall(PACKED, { maskType })).to.deep.include({ shape: PACKED_SHAPE, lengths });
    }
  });

  it('reads packed sequences with gaps between them', () => {
    const lengths = { packed: true, startsQ: [0, 4], lensQ: [3, 5], startsKv: [0, 6], lensKv: [6, 2] };
    expect(describeCall(GAPS).lengths).to.deep.equal(lengths);
  });

  it('takes a bias in its four broadcast shapes', () => {
    for (const [batch, numHeads] of [
      [1, 1],
      [1, 4],
      [2, 1],
      [2, 4],
    ]) {
      const call = describeCall({ ...PLAIN, bias: bias(batch, numHeads, 4, 6) });
      expect(call.bias).to.deep.equal({ batch, heads: numHeads });
    }
  });

  it('takes 16-bit tensors beside an f32 bias, sink and slopes', () => {
    const inputs = createInputs({ shape: SHAPE, dtype: 'f16', bias: [1, 1], sink: true, alibi: true });
    expect(describeCall(inputs, { sink: 'learnable' })).to.deep.include({ dtype: 'f16', alibi: true });
  });
});

describe('the storage of a call', () => {
  const oddDims = { ...SHAPE, headDimV: 9 };

  it('is the dtype of q, or the one that is asked for', () => {
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      expect(describeCall(createInputs({ shape: SHAPE, dtype })).storage).to.equal(dtype);
      expect(describeCall(PLAIN, {}, dtype)).to.deep.include({ dtype: 'f32', storage: dtype });
    }
  });

  it('is f32 where two elements of a word would belong to two rows', () => {
    const inputs = createInputs({ shape: oddDims, dtype: 'f16' });
    expect(describeCall(inputs)).to.deep.include({ dtype: 'f16', storage: 'f32' });
  });

  it('is refused when it is no float', () => {
    expectConfigError(() => describeCall(PLAIN, {}, 'i32' as 'f32'), 'ERR_DTYPE', /dtype must be one of .*dtype=i32/);
  });
});

describe('shapes of a call', () => {
  it('have a batch, or when packed none', () => {
    const [plain, packed] = [describeCall(PLAIN), describeCall(PACKED)];
    expect([queryShape(plain, 10), kvShape(plain, 8), lseShape(plain)]).to.deep.equal([
      [2, 4, 4, 10],
      [2, 6, 2, 8],
      [2, 4, 4],
    ]);
    expect([queryShape(packed, 10), kvShape(packed, 8), lseShape(packed)]).to.deep.equal([
      [9, 4, 10],
      [12, 2, 8],
      [4, 9],
    ]);
  });
});

describe('forwardFlops', () => {
  it('is 2·B·H·Sq·Skv·(Dqk + Dv), half of it when causal', () => {
    const whole = 2 * 2 * 4 * 4 * 6 * (8 + 10);
    expect(forwardFlops(describeCall(PLAIN))).to.equal(whole);
    expect(forwardFlops(describeCall(PLAIN, { maskType: 'causal' }))).to.equal(whole / 2);
  });

  it('counts the kept pairs with a window, bottom right, and with lengths', () => {
    const calls: [AttentionInputs, Partial<AttentionOptions>][] = [
      [PLAIN, { window: [1, 0] }],
      [PLAIN, { maskType: 'causal_bottom_right' }],
      [PADDED, PADDING],
      [PACKED, { maskType: 'causal' }],
    ];
    // 4 rows of up to two keys, of 3 to 6 keys; one row of 6 keys; 1 + 2 + 3 and 1 + 2 + 3 + 3 + 3 + 3.
    const pairs = [2 * 7, 2 * 18, 6, 21];
    for (const [index, [inputs, options]] of calls.entries()) {
      expect(forwardFlops(describeCall(inputs, options))).to.equal(2 * 4 * pairs[index] * (8 + 10));
    }
  });
});

// Options and dtypes in the backward kernels, and the gradients of bias and sinks, against the f64 reference. A feature is a
// specialisation of its own: each is compiled in both variants.
import { expect } from 'chai';
import type { SequenceLengths } from '../../src/attention/sequences.ts';
import { BACKWARD_VARIANTS } from '../../src/gpu/backward-kernel-choice.ts';
import { createShape } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { checkGradients, runGradients } from '../helpers/gpu-gradients.ts';
import { createGradientInputs, type GradientCase } from '../helpers/gradient-case.ts';

const TIMEOUT_MS = 120_000;

const SHAPE = createShape({ batch: 2, seqLenQ: 70, seqLenKv: 75, numHeads: 4, numKvHeads: 2, headDimQk: 8 });
const PADDED: SequenceLengths = { packed: false, startsQ: [0, 0], lensQ: [70, 37], startsKv: [0, 0], lensKv: [75, 50] };
const PACKED: SequenceLengths = {
  packed: true,
  startsQ: [0, 41],
  lensQ: [40, 29],
  startsKv: [0, 30],
  lensKv: [28, 45],
};

/** What a case adds to the plain softmax. Both variants compute them by the same modules. */
const FEATURES: Record<string, Partial<GradientCase>> = {
  'a learnable sink, causal': { options: { sink: 'learnable', maskType: 'causal' } },
  'a learnable sink, padding': { lengths: PADDED, options: { sink: 'learnable', maskType: 'padding' } },
  'a learnable sink and rows without keys': {
    options: { sink: 'learnable', window: [3, 0], maskType: 'causal_bottom_right' },
  },
  'a sink off by one': { options: { sink: 'off_by_one' } },
  'soft cap, ALiBi and dropout': {
    alibi: true,
    options: { softcap: 2, dropout: 0.3, seed: 12345678901, maskType: 'causal_bottom_right' },
  },
  'soft cap, ALiBi and dropout, packed': {
    shape: { ...SHAPE, batch: 1 },
    lengths: PACKED,
    alibi: true,
    options: { softcap: 2, dropout: 0.3, seed: 7 },
  },
  'f16, causal': { dtype: 'f16', options: { maskType: 'causal' } },
  'everything, padding': {
    alibi: true,
    bias: { batch: 1, heads: 4 },
    dtype: 'bf16',
    lengths: PADDED,
    options: { maskType: 'padding_causal_bottom_right', softcap: 5, dropout: 0.2, seed: 3, sink: 'learnable' },
  },
};

/** The same one by one, in the variant that compiles in a second. */
const SINGLE_FEATURES: Record<string, Partial<GradientCase>> = {
  'a soft cap': { options: { softcap: 2 } },
  'ALiBi, causal': { alibi: true, options: { maskType: 'causal' } },
  'ALiBi, bottom right': { alibi: true, options: { maskType: 'causal_bottom_right' } },
  'dropout, causal': { options: { dropout: 0.3, seed: 5, maskType: 'causal' } },
  'bf16, D 6/10': {
    shape: createShape({ seqLenQ: 70, headDimQk: 6, headDimV: 10 }),
    dtype: 'bf16',
  },
  'f16, D 24/40': {
    shape: createShape({ seqLenQ: 70, headDimQk: 24, headDimV: 40 }),
    dtype: 'f16',
    options: { maskType: 'causal' },
  },
};

const BIAS_SHAPES = [
  { batch: 1, heads: 1 },
  { batch: 1, heads: 4 },
  { batch: 2, heads: 1 },
  { batch: 2, heads: 4 },
];

for (const variant of BACKWARD_VARIANTS) {
  describe(`flash-attention-backward features, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();

    const features = variant === 'subgroup' ? { ...FEATURES, ...SINGLE_FEATURES } : FEATURES;
    for (const [name, feature] of Object.entries(features)) {
      it(`matches the reference: ${name}`, async () => {
        await checkGradients(gpu(), { shape: SHAPE, variant, ...feature });
      });
    }

    for (const bias of BIAS_SHAPES) {
      it(`matches the reference: a bias of batch ${bias.batch} and heads ${bias.heads}, and its gradient`, async () => {
        await checkGradients(gpu(), { shape: SHAPE, variant, bias });
        await checkGradients(gpu(), { shape: SHAPE, variant, bias, options: { maskType: 'causal', window: [20, -1] } });
      });
    }

    it('sums the gradient of a shared bias over batch entries of different lengths', async () => {
      const options = { maskType: 'padding_causal_bottom_right' } as const;
      await checkGradients(gpu(), { shape: SHAPE, variant, bias: { batch: 1, heads: 1 }, lengths: PADDED, options });
    });

    it('gathers the gradients of bias and sink from the shards of a ring', async () => {
      const shards = [
        [
          { start: 0, length: 20, stride: 1 },
          { start: 61, length: 9, stride: 1 },
        ],
        [{ start: 20, length: 41, stride: 1 }],
      ];
      const kv = [[{ start: 40, length: 35, stride: 1 }], [{ start: 0, length: 40, stride: 1 }]];
      const options = { maskType: 'causal', sink: 'learnable' } as const;
      await checkGradients(gpu(), {
        shape: SHAPE,
        variant,
        bias: { batch: 1, heads: 4 },
        options,
        queries: shards,
        kv,
      });
    });
  });
}

describe('gradients of bias and sink', function () {
  this.timeout(TIMEOUT_MS);
  const gpu = useGpu();

  it('are 0 where the bias removes the key, and where the mask does', async () => {
    const testCase = {
      shape: SHAPE,
      variant: 'workgroup',
      bias: { batch: 2, heads: 4 },
      options: { maskType: 'causal' },
    } as const;
    const inputs = createGradientInputs(testCase);
    const { dbias } = await runGradients(gpu(), testCase, inputs);
    const isOutside = (at: number): boolean => at % 75 > Math.floor(at / 75) % 70 || inputs.bias[at] <= -1e30;
    expect([...dbias].filter((value, at) => isOutside(at) && value !== 0)).to.deep.equal([]);
    // Query 0 keeps at most key 0: its dS is rounding, or 0.
    const isFirst = (at: number): boolean => Math.floor(at / 75) % 70 === 0;
    const zeros = [...dbias].filter((value, at) => !isOutside(at) && !isFirst(at) && value === 0);
    expect(zeros.length).to.be.lessThan(dbias.length / 1000);
  });

  it('repeat bit for bit', async () => {
    const options = { sink: 'learnable', maskType: 'causal' } as const;
    const testCase = { shape: SHAPE, variant: 'workgroup', bias: { batch: 1, heads: 1 }, options } as const;
    const inputs = createGradientInputs(testCase);
    const first = await runGradients(gpu(), testCase, inputs);
    const second = await runGradients(gpu(), testCase, inputs);
    for (const name of ['dbias', 'dsink'] as const) {
      expect(Buffer.from(second[name].buffer).equals(Buffer.from(first[name].buffer)), name).to.equal(true);
    }
  });
});

// Every forward kernel against the f64 reference: lengths around a tile, head dims, group sizes, masks, and every
// option by itself and with all others. Each axis is varied by itself; small head dims keep the compilers of software
// adapters quick.
import { expect } from 'chai';
import { MASK_TYPES, type Window } from '../../src/attention/mask.ts';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { FORWARD_ATTENTION_VARIANTS, type ForwardAttentionVariant } from '../../src/gpu/forward-attention.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { checkAttention, createKernel, runAttention } from '../helpers/gpu-attention.ts';
import { createInputs, createShape, type GpuCase, referenceShard } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

/** A software adapter compiles a kernel for seconds, and not every one is as fast as lavapipe. */
const TIMEOUT_MS = 120_000;

/** Each way to specialise a kernel: elements of a load, rows per lane, columns, and shapes in use. */
const HEAD_DIMS: Readonly<Record<ForwardAttentionVariant, readonly (readonly [number, number])[]>> = {
  workgroup: [
    [8, 10],
    [33, 17],
    [192, 128],
    [256, 256],
  ],
  subgroup: [
    [8, 10],
    [33, 17],
    [64, 64],
    [80, 80],
    [96, 96],
    [192, 128],
    [256, 256],
  ],
  'split-kv': [
    [8, 10],
    [33, 17],
    [192, 128],
    [256, 256],
  ],
  'split-kv-subgroup': [
    [33, 17],
    [192, 128],
  ],
};

/** Batch 2, two query heads on each KV head. */
const GROUPED = createShape({ batch: 2, seqLenQ: 70, seqLenKv: 90, numHeads: 4, numKvHeads: 2, headDimQk: 16 });

const EVERYTHING = {
  maskType: 'causal_bottom_right',
  window: [30, 5],
  softcap: 3,
  sink: 'learnable',
  dropout: 0.3,
  seed: 2 ** 40 + 7,
  maxLogit: true,
} as const;

const OPTIONS: readonly [name: string, testCase: Omit<GpuCase, 'shape' | 'variant'>][] = [
  ['softcap', { options: { softcap: 2 } }],
  ['softmaxScale', { options: { softmaxScale: 0.7, maskType: 'causal' } }],
  ['ALiBi', { options: { maskType: 'causal_bottom_right' }, alibi: true }],
  ['bias [1, 1, Sq, Skv]', { bias: { batch: 1, heads: 1 } }],
  ['bias [1, H, Sq, Skv]', { bias: { batch: 1, heads: 4 } }],
  ['bias [B, 1, Sq, Skv]', { bias: { batch: 2, heads: 1 } }],
  ['bias [B, H, Sq, Skv], causal', { bias: { batch: 2, heads: 4 }, options: { maskType: 'causal' } }],
  ['dropout', { options: { dropout: 0.5, seed: 3 } }],
  ['sink off_by_one', { options: { sink: 'off_by_one', maskType: 'causal' } }],
  ['a learnable sink', { options: { sink: 'learnable', window: [3, 0] } }],
  ['maxLogit', { options: { maxLogit: true, maskType: 'causal' } }],
  ['maxLogit and a sink', { options: { maxLogit: true, sink: 'learnable', window: [3, 3] } }],
  ['every option, f16', { dtype: 'f16', options: EVERYTHING, alibi: true, bias: { batch: 2, heads: 4 } }],
  ['every option, f32', { options: EVERYTHING, alibi: true, bias: { batch: 1, heads: 4 } }],
];

const WINDOWS: readonly Window[] = [
  [0, 0],
  [5, 3],
  [-1, 2],
  [40, -1],
];

for (const variant of FORWARD_ATTENTION_VARIANTS) {
  describe(`forward attention, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();

    for (const seqLen of [1, 7, 64, 300]) {
      it(`matches the reference: S ${seqLen}, full and causal`, async () => {
        const shape = createShape({ seqLenQ: seqLen, headDimQk: 16 });
        await checkAttention(gpu(), { shape, variant });
        await checkAttention(gpu(), { shape, variant, options: { maskType: 'causal' } });
      });
    }

    it('matches the reference: S around tileRows and tileKeys', async () => {
      const { tileRows, tileKeys } = await createKernel(gpu(), { shape: createShape({ headDimQk: 16 }), variant });
      for (const offset of [-1, 0, 1]) {
        for (const [seqLenQ, seqLenKv] of [
          [tileRows + offset, 50],
          [50, tileKeys + offset],
        ]) {
          if (seqLenQ < 1 || seqLenKv < 1) continue;
          await checkAttention(gpu(), { shape: createShape({ seqLenQ, seqLenKv, headDimQk: 16 }), variant });
        }
      }
    });

    for (const [headDimQk, headDimV] of HEAD_DIMS[variant]) {
      it(`matches the reference: D ${headDimQk}/${headDimV}, causal`, async () => {
        const shape = createShape({ seqLenQ: 70, headDimQk, headDimV });
        await checkAttention(gpu(), { shape, variant, options: { maskType: 'causal' } });
      });
    }

    for (const [dtype, headDimQk, headDimV] of [
      ['f16', 10, 6],
      ['bf16', 12, 20],
    ] as const) {
      it(`matches the reference: ${dtype}, D ${headDimQk}/${headDimV}`, async () => {
        const shape = createShape({ seqLenQ: 40, headDimQk, headDimV });
        await checkAttention(gpu(), { shape, variant, dtype });
      });
    }

    for (const numKvHeads of [5, 1]) {
      it(`matches the reference: 5 heads on ${numKvHeads}, batch 2, Sq ≠ Skv`, async () => {
        const shape = createShape({ batch: 2, seqLenQ: 70, seqLenKv: 45, numHeads: 5, numKvHeads, headDimQk: 16 });
        await checkAttention(gpu(), { shape, variant });
        await checkAttention(gpu(), { shape, variant, options: { maskType: 'causal' } });
      });
    }

    for (const [name, testCase] of OPTIONS) {
      it(`matches the reference: ${name}`, async () => {
        await checkAttention(gpu(), { shape: GROUPED, variant, ...testCase });
      });
    }

    for (const maskType of MASK_TYPES) {
      it(`matches the reference under windows: ${maskType}`, async () => {
        const shape = createShape({ batch: 3, seqLenQ: 90, seqLenKv: 60, headDimQk: 16 });
        const starts = [0, 0, 0];
        // Empty queries in one entry, no key in another; both must come out as rows without keys.
        const padded = { packed: false, startsQ: starts, lensQ: [90, 0, 17], startsKv: starts, lensKv: [30, 20, 0] };
        const lengths = maskType.startsWith('padding') ? { lengths: padded } : {};
        for (const window of WINDOWS) {
          await checkAttention(gpu(), { shape, variant, ...lengths, options: { maskType, window } });
        }
      });
    }

    it('matches the reference: packed sequences with gaps, an empty one, and one without keys', async () => {
      const shape = createShape({ seqLenQ: 150, seqLenKv: 130, headDimQk: 16 });
      const lengths = {
        packed: true,
        startsQ: [3, 60, 60, 90],
        lensQ: [50, 0, 21, 60],
        startsKv: [0, 70, 80, 80],
        lensKv: [66, 5, 0, 41],
      };
      for (const options of [
        {},
        { maskType: 'causal_bottom_right', dropout: 0.2 },
        { window: [9, 2], sink: 'off_by_one' },
      ]) {
        await checkAttention(gpu(), { shape, variant, lengths, options: options as GpuCase['options'] & {} });
      }
    });

    it('matches the reference: scores of ±1e4', async () => {
      const testCase = { shape: createShape({ seqLenQ: 80, headDimQk: 16 }), variant, options: { softmaxScale: 1 } };
      const inputs = createInputs(testCase);
      const levels = [-1e4, 0, 1e4 - 100, 1e4];
      // One-hot queries pick one element of k as the score.
      const oneHot = Float32Array.from({ length: inputs.q.data.length }, (_, at) => Number(at % 16 === (at >> 4) % 16));
      const steps = Float32Array.from(inputs.k.data, (value) => levels[Math.floor(100 * Math.abs(value)) % 4]);
      inputs.q = fromFloat32(oneHot, inputs.q.shape, 'f32');
      inputs.k = fromFloat32(steps, inputs.k.shape, 'f32');
      await checkAttention(gpu(), testCase, inputs, TOLERANCE.largeScores);
    });

    it('gives the mean of v when all scores are equal, however large', async () => {
      const testCase = { shape: createShape({ seqLenQ: 40, headDimQk: 16 }), variant };
      const inputs = createInputs(testCase);
      inputs.k = fromFloat32(new Float32Array(inputs.k.data.length).fill(200), inputs.k.shape, 'f32');
      const { out, lse } = await runAttention(gpu(), testCase, inputs);
      for (let d = 0; d < 16; d++) {
        let mean = 0;
        for (let j = 0; j < 40; j++) mean += inputs.v.data[j * 32 + d] / 40;
        expect(out[d]).to.be.closeTo(mean, 1e-6);
      }
      expect(Array.from(lse).every((value) => Number.isFinite(value))).to.equal(true);
    });

    it('writes exactly 0, MASKED_LSE and no NaN in rows that keep no key', async () => {
      const shape = createShape({ seqLenQ: 50, headDimQk: 16 });
      const testCase: GpuCase = {
        shape,
        variant,
        options: { maskType: 'causal', maxLogit: true },
        kv: [[{ start: 30, length: 20, stride: 1 }]],
      };
      const { out, lse, maxLogit } = await runAttention(gpu(), testCase, createInputs(testCase));
      const rowSize = shape.numHeads * shape.headDimV;
      const values = Array.from(out);
      expect(values.slice(0, 30 * rowSize).every((value) => Object.is(value, 0))).to.equal(true);
      expect(values.slice(30 * rowSize).some((value) => value === 0 || Number.isNaN(value))).to.equal(false);
      for (const rows of [lse, maxLogit]) {
        expect(Array.from(rows).slice(0, 30)).to.deep.equal(new Array(30).fill(Math.fround(MASKED_LSE)));
      }
    });

    it('gives rows whose keys the bias all removes out 0 and MASKED_LSE', async () => {
      const testCase: GpuCase = { shape: GROUPED, variant, bias: { batch: 1, heads: 1 } };
      const inputs = createInputs(testCase);
      inputs.bias.fill(-1e30, 0, 3 * GROUPED.seqLenKv);
      const reference = referenceShard(testCase, inputs);
      expect(reference.lse[2]).to.equal(Math.fround(MASKED_LSE));
      await checkAttention(gpu(), testCase, inputs);
    });

    it('gives the same bits when it runs again', async () => {
      const testCase: GpuCase = { shape: GROUPED, variant, options: { maskType: 'causal', dropout: 0.1 } };
      const inputs = createInputs(testCase);
      const first = await runAttention(gpu(), testCase, inputs);
      const second = await runAttention(gpu(), testCase, inputs);
      expect(second).to.deep.equal(first);
    });
  });
}

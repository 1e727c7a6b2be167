// Values and shapes at the edges, through a whole engine, forward and backward, in every dtype: rows without a key, scores of
// ±1e4, the largest and the smallest numbers of a dtype, equal scores, one key, the smallest and the largest head dim.
import { expect } from 'chai';
import { type AttentionInputs, describeCall } from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import type { Engine } from '../../src/context-parallel/engine-options.ts';
import { createEngine } from '../../src/node/engine.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import { FLOAT_DTYPES, type FloatDType, type HostTensor } from '../../src/tensor/tensor.ts';
import { expectReference, expectReferenceGradients } from '../helpers/attention-case.ts';
import { createDout, createInputs } from '../helpers/attention-inputs.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

const SHAPE = { batch: 1, seqLenQ: 40, seqLenKv: 40, numHeads: 2, numKvHeads: 1, headDimQk: 16, headDimV: 16 };

/** A tensor with every element mapped, in its own dtype. */
function mapTensor(tensor: HostTensor, change: (value: number, index: number) => number): HostTensor {
  return fromFloat32(toFloat32(tensor).map(change), tensor.shape, tensor.dtype as FloatDType);
}

function expectFinite(tensors: Record<string, HostTensor | undefined>): void {
  for (const [name, tensor] of Object.entries(tensors)) {
    if (tensor) expect(toFloat32(tensor).every(Number.isFinite), name).to.equal(true);
  }
}

describe('attention at the edges', function () {
  this.timeout(120_000);
  const gpu = useGpu();
  let engine: Engine;
  before(async () => {
    engine = await createEngine({ device: gpu().device });
  });
  after(() => engine.close());

  async function check(inputs: AttentionInputs, options: Partial<AttentionOptions> = {}) {
    const dout = createDout(describeCall(inputs, options));
    const result = await engine.forward(inputs, options);
    const gradients = await engine.backward(dout);
    expectFinite({ out: result.out, ...gradients });
    expectReference({ inputs, options }, result, Infinity);
    expectReferenceGradients({ inputs, options }, dout, gradients);
    return { ...result, ...gradients };
  }

  for (const dtype of FLOAT_DTYPES) {
    describe(dtype, () => {
      it('gives out 0, lse −Infinity and gradient 0 to rows without a key, and to keys that no row sees', async () => {
        // Bottom right with 8 keys and 40 queries: the first 32 rows see nothing; the window hides nothing more.
        const inputs = createInputs({ shape: { ...SHAPE, seqLenKv: 8 }, dtype });
        const { out, lse, dq } = await check(inputs, { maskType: 'causal_bottom_right', window: [3, -1] });
        const rowSize = SHAPE.numHeads * SHAPE.headDimV;
        expect(
          toFloat32(out)
            .subarray(0, 32 * rowSize)
            .every((value) => value === 0),
        ).to.equal(true);
        expect(
          toFloat32(dq)
            .subarray(0, 32 * rowSize)
            .every((value) => value === 0),
        ).to.equal(true);
        expect([...lse.data.subarray(0, 32)]).to.deep.equal(new Array(32).fill(-Infinity));
        // Causal from the top left with 8 queries: nobody sees the keys behind the eighth.
        const { dk, dv } = await check(createInputs({ shape: { ...SHAPE, seqLenQ: 8 }, dtype }), {
          maskType: 'causal',
        });
        for (const gradient of [dk, dv]) {
          expect(
            toFloat32(gradient)
              .subarray(8 * SHAPE.headDimQk)
              .every((value) => value === 0),
          ).to.equal(true);
        }
      });

      it('gives padding of empty sequences the same', async () => {
        const inputs = createInputs({
          shape: { ...SHAPE, batch: 3 },
          dtype,
          sequences: { q: [40, 7, 0], kv: [0, 40, 11] },
        });
        const { out, lse, dk, dv } = await check(inputs, { maskType: 'padding', sink: 'off_by_one' });
        const entry = 40 * SHAPE.numHeads * SHAPE.headDimV;
        expect(
          toFloat32(out)
            .subarray(0, entry)
            .every((value) => value === 0),
        ).to.equal(true);
        // Rows of a sequence have the sink, those of padding do not.
        expect(lse.data.slice(0, 40).every((value) => value === 0)).to.equal(true);
        expect(lse.data.slice(4 * 40).every((value) => value === -Infinity)).to.equal(true);
        const kvEntry = 40 * SHAPE.headDimQk;
        for (const gradient of [dk, dv]) {
          expect(
            toFloat32(gradient)
              .subarray(2 * kvEntry)
              .every((value) => value === 0),
          ).to.equal(true);
        }
      });

      it('attends to one key, with weight 1', async () => {
        const inputs = createInputs({ shape: { ...SHAPE, seqLenKv: 1 }, dtype });
        await check(inputs);
      });

      it('gives equal scores equal weights', async () => {
        const inputs = createInputs({ shape: SHAPE, dtype });
        const { out } = await check({ ...inputs, k: mapTensor(inputs.k, () => 1.5) });
        const rows = toFloat32(out);
        const rowSize = SHAPE.numHeads * SHAPE.headDimV;
        expect(rows.slice(0, rowSize)).to.deep.equal(rows.slice(39 * rowSize));
      });

      it('takes the largest values of v, and the smallest of q, k and v', async () => {
        const inputs = createInputs({ shape: SHAPE, dtype });
        const largest = dtype === 'f16' ? 65504 : 2 ** 60;
        // One weight near 1 and the others near 0, or a sum of many: never above the largest v.
        const { out } = await engine.forward({ ...inputs, v: mapTensor(inputs.v, () => largest) });
        for (const value of toFloat32(out)) expect(value).to.be.closeTo(largest, largest * 2 ** -7);
        const smallest = dtype === 'f16' ? 2 ** -24 : 2 ** -126;
        const tiny = (tensor: HostTensor): HostTensor => mapTensor(tensor, (_, index) => smallest * (1 + (index % 3)));
        const { lse } = await engine.forward({ q: tiny(inputs.q), k: tiny(inputs.k), v: tiny(inputs.v) });
        for (const value of lse.data) expect(value).to.be.closeTo(Math.log(40), 1e-6);
      });

      it('keeps its accuracy at scores of ±1e4', async () => {
        const inputs = createInputs({ shape: SHAPE, dtype });
        // Scores are multiples of 80: far apart or equal, so that out is as exact as ever.
        const q = mapTensor(inputs.q, (_, index) => (index % 16 === 0 ? 80 : 0));
        const k = mapTensor(inputs.k, (_, index) => (index % 16 === 0 ? 4 * ((index / 16) % 250) - 500 : 0));
        const { out, lse } = await engine.forward({ ...inputs, q, k });
        expect(Math.max(...lse.data)).to.be.above(-1e4);
        const v = toFloat32(inputs.v);
        // The last key has the highest score by 80: the others weigh e^-80 and less.
        for (const [index, value] of toFloat32(out).entries())
          expect(value).to.be.closeTo(v[39 * 16 + (index % 16)], 5e-6);
      });
    });
  }

  for (const headDim of [8, 256]) {
    it(`computes head dim ${headDim}`, async () => {
      await check(createInputs({ shape: { ...SHAPE, headDimQk: headDim, headDimV: headDim } }), { maskType: 'causal' });
    });
  }
});

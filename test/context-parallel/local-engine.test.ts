// The engine of one rank: bit for bit the plain kernel, on its own device or on the caller's, which it leaves alone.
import { expect } from 'chai';
import { describeCall } from '../../src/attention/call.ts';
import { keyInterval } from '../../src/attention/mask.ts';
import { scheduleQueries } from '../../src/attention/schedule.ts';
import { listSequences, pairShards } from '../../src/attention/sequences.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import { acquireTensor, readTensor, uploadTensor } from '../../src/gpu/tensor.ts';
import { createEngine } from '../../src/node/engine.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor } from '../../src/tensor/tensor.ts';
import {
  createCase,
  expectReference,
  expectReferenceGradients,
  type AttentionCase,
} from '../helpers/attention-case.ts';
import { createDout, createInputs } from '../helpers/attention-inputs.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

describe('an engine of one rank', function () {
  this.timeout(60_000);
  const gpu = useGpu();

  /** The kernel over the whole sequence as one block, with nothing else. */
  async function runPlainKernel({ shape, options, inputs }: AttentionCase) {
    const { batch, seqLenQ, seqLenKv, numHeads, headDimV } = shape;
    const attention = await FlashAttentionForward.create(gpu(), { ...shape, rows: seqLenQ });
    const whole = (length: number) => [{ start: 0, length, stride: 1 }];
    const sequences = listSequences(shape, options.maskType, null);
    const schedule = scheduleQueries(
      pairShards(whole(seqLenQ), whole(seqLenKv), sequences),
      keyInterval(options.maskType, options.window),
      { tileRows: attention.tileRows, everyRow: true },
    );
    const heads = acquireHeads(gpu());
    const block = attention.prepareBlock({ schedule, shape, options, rowsQ: seqLenQ, rowsKv: seqLenKv, heads });
    const [q, k, v] = [inputs.q, inputs.k, inputs.v].map(({ shape: sizes, data }) =>
      uploadTensor(gpu(), 'input', sizes, data as Float32Array),
    );
    const out = acquireTensor(gpu().pool, 'out', [batch, seqLenQ, numHeads, headDimV]);
    const lse = acquireTensor(gpu().pool, 'lse', [batch, numHeads, seqLenQ]);
    const encoder = gpu().device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    attention.encode(pass, block, { q, k, v, out, lse });
    pass.end();
    gpu().device.queue.submit([encoder.finish()]);
    const result = { out: await readTensor(gpu(), out), lse: await readTensor(gpu(), lse) };
    for (const buffer of [heads, ...[q, k, v, out, lse].map((tensor) => tensor.buffer)]) gpu().pool.release(buffer);
    block.destroy();
    return result;
  }

  for (const [seqLen, numKvHeads, headDim, maskType] of [
    [1000, 2, 64, 'causal'],
    [333, 4, 80, 'no_mask'],
    [7, 1, 16, 'causal'],
  ] as const) {
    it(`gives the bits of the plain kernel: S=${seqLen} Hkv=${numKvHeads} D=${headDim} ${maskType}`, async () => {
      const one = createCase({ seqLen, numHeads: 4, numKvHeads, headDim }, maskType);
      const plain = await runPlainKernel(one);
      for (const layout of ['zigzag', 'contiguous'] as const) {
        const engine = await createEngine({ layout });
        const { out, lse } = await engine.forward(one.inputs, { maskType });
        await engine.close();
        expect(Buffer.from(out.data.buffer).equals(Buffer.from(plain.out.buffer)), layout).to.equal(true);
        expect(Buffer.from(lse.data.buffer).equals(Buffer.from(plain.lse.buffer)), layout).to.equal(true);
        expectReference(one, { out, lse });
      }
    });
  }

  it('computes on a device of the caller and leaves it usable', async () => {
    const one = createCase({ seqLen: 100, numHeads: 4, numKvHeads: 2, headDim: 32 }, 'causal');
    const engine = await createEngine({ device: gpu().device });
    expectReference(one, await engine.forward(one.inputs, { maskType: 'causal' }));
    await engine.close();
    const data = Float32Array.of(1, 2, 3);
    const tensor = uploadTensor(gpu(), 'after', [3], data);
    expect(await readTensor(gpu(), tensor)).to.deep.equal(data);
    gpu().pool.release(tensor.buffer);
  });

  describe('backward', () => {
    const shape = {
      batch: 1,
      seqLenQ: 90,
      seqLenKv: 90,
      numHeads: 4,
      numKvHeads: 2,
      headDimQk: 16,
      headDimV: 16,
    };

    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      it(`gives the gradients of the last forward, in the dtype of q, the same bits twice: ${dtype}`, async () => {
        const inputs = createInputs({ shape, dtype, bias: [1, 1], sink: true });
        const options = { maskType: 'causal', sink: 'learnable', dropout: 0.2 } as const;
        const dout = createDout(describeCall(inputs, options));
        const engine = await createEngine({ device: gpu().device });
        expectReference({ inputs, options }, await engine.forward(inputs, options));
        const gradients = await engine.backward(dout);
        expect(gradients.dq.dtype).to.equal(dtype);
        expectReferenceGradients({ inputs, options }, dout, gradients);
        expect(await engine.backward(dout)).to.deep.equal(gradients);
        await engine.close();
      });
    }

    it('widens 16-bit tensors of odd head dims, and rounds f32 ones for dtype bf16, with results in the dtype of q', async () => {
      const engine = await createEngine({ device: gpu().device });
      const odd = createInputs({ shape: { ...shape, headDimQk: 7, headDimV: 5 }, dtype: 'f16' });
      const { out } = await engine.forward(odd);
      expect(out.dtype).to.equal('f16');
      expectReference({ inputs: odd, options: {} }, { out, lse: (await engine.forward(odd)).lse });
      expect((await engine.backward(createDout(describeCall(odd)))).dv.dtype).to.equal('f16');

      const inputs = createInputs({ shape });
      const rounded = await engine.forward(inputs, { dtype: 'bf16' });
      expect(rounded.out.dtype).to.equal('f32');
      const names = ['q', 'k', 'v'] as const;
      const asBf16 = Object.fromEntries(
        names.map((name) => [
          name,
          f32Tensor(
            inputs[name].shape,
            toFloat32(fromFloat32(inputs[name].data as Float32Array, inputs[name].shape, 'bf16')),
          ),
        ]),
      );
      expectReference({ inputs: { ...inputs, ...asBf16 }, options: {} }, rounded);
      await engine.close();
    });

    it('refuses a backward with no forward before it, and a dout that does not fit', async () => {
      const inputs = createInputs({ shape });
      const engine = await createEngine({ device: gpu().device });
      const codeOf = async (promise: Promise<unknown>): Promise<unknown> =>
        promise.then(
          () => 'none',
          (error: { code?: string }) => error.code,
        );
      expect(await codeOf(engine.backward(inputs.q))).to.equal('ERR_ORDER');
      await engine.forward(inputs);
      expect(await codeOf(engine.backward(f32Tensor([1, 90, 4, 8])))).to.equal('ERR_SHAPE');
      expect(await codeOf(engine.backward(fromFloat32(inputs.q.data as Float32Array, inputs.q.shape, 'f16')))).to.equal(
        'ERR_DTYPE',
      );
      expect(await codeOf(engine.backward(inputs.q))).to.equal('none');
      // A forward that never began leaves the last one in place.
      expect(await codeOf(engine.forward(inputs, { signal: AbortSignal.abort() }))).to.not.equal('none');
      expect(await codeOf(engine.backward(inputs.q))).to.equal('none');
      await engine.close();
      expect(await codeOf(engine.backward(inputs.q))).to.equal('ERR_CLOSED');
    });

    it('gives back the memory that it took', async () => {
      const inputs = createInputs({ shape, bias: [1, 4] });
      const engine = await createEngine({ device: gpu().device });
      const peaks: number[] = [];
      for (let round = 0; round < 4; round++) {
        await engine.forward(inputs, { maskType: 'causal' });
        await engine.backward(inputs.q);
        peaks.push(engine.metrics().ranks[0].peakGpuBytes);
      }
      expect(new Set(peaks.slice(1)).size).to.equal(1);
      await engine.close();
    });
  });
});

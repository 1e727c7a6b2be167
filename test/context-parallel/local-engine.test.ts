// The engine of one rank: bit for bit the plain kernel, on its own device or on the caller's, which it leaves alone.
import { expect } from 'chai';
import { scheduleBlock } from '../../src/attention/schedule.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { acquireTensor, readTensor, uploadTensor } from '../../src/gpu/tensor.ts';
import { createEngine } from '../../src/node/engine.ts';
import { createCase, expectReference, type AttentionCase } from '../helpers/attention-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

describe('an engine of one rank', function () {
  this.timeout(60_000);
  const gpu = useGpu();

  /** The kernel over the whole sequence as one block, with nothing else. */
  async function runPlainKernel({ shape, options, inputs }: AttentionCase) {
    const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimV } = shape;
    const attention = await FlashAttentionForward.create(gpu(), { ...shape, rows: seqLenQ });
    const whole = (length: number) => [{ start: 0, length, stride: 1 }];
    const schedule = scheduleBlock(whole(seqLenQ), whole(seqLenKv), options.maskType, attention.tileRows, true);
    const { softmaxScale } = options;
    const block = attention.prepareBlock({
      schedule,
      batch,
      numHeads,
      numKvHeads,
      rowsQ: seqLenQ,
      rowsKv: seqLenKv,
      softmaxScale,
    });
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
    for (const { buffer } of [q, k, v, out, lse]) gpu().pool.release(buffer);
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
});

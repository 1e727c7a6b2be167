// Both forward kernels against the f64 reference, over lengths around a tile, head dims, group sizes, masks and shards.
// Each axis is varied by itself: head dims change the specialisation, lengths the tiles, shards the positions.
import { expect } from 'chai';
import { LAYOUTS, shardsOf } from '../../src/attention/layout.ts';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { MASK_TYPES } from '../../src/attention/shape.ts';
import { ConfigError, DeviceError } from '../../src/errors.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { FORWARD_VARIANTS } from '../../src/gpu/kernel-choice.ts';
import { checkAttention, createInputs, createShape, runAttention } from '../helpers/gpu-attention.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

/** A reference of a million pairs takes a fifth of a second; the kernel of a software adapter compiles for seconds. */
const TIMEOUT_MS = 60_000;

/** Each way to specialise a variant: the element width and rows per lane of the one, the columns of the other. */
const HEAD_DIMS = {
  workgroup: [
    [8, 10],
    [33, 17],
    [80, 80],
    [128, 128],
    [256, 256],
  ],
  subgroup: [
    [8, 10],
    [10, 8],
    [33, 17],
    [64, 64],
    [80, 80],
    [96, 96],
    [128, 128],
    [256, 256],
  ],
} as const;

for (const variant of FORWARD_VARIANTS) {
  describe(`flash-attention-forward, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();

    for (const maskType of MASK_TYPES) {
      for (const seqLenQ of [1, 7, 63, 64, 65, 1000]) {
        it(`matches the reference: ${maskType}, S ${seqLenQ}, D 16`, async () => {
          await checkAttention(gpu(), { shape: createShape({ seqLenQ, headDimQk: 16 }), maskType, variant });
        });
      }
      for (const offset of [-1, 0, 1]) {
        it(`matches the reference: ${maskType}, S = tileRows ${offset < 0 ? '−' : '+'} ${Math.abs(offset)}`, async () => {
          const { tileRows } = await FlashAttentionForward.create(gpu(), { headDimQk: 16, headDimV: 16, variant });
          const shape = createShape({ seqLenQ: tileRows + offset, headDimQk: 16 });
          await checkAttention(gpu(), { shape, maskType, variant });
        });
      }
    }

    for (const [headDimQk, headDimV] of HEAD_DIMS[variant]) {
      it(`matches the reference: D ${headDimQk}/${headDimV}, causal, S 100`, async () => {
        const shape = createShape({ seqLenQ: 100, headDimQk, headDimV });
        await checkAttention(gpu(), { shape, maskType: 'causal', variant });
      });
    }

    for (const numKvHeads of [4, 1]) {
      it(`matches the reference: 4 heads on ${numKvHeads} KV heads, batch 2, Sq ≠ Skv`, async () => {
        const shape = createShape({ batch: 2, seqLenQ: 70, seqLenKv: 45, numHeads: 4, numKvHeads, headDimQk: 16 });
        await checkAttention(gpu(), { shape, maskType: 'no_mask', variant });
        await checkAttention(gpu(), { shape, maskType: 'causal', variant });
      });
    }

    for (const layout of LAYOUTS) {
      it(`merges the blocks of 3 ${layout} shards, causal, S 203`, async () => {
        const shape = createShape({ seqLenQ: 203, headDimQk: 16 });
        const shards = shardsOf(layout, 203, 3);
        for (const rank of [0, 2]) {
          const kv = [shards[rank], shards[(rank + 2) % 3], shards[(rank + 1) % 3]];
          await checkAttention(gpu(), { shape, maskType: 'causal', variant, query: shards[rank], kv });
        }
      });
    }

    it('writes out 0 and MASKED_LSE in rows that see no key', async () => {
      const shape = createShape({ seqLenQ: 50, headDimQk: 16 });
      const kv = [[{ start: 30, length: 20, stride: 1 }]];
      const { out, lse } = await runAttention(gpu(), { shape, maskType: 'causal', variant, kv }, createInputs(shape));
      const rowSize = shape.numHeads * shape.headDimV;
      expect(out.subarray(0, 30 * rowSize).every((value) => value === 0)).to.equal(true);
      expect(out.subarray(30 * rowSize).some((value) => value === 0)).to.equal(false);
      expect([...lse.subarray(0, 30)]).to.deep.equal(new Array(30).fill(Math.fround(MASKED_LSE)));
    });

    it('stays exact when every score is far from 0', async () => {
      const shape = createShape({ seqLenQ: 40, headDimQk: 16 });
      const inputs = createInputs(shape);
      // Equal keys: the weights are all 1/S and out is the mean of v, however large the scores are.
      inputs.k.fill(200);
      const { out, lse } = await runAttention(gpu(), { shape, maskType: 'no_mask', variant }, inputs);
      for (let d = 0; d < 16; d++) {
        let mean = 0;
        for (let j = 0; j < 40; j++) mean += inputs.v[j * 32 + d] / 40;
        expect(out[d]).to.be.closeTo(mean, 1e-6);
      }
      expect(lse.every((value) => Number.isFinite(value))).to.equal(true);
    });

    it('gives the same bits when it runs again', async () => {
      const testCase = { shape: createShape({ seqLenQ: 130, headDimQk: 16 }), maskType: 'causal', variant } as const;
      const inputs = createInputs(testCase.shape);
      const first = await runAttention(gpu(), testCase, inputs);
      const second = await runAttention(gpu(), testCase, inputs);
      expect(Buffer.from(second.out.buffer).equals(Buffer.from(first.out.buffer))).to.equal(true);
      expect(Buffer.from(second.lse.buffer).equals(Buffer.from(first.lse.buffer))).to.equal(true);
    });
  });
}

describe('FlashAttentionForward', () => {
  const gpu = useGpu();
  const request = {
    schedule: { tiles: [], ranges: [] },
    batch: 1,
    numHeads: 1,
    numKvHeads: 1,
    rowsQ: 1,
    rowsKv: 1,
    softmaxScale: 1,
  };

  it('rejects a head dim of 0 or above 256 with ERR_SHAPE', async () => {
    for (const headDimQk of [0, 257, 1.5]) {
      const error = await FlashAttentionForward.create(gpu(), { headDimQk, headDimV: 8 }).catch(
        (cause: unknown) => cause,
      );
      expect(error).to.be.instanceOf(ConfigError).with.property('code', 'ERR_SHAPE');
    }
  });

  it('records nothing for a block with no tiles', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const block = attention.prepareBlock(request);
    const pass = { setPipeline: () => expect.fail('a dispatch was recorded') } as unknown as GPUComputePassEncoder;
    attention.encode(pass, block, {} as never);
    block.destroy();
  });

  it('rejects a tensor that exceeds maxStorageBufferBindingSize, and takes one that just fits', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const rowsQ = Math.floor(gpu().adapter.limits.maxStorageBufferBindingSize / 64);
    attention.prepareBlock({ ...request, rowsQ }).destroy();
    expect(() => attention.prepareBlock({ ...request, rowsQ: rowsQ + 1 }))
      .to.throw(DeviceError, 'maxStorageBufferBindingSize')
      .with.property('code', 'ERR_LIMIT');
  });

  it('rejects more heads than a dispatch can have with ERR_LIMIT', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const numHeads = gpu().adapter.limits.maxComputeWorkgroupsPerDimension + 1;
    expect(() => attention.prepareBlock({ ...request, numHeads, numKvHeads: 1 }))
      .to.throw(DeviceError, 'numHeads')
      .with.property('code', 'ERR_LIMIT');
  });

  it('rejects a binding that is shorter than its tensor', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const tile = { row: 0, rowCount: 1, position: 0, positionStride: 1, firstRange: 0, rangeCount: 0 };
    const block = attention.prepareBlock({ ...request, rowsQ: 100, schedule: { tiles: [tile], ranges: [] } });
    const short = { size: 256 } as GPUBuffer;
    const tensors = { q: short, k: short, v: short, out: short, lse: short };
    expect(() => attention.encode({} as GPUComputePassEncoder, block, tensors)).to.throw(
      ConfigError,
      'q must span 6400',
    );
    block.destroy();
  });
});

// attention-delta by itself: lse in log2 units and Σ dout·out of the rows of its tiles, in every dtype of dout.
import { expect } from 'chai';
import { MASKED_LSE } from '../../src/attention/merge.ts';
import { fillOptions } from '../../src/attention/options.ts';
import { rowDeltas } from '../../src/attention/reference-backward.ts';
import { ConfigError } from '../../src/errors.ts';
import { AttentionDelta } from '../../src/gpu/attention-delta.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import { PreparedBlock } from '../../src/gpu/prepared-block.ts';
import { uploadTensor } from '../../src/gpu/tensor.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import type { FloatDType } from '../../src/tensor/tensor.ts';
import { POISON } from '../helpers/gpu-attention.ts';
import { createShape } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { seededNormal } from '../helpers/seeded.ts';
import { expectClose } from '../helpers/tolerance.ts';

const SHAPE = createShape({ batch: 2, seqLenQ: 75, headDimQk: 10 });
const ROWS = SHAPE.batch * SHAPE.numHeads * SHAPE.seqLenQ;
/** Rows of batch entry 1 that no tile has. */
const FIRST_UNLISTED = 50;
/** Rows of each batch entry and head without a key. */
const UNSEEN = 3;

describe('attention-delta', () => {
  const gpu = useGpu();

  function prepare(numUnlisted = SHAPE.seqLenQ - FIRST_UNLISTED): PreparedBlock {
    const common = { row: 0, position: 0, positionStride: 1, offset: 0, firstRange: 0, rangeCount: 0 };
    const tiles = [0, 1].map((sequence) => {
      return { ...common, sequence, rowCount: SHAPE.seqLenQ - (sequence === 1 ? numUnlisted : 0) };
    });
    const rows = { rowsQ: SHAPE.seqLenQ, rowsKv: SHAPE.seqLenKv };
    const heads = acquireHeads(gpu());
    return new PreparedBlock(gpu(), {
      schedule: { tiles, ranges: [] },
      shape: SHAPE,
      options: fillOptions({}, 10),
      ...rows,
      heads,
    });
  }

  for (const dtype of ['f32', 'f16', 'bf16'] satisfies FloatDType[]) {
    it(`writes lse and delta of the rows of its tiles, and no others: dout ${dtype}`, async () => {
      const sizes = [SHAPE.batch, SHAPE.seqLenQ, SHAPE.numHeads, SHAPE.headDimV];
      const out = seededNormal(ROWS * SHAPE.headDimV, 1);
      const dout = fromFloat32(seededNormal(ROWS * SHAPE.headDimV, 2), sizes, dtype);
      const lse = seededNormal(ROWS, 3).map((value, row) => (row % SHAPE.seqLenQ < UNSEEN ? MASKED_LSE : 10 * value));
      const delta = await AttentionDelta.create(gpu(), { features: { dtype } });
      const words = new Float32Array(dout.data.buffer);
      const rowStats = uploadTensor(gpu(), 'row-stats', [2 * ROWS], new Float32Array(2 * ROWS).fill(POISON));
      const encoder = gpu().device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      delta.encode(pass, prepare(), {
        out: uploadTensor(gpu(), 'out', sizes, out).buffer,
        dout: uploadTensor(gpu(), 'dout', [words.length], words).buffer,
        lse: uploadTensor(gpu(), 'lse', [ROWS], lse).buffer,
        rowStats: rowStats.buffer,
      });
      pass.end();
      gpu().device.queue.submit([encoder.finish()]);
      const bytes = await gpu().read([{ buffer: rowStats.buffer, byteLength: 8 * ROWS }]);
      const stats = new Float32Array(bytes.buffer);

      const deltas = rowDeltas(out, toFloat32(dout), SHAPE);
      const expected = [...deltas].flatMap((value, row) => {
        const isListed = row < ROWS / 2 || row % SHAPE.seqLenQ < FIRST_UNLISTED;
        if (!isListed) return [POISON, POISON];
        return lse[row] === Math.fround(MASKED_LSE) ? [1e30, 0] : [lse[row] * Math.LOG2E, value];
      });
      // A sum of 10 products of N(0, 1) numbers, and one rounded product: a few ulps.
      expectClose(stats, expected, { atol: 4e-6, rtol: 1e-6 }, [SHAPE.batch, SHAPE.numHeads, SHAPE.seqLenQ, 2]);
    });
  }

  it('rejects a row-stats binding that is shorter than its tensor', async () => {
    const delta = await AttentionDelta.create(gpu());
    const [long, short] = [{ size: 2 ** 20 } as GPUBuffer, { size: 8 * ROWS - 4 } as GPUBuffer];
    const tensors = { out: long, dout: long, lse: long, rowStats: short };
    expect(() => delta.encode({} as GPUComputePassEncoder, prepare(), tensors)).to.throw(
      ConfigError,
      'rowStats must span',
    );
  });
});

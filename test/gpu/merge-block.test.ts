// The merge kernel by itself: against the formula of src/attention/merge.ts in f64, masked sides as identity, and only
// the rows of the block's tiles. (Merges after real attention are in flash-attention-forward.test.ts.)
import { expect } from 'chai';
import { MASKED_LSE, mergeWeights } from '../../src/attention/merge.ts';
import { fillOptions } from '../../src/attention/options.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import { PreparedBlock } from '../../src/gpu/prepared-block.ts';
import { MergeBlock } from '../../src/gpu/merge-block.ts';
import { readTensor, uploadTensor } from '../../src/gpu/tensor.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { seededNormal } from '../helpers/seeded.ts';
import { expectClose, TOLERANCE } from '../helpers/tolerance.ts';

const [BATCH, ROWS, HEADS, DIM] = [2, 75, 2, 10];
const OUT_SHAPE = [BATCH, ROWS, HEADS, DIM];
const LSE_SHAPE = [BATCH, HEADS, ROWS];

interface MergeInputs {
  out: Float32Array;
  lse: Float32Array;
  blockOut: Float32Array;
  blockLse: Float32Array;
}

function createMergeInputs(): MergeInputs {
  return {
    out: seededNormal(BATCH * ROWS * HEADS * DIM, 1),
    lse: seededNormal(BATCH * HEADS * ROWS, 2).map((value) => 10 * value),
    blockOut: seededNormal(BATCH * ROWS * HEADS * DIM, 3),
    blockLse: seededNormal(BATCH * HEADS * ROWS, 4).map((value) => 10 * value),
  };
}

/** The merge of every row, in f64. */
function mergeOnHost({ out, lse, blockOut, blockLse }: MergeInputs): { out: number[]; lse: number[] } {
  const merged = { out: [...out], lse: [...lse] };
  for (let b = 0; b < BATCH; b++) {
    for (let h = 0; h < HEADS; h++) {
      for (let i = 0; i < ROWS; i++) {
        const row = (b * HEADS + h) * ROWS + i;
        const weights = mergeWeights(lse[row], blockLse[row]);
        merged.lse[row] = weights.lse;
        for (let d = 0; d < DIM; d++) {
          const at = ((b * ROWS + i) * HEADS + h) * DIM + d;
          merged.out[at] = weights.weight * out[at] + weights.blockWeight * blockOut[at];
        }
      }
    }
  }
  return merged;
}

for (const columns of [1, 16] as const) {
  describe(`merge-block, ${columns} invocation${columns === 1 ? '' : 's'} to a row`, () => {
    const gpu = useGpu();

    /** Merges rows [0, numRows) of both batch entries on the device, in tiles of 30 rows. */
    async function mergeOnDevice(
      inputs: MergeInputs,
      numRows = ROWS,
      maxLogit = false,
    ): Promise<{ out: Float32Array; lse: Float32Array }> {
      const merge = await MergeBlock.create(gpu(), { maxLogit, columns });
      const tilesOf = (sequence: number) =>
        Array.from({ length: Math.ceil(numRows / 30) }, (_, tile) => ({
          sequence,
          offset: 0,
          row: 30 * tile,
          rowCount: Math.min(30, numRows - 30 * tile),
          position: 30 * tile,
          positionStride: 1,
          firstRange: 0,
          rangeCount: 0,
        }));
      const tiles = Array.from({ length: BATCH }, (_, sequence) => tilesOf(sequence)).flat();
      const heads = acquireHeads(gpu());
      const block = new PreparedBlock(gpu(), {
        schedule: { tiles, ranges: [] },
        shape: {
          batch: BATCH,
          seqLenQ: ROWS,
          seqLenKv: 1,
          numHeads: HEADS,
          numKvHeads: HEADS,
          headDimQk: 16,
          headDimV: DIM,
        },
        options: fillOptions({ maxLogit }, 16),
        rowsQ: ROWS,
        rowsKv: 1,
        heads,
      });
      const lseShape = maxLogit ? [2, ...LSE_SHAPE] : LSE_SHAPE;
      const tensors = {
        out: uploadTensor(gpu(), 'out', OUT_SHAPE, inputs.out),
        lse: uploadTensor(gpu(), 'lse', lseShape, inputs.lse),
        blockOut: uploadTensor(gpu(), 'block-out', OUT_SHAPE, inputs.blockOut),
        blockLse: uploadTensor(gpu(), 'block-lse', lseShape, inputs.blockLse),
      };
      const encoder = gpu().device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      merge.encode(pass, block, tensors);
      pass.end();
      gpu().device.queue.submit([encoder.finish()]);
      const result = { out: await readTensor(gpu(), tensors.out), lse: await readTensor(gpu(), tensors.lse) };
      block.destroy();
      for (const buffer of [heads, ...Object.values(tensors).map((tensor) => tensor.buffer)])
        gpu().pool.release(buffer);
      return result;
    }

    it('matches the formula in f64', async () => {
      const inputs = createMergeInputs();
      const got = await mergeOnDevice(inputs);
      const expected = mergeOnHost(inputs);
      expectClose(got.out, expected.out, TOLERANCE.f32.out, OUT_SHAPE);
      expectClose(got.lse, expected.lse, TOLERANCE.f32.lse, LSE_SHAPE);
    });

    it('merges the largest scores behind lse by their maximum', async () => {
      const inputs = createMergeInputs();
      const rows = inputs.lse.length;
      const [largest, blockLargest] = [seededNormal(rows, 5), seededNormal(rows, 6)];
      largest.fill(MASKED_LSE, 0, 3);
      const double = (lse: Float32Array, scores: Float32Array) => Float32Array.from([...lse, ...scores]);
      const got = await mergeOnDevice(
        { ...inputs, lse: double(inputs.lse, largest), blockLse: double(inputs.blockLse, blockLargest) },
        ROWS,
        true,
      );
      expectClose(got.lse.subarray(0, rows), mergeOnHost(inputs).lse, TOLERANCE.f32.lse, LSE_SHAPE);
      const expected = largest.map((value, row) => Math.max(value, blockLargest[row]));
      expect(got.lse.subarray(rows)).to.deep.equal(expected);
    });

    it('leaves the running result alone, bit for bit, when the block is masked', async () => {
      const inputs = createMergeInputs();
      inputs.blockLse.fill(MASKED_LSE);
      inputs.blockOut.fill(0);
      const got = await mergeOnDevice(inputs);
      expect(got).to.deep.equal({ out: inputs.out, lse: inputs.lse });
    });

    it('takes the block, bit for bit, when the running result is masked', async () => {
      const inputs = createMergeInputs();
      inputs.lse.fill(MASKED_LSE);
      inputs.out.fill(0);
      const got = await mergeOnDevice(inputs);
      expect(got).to.deep.equal({ out: inputs.blockOut, lse: inputs.blockLse });
    });

    it('keeps a row masked that no side has seen', async () => {
      const inputs = createMergeInputs();
      for (const tensor of [inputs.out, inputs.blockOut]) tensor.fill(0);
      for (const tensor of [inputs.lse, inputs.blockLse]) tensor.fill(MASKED_LSE);
      const got = await mergeOnDevice(inputs);
      expect(got).to.deep.equal({ out: inputs.out, lse: inputs.lse });
    });

    it('stays finite when the two sides are far apart', async () => {
      const inputs = createMergeInputs();
      inputs.lse.fill(-3000);
      inputs.blockLse.fill(3000);
      const got = await mergeOnDevice(inputs);
      expect(got).to.deep.equal({ out: inputs.blockOut, lse: inputs.blockLse });
    });

    it('touches only the rows of its tiles', async () => {
      const inputs = createMergeInputs();
      const got = await mergeOnDevice(inputs, 40);
      const whole = mergeOnHost(inputs);
      for (const i of [0, 39, 40, 74]) {
        const at = (i * HEADS + 1) * DIM;
        const expected = i < 40 ? whole.out : [...inputs.out];
        expectClose(got.out.subarray(at, at + DIM), expected.slice(at, at + DIM), TOLERANCE.f32.out, [DIM]);
      }
    });
  });
}

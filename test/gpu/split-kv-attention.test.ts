// Splits of the keys: how a schedule is cut, and the two kernels on few queries and many keys, against the f64
// reference.
import { expect } from 'chai';
import { scheduleQueries } from '../../src/attention/schedule.ts';
import { pairShards } from '../../src/attention/sequences.ts';
import { createForwardAttention } from '../../src/gpu/forward-attention.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { SPLIT_VARIANTS } from '../../src/gpu/split-kernel-choice.ts';
import { SplitKvAttention } from '../../src/gpu/split-kv-attention.ts';
import { splitSchedule } from '../../src/gpu/split-schedule.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { checkAttention, runAttention } from '../helpers/gpu-attention.ts';
import { createInputs, createShape, type GpuCase } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

const TIMEOUT_MS = 120_000;

describe('splitSchedule', () => {
  // Two pieces of keys, the second of stride 2, and a window whose edges fall inside both.
  const kv = [
    { row: 0, start: 0, length: 900, stride: 1 },
    { row: 900, start: 901, length: 700, stride: 2 },
  ];
  const blocks = pairShards(
    [{ start: 990, length: 20, stride: 1 }],
    [],
    [{ batch: 0, startQ: 0, lenQ: 2000, startKv: 0, lenKv: 2301, offset: 0 }],
  ).map((block) => ({ ...block, kv }));
  const schedule = scheduleQueries(blocks, { left: 700, right: 800 }, { tileRows: 8 });
  const { splits, merges } = splitSchedule(schedule);

  it('keeps every pair of a tile and a key, and whether its mask is looked at', () => {
    for (const [index, tile] of schedule.tiles.entries()) {
      const keysOf = ({ tiles, ranges }: typeof schedule, at: number): string[] =>
        ranges.slice(tiles[at].firstRange, tiles[at].firstRange + tiles[at].rangeCount).flatMap((range) =>
          Array.from({ length: range.count }, (_, key) => {
            const isFull = key >= range.fullBegin && key < range.fullEnd;
            return `${range.row + key} ${range.position + range.positionStride * key} ${isFull}`;
          }),
        );
      const { firstRange, rangeCount } = merges.tiles[index];
      const split = Array.from({ length: rangeCount }, (_, at) => keysOf(splits, firstRange + at)).flat();
      expect(split).to.deep.equal(keysOf(schedule, index));
      for (let at = 0; at < rangeCount; at++) {
        const part = { ...splits.tiles[firstRange + at], firstRange: tile.firstRange, rangeCount: tile.rangeCount };
        expect(part).to.deep.equal(tile);
      }
    }
  });

  it('makes splits of one size, to a key', () => {
    const sizes = splits.tiles.map(({ firstRange, rangeCount }) =>
      splits.ranges.slice(firstRange, firstRange + rangeCount).reduce((sum, { count }) => sum + count, 0),
    );
    expect(sizes.length).to.be.greaterThan(schedule.tiles.length);
    expect(Math.max(...sizes) - Math.min(...sizes)).to.be.at.most(3);
  });

  it('gives a tile without keys no split', () => {
    const [tile] = schedule.tiles;
    const cut = splitSchedule({ tiles: [{ ...tile, rangeCount: 0 }], ranges: [] });
    expect(cut.splits.tiles).to.deep.equal([]);
    expect(cut.merges.tiles[0]).to.include({ row: tile.row, rangeCount: 0 });
  });
});

for (const variant of SPLIT_VARIANTS) {
  describe(`split-kv-attention, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();

    for (const [seqLenQ, numKvHeads] of [
      [1, 2],
      [1, 8],
      [3, 1],
      [8, 2],
    ] as const) {
      it(`matches the reference: Sq ${seqLenQ}, Skv 3000, 8 heads on ${numKvHeads}, causal`, async () => {
        const shape = createShape({ seqLenQ, seqLenKv: 3000, numHeads: 8, numKvHeads, headDimQk: 16 });
        await checkAttention(gpu(), { shape, variant, options: { maskType: 'causal_bottom_right' } });
      });
    }

    it('matches the reference: every option, f16, Sq 5, Skv 1500', async () => {
      const shape = createShape({ batch: 2, seqLenQ: 5, seqLenKv: 1500, numHeads: 4, numKvHeads: 2, headDimQk: 16 });
      await checkAttention(gpu(), {
        shape,
        variant,
        dtype: 'f16',
        alibi: true,
        bias: { batch: 2, heads: 1 },
        options: {
          maskType: 'causal_bottom_right',
          window: [1200, 0],
          softcap: 3,
          sink: 'learnable',
          dropout: 0.3,
          seed: 5,
          maxLogit: true,
        },
      });
    });

    it('weighs splits exactly when their scores are 1e4', async () => {
      const testCase: GpuCase = {
        shape: createShape({ seqLenQ: 2, seqLenKv: 1000, headDimQk: 16 }),
        variant,
        options: { softmaxScale: 1 },
      };
      const inputs = createInputs(testCase);
      const oneHot = Float32Array.from({ length: inputs.q.data.length }, (_, at) => Number(at % 16 === 3));
      inputs.q = fromFloat32(oneHot, inputs.q.shape, 'f32');
      inputs.k = fromFloat32(new Float32Array(inputs.k.data.length).fill(1e4), inputs.k.shape, 'f32');
      await checkAttention(gpu(), testCase, inputs, TOLERANCE.largeScores);
    });

    it('gives the same bits when it runs again', async () => {
      const shape = createShape({ seqLenQ: 3, seqLenKv: 2000, headDimQk: 16 });
      const inputs = createInputs({ shape, variant });
      const first = await runAttention(gpu(), { shape, variant }, inputs);
      expect(await runAttention(gpu(), { shape, variant }, inputs)).to.deep.equal(first);
    });
  });
}

describe('createForwardAttention', () => {
  const gpu = useGpu();
  const dims = { headDimQk: 16, headDimV: 16 };

  it('splits the keys of few queries against many keys, and only of those', async () => {
    const kernelFor = (rowsQ: number, rowsKv: number) => createForwardAttention(gpu(), { ...dims, rowsQ, rowsKv });
    expect(await kernelFor(1, 16384)).to.be.instanceOf(SplitKvAttention);
    expect(await kernelFor(1, 100)).to.be.instanceOf(FlashAttentionForward);
    expect(await kernelFor(100, 16384)).to.be.instanceOf(FlashAttentionForward);
    expect(await createForwardAttention(gpu(), dims)).to.be.instanceOf(FlashAttentionForward);
  });
});

// The attention and ring suites at tiny sizes: one row per case in the order of the grid, verified, with the fields of the
// contract; and a device that computes something else is found out.
import { expect } from 'chai';
import { createAttentionWorkload } from '../../bench/attention-workload.ts';
import { describeCase, usefulFlops } from '../../bench/case.ts';
import type { ReportFile } from '../../bench/report.ts';
import { uploadShards } from '../../bench/seeded-tensors.ts';
import { type BenchCase, type BenchRow, DIRECTIONS } from '../../bench/suite.ts';
import { planRing } from '../../src/context-parallel/ring-plan.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { callCli } from '../helpers/run-cli.ts';

const SIZES = ['--seq-len', '48', '--num-heads', '4', '--num-kv-heads', '2', '--head-dim', '16'];
const CASE: BenchCase = {
  ranks: 1,
  cpCommType: 'p2p',
  layout: 'zigzag',
  batch: 1,
  seqLen: 48,
  seqLenKv: 48,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 16,
  dtype: 'f32',
  maskType: 'causal',
  window: [-1, -1],
  direction: 'forward_backward',
};

/** Rows of a bench that ends well. */
async function runBench(argv: readonly string[]): Promise<BenchRow[]> {
  const { exitCode, stdout, stderr } = await callCli(['bench', ...argv, '-o', 'json']);
  expect(exitCode, stderr).to.equal(0);
  return (JSON.parse(stdout) as ReportFile).rows as BenchRow[];
}

describe('bench attention', function () {
  this.timeout(120_000);
  const gpu = useGpu();

  it('gives a verified row per mask, window and direction, in the order of the grid', async () => {
    const grid = ['--mask-type', 'causal,causal_bottom_right', '--window', '-1,-1;7,0'];
    const rows = await runBench(['attention', ...SIZES, ...grid, '--direction', DIRECTIONS.join(), '--iters', '3']);
    const expected = ['causal', 'causal_bottom_right'].flatMap((maskType) =>
      ['-1,-1', '7,0'].flatMap((window) => DIRECTIONS.map((direction) => [maskType, window, direction].join(' '))),
    );
    expect(rows.map(({ maskType, window, direction }) => `${maskType} ${window.join()} ${direction}`)).to.deep.equal(
      expected,
    );
    for (const row of rows) {
      const title = `${row.maskType} ${row.window.join()} ${row.direction}`;
      expect(row.wrong, title).to.equal(0);
      expect(row.maxAbsError, title).to.be.within(1e-9, 1e-4);
      expect(row.timeMs.samples, title).to.have.length(3);
      const flops = usefulFlops(describeCase(row), row.direction);
      expect(row.tflops, title).to.be.closeTo(flops / row.timeMs.p50 / 1e9, 1e-12);
    }
    const [forward, backward, both] = rows;
    expect(backward.peakGpuBytes).to.equal(both.peakGpuBytes).and.be.greaterThan(forward.peakGpuBytes);
  });

  for (const dtype of ['f16', 'bf16'] as const) {
    it(`stores ${dtype} in half of the bytes, with the error of its rounding and none more`, async () => {
      const argv = [
        'attention',
        ...SIZES,
        '--dtype',
        `f32,${dtype}`,
        '--direction',
        'forward,backward',
        '--iters',
        '1',
      ];
      const [full, , half, gradients] = await runBench(argv);
      expect([half.wrong, gradients.wrong]).to.deep.equal([0, 0]);
      expect(half.maxAbsError).to.be.greaterThan(1e-5);
      const inputBytes = CASE.seqLen * CASE.headDim * 4 * (CASE.numHeads + 2 * CASE.numKvHeads);
      expect(full.peakGpuBytes - half.peakGpuBytes).to.equal(inputBytes / 2);
    });
  }

  it('takes one query against many keys, in every direction', async () => {
    const sizes = [
      '--seq-len',
      '1',
      '--seq-len-kv',
      '1500',
      '--num-heads',
      '4',
      '--num-kv-heads',
      '1',
      '--head-dim',
      '16',
    ];
    const rows = await runBench(['attention', ...sizes, '--direction', 'forward,backward', '--iters', '1']);
    expect(rows.map(({ seqLen, seqLenKv, wrong }) => [seqLen, seqLenKv, wrong])).to.deep.equal([
      [1, 1500, 0],
      [1, 1500, 0],
    ]);
  });

  it('does not verify with --no-check', async () => {
    const [row] = await runBench(['attention', ...SIZES, '--no-check', '--direction', 'backward', '--iters', '1']);
    expect([row.maxAbsError, row.wrong]).to.deep.equal([null, null]);
  });

  it('finds out a device that has other inputs than the reference, in every direction', async () => {
    const plan = planRing(describeCase(CASE), 0, 1);
    const { liveBytes } = gpu().pool;
    const shards = uploadShards(gpu(), plan);
    for (const [wrongShards, isWrong] of [
      [shards, false],
      [{ ...shards, v: shards.k }, true],
    ] as const) {
      const workload = await createAttentionWorkload(gpu(), plan, { shards: wrongShards, directions: DIRECTIONS });
      for (const direction of DIRECTIONS) {
        const { wrong } = await workload.verify(direction);
        expect(wrong > 0, direction).to.equal(isWrong);
      }
      workload.destroy();
    }
    for (const buffer of [shards.q, shards.k, shards.v]) gpu().pool.release(buffer);
    expect(gpu().pool.liveBytes).to.equal(liveBytes);
  });
});

describe('bench ring', function () {
  this.timeout(120_000);

  it('takes every dtype and window, and sends half of the bytes for 16 bits', async () => {
    const grid = ['--dtype', 'f32,bf16', '--window', '-1,-1;15,0', '--mask-type', 'causal'];
    const rows = await runBench(['ring', '--ranks', '2', ...SIZES, ...grid, '--iters', '1', '--warmup', '0']);
    expect(rows.map(({ dtype, window, wrong }) => `${dtype} ${window.join()} ${wrong}`)).to.deep.equal([
      'f32 -1,-1 0',
      'f32 15,0 0',
      'bf16 -1,-1 0',
      'bf16 15,0 0',
    ]);
    const kvBytes = (CASE.seqLen / 2) * CASE.numKvHeads * 2 * CASE.headDim * 4;
    expect(rows.map(({ commBytesPerRank }) => commBytesPerRank)).to.deep.equal([
      kvBytes,
      kvBytes,
      kvBytes / 2,
      kvBytes / 2,
    ]);
  });
});

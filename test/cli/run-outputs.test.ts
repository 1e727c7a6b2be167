// `kvring run` on three ranks: the result, and the files that --metrics and --trace write beside it.
import { expect } from 'chai';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readSafetensors, writeSafetensors } from '../../src/node/files.ts';
import { f32Tensor, type F32Tensor } from '../../src/tensor/tensor.ts';
import type { RunMetrics } from '../../src/trace/counters.ts';
import type { ChromeTrace } from '../../src/trace/perfetto.ts';
import { LANES } from '../../src/trace/timeline.ts';
import { expectReference } from '../helpers/attention-case.ts';
import { callCli } from '../helpers/run-cli.ts';
import { seededNormal } from '../helpers/seeded.ts';

const RANKS = 3;
const [BATCH, SEQ_LEN, HEADS, KV_HEADS, DIM] = [2, 37, 4, 2, 16];

describe('kvring run --ranks 3 --metrics --trace', () => {
  const q = f32Tensor([BATCH, SEQ_LEN, HEADS, DIM], seededNormal(BATCH * SEQ_LEN * HEADS * DIM, 1));
  const k = f32Tensor([BATCH, SEQ_LEN, KV_HEADS, DIM], seededNormal(BATCH * SEQ_LEN * KV_HEADS * DIM, 2));
  const v = f32Tensor([BATCH, SEQ_LEN, KV_HEADS, DIM], seededNormal(BATCH * SEQ_LEN * KV_HEADS * DIM, 3));
  let folder: string;
  const pathOf = (name: string) => join(folder, name);
  const readJson = async (name: string): Promise<unknown> => JSON.parse(await readFile(pathOf(name), 'utf8'));

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kvring-run-'));
    await writeSafetensors(pathOf('in.safetensors'), { q, k, v });
    const files = ['--input', pathOf('in.safetensors'), '--output', pathOf('out.safetensors')];
    const extras = ['--metrics', pathOf('m.json'), '--trace', pathOf('t.json')];
    const options = ['--ranks', String(RANKS), '--mask-type', 'causal'];
    const result = await callCli(['run', ...files, ...extras, ...options]);
    expect(result).to.deep.equal({ exitCode: 0, stdout: '', stderr: '' });
  });
  after(() => rm(folder, { recursive: true }));

  it('writes out [B, S, H, D] and lse [B, H, S] in the global order of the input', async () => {
    const { tensors } = await readSafetensors(pathOf('out.safetensors'));
    const out = tensors.get('out')!;
    const lse = tensors.get('lse')!;
    expect(out.shape).to.deep.equal([BATCH, SEQ_LEN, HEADS, DIM]);
    expect(lse.shape).to.deep.equal([BATCH, HEADS, SEQ_LEN]);
    expectReference({ inputs: { q, k, v }, options: { maskType: 'causal' } }, { out, lse: lse as F32Tensor });
  });

  it('writes the counters of every rank, with the bytes that the formula gives', async () => {
    const { ranks } = (await readJson('m.json')) as RunMetrics;
    expect(ranks.map(({ rank }) => rank)).to.deep.equal([0, 1, 2]);
    for (const metrics of ranks) {
      expect(metrics).to.have.all.keys(
        'rank',
        'kvPayloadBytesSent',
        'payloadBytesSent',
        'messagesSent',
        'waits',
        'waitMs',
        'kvSlots',
        'peakGpuBytes',
        'tileProducts',
        'computeMs',
        'exposedCommMs',
      );
      // 37 tokens in 6 chunks of 7, 6, 6, 6, 6, 6: rank 0 holds 13, the others 12.
      const ofSuccessor = (metrics.rank + 1) % RANKS === 0 ? 13 : 12;
      const kvBytes = BATCH * KV_HEADS * 2 * DIM * 4 * (SEQ_LEN - ofSuccessor);
      expect(metrics.kvPayloadBytesSent, `rank ${metrics.rank}`).to.equal(kvBytes);
      expect(metrics.payloadBytesSent).to.deep.equal({ forward: kvBytes, backward: 0 });
      expect(metrics.tileProducts).to.be.greaterThan(0);
      expect(metrics.peakGpuBytes).to.be.greaterThan(0);
    }
  });

  it('writes a trace: a process per rank, a lane each, and an arrow from every send to its receive', async () => {
    const { traceEvents } = (await readJson('t.json')) as ChromeTrace;
    const named = traceEvents
      .filter(({ name }) => name === 'thread_name')
      .map(({ pid, args }) => [pid, args?.['name']]);
    expect(named).to.deep.equal([0, 1, 2].flatMap((rank) => LANES.map((lane) => [rank, lane])));
    const idsOf = (ph: string) => traceEvents.filter((event) => event.ph === ph).map(({ id }) => String(id));
    // Two blocks leave every rank.
    expect(idsOf('s')).to.have.length(RANKS * (RANKS - 1));
    expect(new Set(idsOf('s')).size).to.equal(RANKS * (RANKS - 1));
    expect(idsOf('f').toSorted()).to.deep.equal(idsOf('s').toSorted());
    for (const rank of [0, 1, 2]) {
      const lanes = traceEvents.filter(({ ph, pid }) => ph === 'X' && pid === rank).map(({ cat }) => cat);
      expect(lanes).to.include.members([...LANES]);
    }
  });
});

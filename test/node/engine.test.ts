// The engine over real rank processes and sockets: right over a covering choice of ranks, lengths, head shapes, masks and
// layouts; the same bits on every run, and as the plain kernel with one rank; bytes, slots and memory as designed.
import { expect } from 'chai';
import { shardLength, shardsOf } from '../../src/attention/layout.ts';
import { createEngine } from '../../src/node/engine.ts';
import type { Engine } from '../../src/context-parallel/engine-options.ts';
import { createCase, expectReference } from '../helpers/attention-case.ts';
import { coveringCases } from '../helpers/covering.ts';

/** Query and KV heads for groupSize 1, 4 and all; few heads, so that S = 4096 is affordable on a software adapter. */
const HEADS = { '1': [2, 2], '4': [8, 2], all: [3, 1] } as const;
const FACTORS = {
  ranks: [1, 2, 3, 4, 8],
  seqLen: [4096, 1, 7, 1000, 1023],
  headDim: [16, 64, 80, 128, 256],
  groupSize: ['1', 'all', '4'],
  maskType: ['causal', 'no_mask'],
  layout: ['zigzag', 'contiguous'],
} as const;

describe('coveringCases', () => {
  it('meets every pair of values of every two factors', () => {
    const cases = coveringCases(FACTORS);
    const names = Object.keys(FACTORS) as (keyof typeof FACTORS)[];
    for (const a of names) {
      for (const b of names) {
        if (a === b) continue;
        for (const x of FACTORS[a]) {
          for (const y of FACTORS[b]) {
            expect(
              cases.some((one) => one[a] === x && one[b] === y),
              `${a}=${x} ${b}=${y}`,
            ).to.equal(true);
          }
        }
      }
    }
    expect(cases.length).to.be.at.most(40);
  });
});

describe('createEngine', () => {
  for (const ranks of FACTORS.ranks) {
    for (const layout of FACTORS.layout) {
      const cases = coveringCases(FACTORS).filter((one) => one.ranks === ranks && one.layout === layout);
      if (cases.length === 0) continue;
      describe(`${ranks} rank${ranks === 1 ? '' : 's'}, ${layout}`, function () {
        this.timeout(600_000);
        let engine: Engine;
        before(async () => {
          engine = await createEngine({ ranks, layout });
        });
        after(() => engine.close());

        for (const { seqLen, headDim, groupSize, maskType } of cases) {
          it(`equals the f64 reference: S=${seqLen} D=${headDim} groupSize=${groupSize} ${maskType}`, async () => {
            const [numHeads, numKvHeads] = HEADS[groupSize];
            const one = createCase({ seqLen, numHeads, numKvHeads, headDim }, maskType);
            const result = await engine.forward(one.inputs, { maskType });
            expectReference(one, result, seqLen > 1000 ? 200 : 400);
            if (seqLen > 1023) return;
            const again = await engine.forward(one.inputs, { maskType });
            expect(
              Buffer.from(again.out.data.buffer).equals(Buffer.from(result.out.data.buffer)),
              'bits repeat',
            ).to.equal(true);
            expect(
              Buffer.from(again.lse.data.buffer).equals(Buffer.from(result.lse.data.buffer)),
              'bits repeat',
            ).to.equal(true);
          });
        }
      });
    }
  }
});

describe('createEngine, counters', function () {
  this.timeout(120_000);
  const sizes = { seqLen: 2048, numHeads: 4, numKvHeads: 4, headDim: 64 };

  it('sends exactly the KV bytes of the formula, holds at most 3 slots, and needs 1/N of the GPU memory per rank', async () => {
    const one = createCase(sizes, 'causal');
    const peaks: number[] = [];
    for (const ranks of [1, 2, 4, 8]) {
      const engine = await createEngine({ ranks });
      try {
        await engine.forward(one.inputs, { maskType: 'causal' });
        const { ranks: metrics } = engine.metrics();
        const rowBytes = 4 * (64 + 64) * 4;
        const block = (2048 / ranks) * rowBytes;
        for (const { kvPayloadBytesSent, payloadBytesSent, kvSlots } of metrics) {
          expect(kvPayloadBytesSent).to.equal((ranks - 1) * block);
          expect(payloadBytesSent.forward).to.be.at.least(kvPayloadBytesSent);
          expect(kvSlots).to.equal(Math.min(ranks, 3));
        }
        peaks.push(Math.max(...metrics.map(({ peakGpuBytes }) => peakGpuBytes)));
      } finally {
        await engine.close();
      }
    }
    // Beyond two ranks every buffer is 1/N of a tensor; work lists are the small rest.
    expect(peaks[2] / peaks[1]).to.be.within(0.5, 0.75);
    expect(peaks[3] / peaks[2]).to.be.within(0.5, 0.55);
  });

  it('sends B·Hkv·(Dqk + Dv)·4·(S − s_{r+1}) bytes with uneven shards', async () => {
    const ranks = 3;
    const one = createCase({ ...sizes, seqLen: 100, numKvHeads: 2 }, 'causal');
    const engine = await createEngine({ ranks });
    try {
      await engine.forward(one.inputs, { maskType: 'causal' });
      const shards = shardsOf('zigzag', 100, ranks);
      for (const { rank, kvPayloadBytesSent } of engine.metrics().ranks) {
        const next = shardLength(shards[(rank + 1) % ranks]);
        expect(kvPayloadBytesSent).to.equal(2 * (64 + 64) * 4 * (100 - next));
      }
    } finally {
      await engine.close();
    }
  });
});

// What takes longer: every layout over every number of ranks at full length, random calls one after another on the same
// engines, and two hundred calls that leave memory and handles where they were.
import { expect } from 'chai';
import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { LAYOUTS } from '../../src/attention/layout.ts';
import { createEngine } from '../../src/node/engine.ts';
import { ProcessEngine } from '../../src/node/process-engine.ts';
import { createCase, expectReference } from '../helpers/attention-case.ts';

describe('createEngine at full length', function () {
  this.timeout(900_000);

  for (const ranks of [1, 2, 3, 4, 8]) {
    for (const layout of LAYOUTS) {
      it(`equals the f64 reference at S=4096: ${ranks} ranks, ${layout}, causal and not`, async () => {
        const engine = await createEngine({ ranks, layout, timeoutMs: 600_000 });
        try {
          for (const maskType of ['causal', 'no_mask'] as const) {
            const one = createCase({ seqLen: 4096, numHeads: 4, numKvHeads: 2, headDim: 64 }, maskType);
            expectReference(one, await engine.forward(one.inputs, { maskType }), 200);
          }
        } finally {
          await engine.close();
        }
      });
    }
  }

  it('equals the f64 reference for random calls, one after another on the same engine', async () => {
    const engine = await createEngine({ ranks: 3 });
    const calls = fc.record({
      seqLen: fc.integer({ min: 1, max: 600 }),
      batch: fc.integer({ min: 1, max: 3 }),
      numKvHeads: fc.integer({ min: 1, max: 3 }),
      groupSize: fc.integer({ min: 1, max: 4 }),
      headDim: fc.constantFrom(8, 24, 40, 64),
      maskType: fc.constantFrom('causal' as const, 'no_mask' as const),
    });
    try {
      await fc.assert(
        fc.asyncProperty(calls, async ({ seqLen, batch, numKvHeads, groupSize, headDim, maskType }) => {
          const one = createCase({ seqLen, batch, numHeads: numKvHeads * groupSize, numKvHeads, headDim }, maskType);
          expectReference(one, await engine.forward(one.inputs, { maskType }));
        }),
        { numRuns: 40, endOnFailure: true },
      );
    } finally {
      await engine.close();
    }
  });

  it('keeps the memory of every rank and the handles of this process flat over 200 calls', async () => {
    const engine = await ProcessEngine.create({ ranks: 2 });
    const one = createCase({ seqLen: 512, numHeads: 4, numKvHeads: 4, headDim: 64 }, 'causal');
    const call = () => engine.forward(one.inputs, { maskType: 'causal' });
    try {
      for (let warmup = 0; warmup < 60; warmup++) await call();
      const [before, handles] = [residentBytes(engine), process.getActiveResourcesInfo().length];
      for (let count = 0; count < 200; count++) await call();
      const after = residentBytes(engine);
      // A leaked shard of K and V alone would be 200 × 1 MiB; garbage that awaits collection is far less.
      for (const [rank, bytes] of after.entries()) {
        expect(bytes - before[rank], `rank ${rank}`).to.be.below(64 * 1024 * 1024);
      }
      expect(process.getActiveResourcesInfo().length).to.be.at.most(handles + 2);
    } finally {
      await engine.close();
    }
  });
});

/** Resident memory of each rank process, in bytes. */
function residentBytes(engine: ProcessEngine): number[] {
  return [...engine.pids.values()].map((pid) => {
    const kilobytes = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1];
    return Number(kilobytes) * 1024;
  });
}

// The ring on the CPU over the memory network: equal to the f64 reference for any number of ranks, any length, both
// masks and all layouts; the bytes that it sends are the design's formula; its slots do not grow with the ring.
import { expect } from 'chai';
import fc from 'fast-check';
import { LAYOUTS } from '../../src/attention/layout.ts';
import { referenceForward } from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { type AttentionCall, planRing } from '../../src/context-parallel/ring-plan.ts';
import { runMemoryRing } from '../helpers/memory-ring.ts';

const SHAPE: AttentionShape = {
  batch: 2,
  seqLenQ: 37,
  seqLenKv: 37,
  numHeads: 4,
  numKvHeads: 2,
  headDimQk: 8,
  headDimV: 6,
};

function callOf(shape: Partial<AttentionShape>, rest: Partial<Omit<AttentionCall, 'shape'>> = {}): AttentionCall {
  return {
    shape: { ...SHAPE, ...shape },
    options: { maskType: 'causal', softmaxScale: 0.35 },
    layout: 'zigzag',
    ...rest,
  };
}

async function expectReference(call: AttentionCall, worldSize: number): Promise<void> {
  const { q, k, v, out, lse } = await runMemoryRing(call, worldSize);
  const reference = referenceForward({ q, k, v }, call.shape, call.options);
  // Partial results are rounded to f32 once a step: a few ulp of values of magnitude 4.
  for (const [index, value] of reference.out.entries()) expect(out[index]).to.be.closeTo(value, 2e-6);
  for (const [index, value] of reference.lse.entries()) {
    if (value === -Infinity) expect(lse[index]).to.equal(-Infinity);
    else expect(lse[index]).to.be.closeTo(value, 2e-6);
  }
}

describe('ringAttention on the CPU and the memory network', () => {
  for (const layout of LAYOUTS) {
    for (const worldSize of [1, 2, 3, 4, 8]) {
      it(`equals the reference: ${layout}, ${worldSize} ranks, causal and not`, async () => {
        await expectReference(callOf({}, { layout }), worldSize);
        await expectReference(callOf({}, { layout, options: { maskType: 'no_mask', softmaxScale: 0.2 } }), worldSize);
      });
    }
  }

  it('equals the reference for random shapes, lengths and numbers of ranks, fewer tokens than ranks included', async () => {
    const calls = fc.record({
      seqLenQ: fc.integer({ min: 1, max: 40 }),
      seqLenKv: fc.integer({ min: 1, max: 40 }),
      numKvHeads: fc.constantFrom(1, 2, 4),
      worldSize: fc.integer({ min: 1, max: 9 }),
      layout: fc.constantFrom(...LAYOUTS),
      maskType: fc.constantFrom('no_mask' as const, 'causal' as const),
    });
    await fc.assert(
      fc.asyncProperty(calls, async ({ worldSize, layout, maskType, ...shape }) => {
        await expectReference(callOf(shape, { layout, options: { maskType, softmaxScale: 0.3 } }), worldSize);
      }),
      { numRuns: 60 },
    );
  });

  it('sends exactly B·Hkv·(Dqk + Dv)·b·(S − s_{r+1}) bytes per rank', async () => {
    for (const [seqLen, worldSize] of [
      [64, 4],
      [37, 4],
      [37, 8],
      [3, 4],
    ] as const) {
      const { plans, counters } = await runMemoryRing(callOf({ seqLenQ: seqLen, seqLenKv: seqLen }), worldSize);
      for (const [rank, plan] of plans.entries()) {
        const next = plan.kvShards[(rank + 1) % worldSize].reduce((sum, { length }) => sum + length, 0);
        const expected = 2 * 2 * (8 + 6) * 4 * (seqLen - next);
        expect(counters[rank].payloadBytesSent, `S=${seqLen} rank ${rank}`).to.equal(expected);
        expect(plan.kvPayloadBytes).to.equal(expected);
      }
    }
  });

  it('sends less where a contiguous causal block has nobody left to see it', async () => {
    const { plans, counters } = await runMemoryRing(callOf({ seqLenQ: 32, seqLenKv: 32 }, { layout: 'contiguous' }), 4);
    const block = 2 * 2 * (8 + 6) * 4 * 8;
    expect(counters.map(({ payloadBytesSent }) => payloadBytesSent / block)).to.deep.equal([1, 2, 3, 0]);
    expect(plans.map(({ kvPayloadBytes }) => kvPayloadBytes / block)).to.deep.equal([1, 2, 3, 0]);
  });

  it('keeps three KV slots at most, however many ranks', () => {
    expect(
      [1, 2, 3, 4, 8, 64].map((size) => planRing(callOf({ seqLenQ: 256, seqLenKv: 256 }), 0, size).kvSlots),
    ).to.deep.equal([1, 2, 3, 3, 3, 3]);
  });

  it('gives plans of another call another hash', () => {
    const hashes = [callOf({}), callOf({ seqLenKv: 38 }), callOf({}, { layout: 'contiguous' })].map(
      (call) => planRing(call, 0, 4).shapeHash,
    );
    expect(new Set(hashes).size).to.equal(3);
    expect(planRing(callOf({}), 3, 4).shapeHash).to.equal(hashes[0]);
  });
});

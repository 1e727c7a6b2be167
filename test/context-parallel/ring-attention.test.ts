// The ring on the CPU over the memory network: equal to the f64 reference for any number of ranks, any length, every
// option and all layouts; the bytes that it sends are the design's formula; its slots do not grow with the ring.
import { expect } from 'chai';
import fc from 'fast-check';
import { LAYOUTS } from '../../src/attention/layout.ts';
import { MASK_TYPES } from '../../src/attention/mask.ts';
import { type AttentionOptions, fillOptions } from '../../src/attention/options.ts';
import { referenceForward } from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { planRing, type RingCall } from '../../src/context-parallel/ring-plan.ts';
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

interface Rest extends Partial<Omit<RingCall, 'shape' | 'options'>> {
  options?: Partial<AttentionOptions>;
}

function callOf(shape: Partial<AttentionShape>, { options, ...rest }: Rest = {}): RingCall {
  const sizes = { ...SHAPE, ...shape };
  return {
    shape: sizes,
    options: fillOptions({ maskType: 'causal', softmaxScale: 0.35, ...options }, sizes.headDimQk),
    layout: 'zigzag',
    dtype: 'f32',
    storage: 'f32',
    lengths: null,
    bias: null,
    alibi: false,
    ...rest,
  };
}

async function expectReference(call: RingCall, worldSize: number): Promise<void> {
  const { q, k, v, bias, sink, alibiSlopes, out, lse } = await runMemoryRing(call, worldSize);
  const { lengths } = call;
  const inputs = { q, k, v, sink, alibiSlopes, lengths, bias: bias && { data: bias, ...call.bias! } };
  const reference = referenceForward(inputs, call.shape, call.options);
  // Partial results are rounded to f32 once a step: a few ulp of values of magnitude 4, 8 where dropout scales them.
  for (const [index, value] of reference.out.entries()) expect(out[index], `out[${index}]`).to.be.closeTo(value, 4e-6);
  for (const [index, value] of reference.lse.entries()) {
    if (value === -Infinity) expect(lse[index], `lse[${index}]`).to.equal(-Infinity);
    else expect(lse[index], `lse[${index}]`).to.be.closeTo(value, 4e-6);
  }
}

const PADDED = { packed: false, startsQ: [0, 0], lensQ: [30, 0], startsKv: [0, 0], lensKv: [37, 11] };
/** Five sequences in 37 tokens, one empty, one with more keys than queries, with gaps between and after. */
const PACKED = {
  packed: true,
  startsQ: [0, 10, 12, 12, 25],
  lensQ: [8, 2, 0, 13, 9],
  startsKv: [0, 7, 13, 15, 20],
  lensKv: [6, 6, 1, 5, 16],
};

/** Every option by itself, and some that meet in models. */
const OPTIONS: Record<string, Rest> = {
  'window 5,2': { options: { maskType: 'no_mask', window: [5, 2] } },
  'causal window 6': { options: { window: [6, -1] } },
  softcap: { options: { softcap: 1.5 } },
  'off-by-one sink': { options: { sink: 'off_by_one' } },
  'learnable sink, window 3': { options: { sink: 'learnable', window: [3, 0] } },
  dropout: { options: { maskType: 'no_mask', dropout: 0.4, seed: 2 ** 40 + 7 } },
  ALiBi: { alibi: true },
  'bias bhss': { bias: { batch: 2, heads: 4 }, options: { maskType: 'no_mask' } },
  'bias 11ss': { bias: { batch: 1, heads: 1 } },
  'padding, off-by-one sink': { lengths: PADDED, options: { maskType: 'padding', sink: 'off_by_one' } },
  'padding_causal, window': { lengths: PADDED, options: { maskType: 'padding_causal', window: [9, 0] } },
  padding_causal_bottom_right: { lengths: PADDED, options: { maskType: 'padding_causal_bottom_right' } },
};

describe('ringAttention on the CPU and the memory network', () => {
  for (const layout of LAYOUTS) {
    for (const worldSize of [1, 2, 3, 4, 8]) {
      it(`equals the reference: ${layout}, ${worldSize} ranks, causal and not`, async () => {
        await expectReference(callOf({}, { layout }), worldSize);
        await expectReference(callOf({}, { layout, options: { maskType: 'no_mask', softmaxScale: 0.2 } }), worldSize);
      });
    }
  }

  for (const [name, rest] of Object.entries(OPTIONS)) {
    it(`equals the reference with every layout on 3 ranks: ${name}`, async () => {
      for (const layout of LAYOUTS) await expectReference(callOf({}, { layout, ...rest }), 3);
    });
  }

  for (const maskType of MASK_TYPES) {
    it(`equals the reference with packed sequences cut anywhere by every layout: ${maskType}`, async () => {
      const rest = { lengths: PACKED, options: { maskType, dropout: 0.2 } };
      for (const layout of LAYOUTS) await expectReference(callOf({ batch: 1 }, { layout, ...rest }), 3);
    });
  }

  it('equals the reference for random shapes, lengths and numbers of ranks, fewer tokens than ranks included', async () => {
    const calls = fc.record({
      seqLenQ: fc.integer({ min: 1, max: 40 }),
      seqLenKv: fc.integer({ min: 1, max: 40 }),
      numKvHeads: fc.constantFrom(1, 2, 4),
      worldSize: fc.integer({ min: 1, max: 9 }),
      layout: fc.constantFrom(...LAYOUTS),
      maskType: fc.constantFrom('no_mask' as const, 'causal' as const, 'causal_bottom_right' as const),
      window: fc.constantFrom<[number, number]>([-1, -1], [4, -1], [0, 3], [2, 2]),
    });
    await fc.assert(
      fc.asyncProperty(calls, async ({ worldSize, layout, maskType, window, ...shape }) => {
        await expectReference(callOf(shape, { layout, options: { maskType, window, softmaxScale: 0.3 } }), worldSize);
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

  it('stops a block of contiguous shards at the last rank whose window reaches it', () => {
    const call = callOf({ seqLenQ: 64, seqLenKv: 64 }, { layout: 'contiguous', options: { window: [8, 0] } });
    const plans = [0, 1, 2, 3, 4, 5, 6, 7].map((rank) => planRing(call, rank, 8));
    const block = 2 * 2 * (8 + 6) * 4 * 8;
    expect(plans.map(({ kvPayloadBytes }) => kvPayloadBytes / block)).to.deep.equal([1, 1, 1, 1, 1, 1, 1, 0]);
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

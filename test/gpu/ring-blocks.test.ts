// Blocks of shards, computed one after another and merged as in a ring, against the f64 reference: every layout, with
// the options that a ring has to get right: windows, sinks (counted once), dropout (by global position), packed
// sequences.
import { LAYOUTS, shardsOf } from '../../src/attention/layout.ts';
import { FORWARD_ATTENTION_VARIANTS } from '../../src/gpu/forward-attention.ts';
import { checkAttention } from '../helpers/gpu-attention.ts';
import { createShape, type GpuCase } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

const TIMEOUT_MS = 120_000;
const RANKS = 3;

const PACKED = {
  packed: true,
  startsQ: [2, 60, 110],
  lensQ: [55, 50, 90],
  startsKv: [0, 61, 100],
  lensKv: [57, 30, 103],
};

const CASES: readonly [name: string, testCase: Omit<GpuCase, 'shape' | 'variant'>][] = [
  ['causal', { options: { maskType: 'causal' } }],
  ['a window that leaves rows without keys in most blocks', { options: { window: [20, 5] } }],
  ['a learnable sink and a window', { options: { sink: 'learnable', window: [15, 0] } }],
  ['packed sequences with gaps, causal', { lengths: PACKED, options: { maskType: 'causal_bottom_right' } }],
  ['dropout and max logit', { options: { maskType: 'causal', dropout: 0.25, seed: 11, maxLogit: true } }],
];

for (const variant of FORWARD_ATTENTION_VARIANTS) {
  describe(`blocks of a ring, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();

    for (const layout of LAYOUTS) {
      for (const [name, testCase] of CASES) {
        it(`merge to the reference: ${layout}, ${name}`, async () => {
          const shape = createShape({ seqLenQ: 203, headDimQk: 16 });
          const shards = shardsOf(layout, 203, RANKS);
          for (const rank of [0, 2]) {
            const kv = [0, 1, 2].map((step) => shards[(rank + RANKS - step) % RANKS]);
            await checkAttention(gpu(), { shape, variant, query: shards[rank], kv, ...testCase });
          }
        });
      }
    }
  });
}

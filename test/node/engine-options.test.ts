// Every option of a call over real rank processes: the ring gives what one rank gives, because tiles, dropout, bias and sinks go
// by positions in the sequence. Backward over several ranks is refused, and leaves the engine as it was.
import { expect } from 'chai';
import type { AttentionInputs } from '../../src/attention/call.ts';
import { createEngine } from '../../src/node/engine.ts';
import type { Engine, ForwardOptions } from '../../src/context-parallel/engine-options.ts';
import { expectReference } from '../helpers/attention-case.ts';
import { createInputs, type InputsSpec } from '../helpers/attention-inputs.ts';

const SHAPE = {
  batch: 2,
  seqLenQ: 77,
  seqLenKv: 77,
  numHeads: 4,
  numKvHeads: 2,
  headDimQk: 16,
  headDimV: 16,
};

const CASES: Record<string, { spec?: Partial<InputsSpec>; options: ForwardOptions }> = {
  'window, soft cap and off-by-one sink': { options: { window: [20, 5], softcap: 3, sink: 'off_by_one' } },
  'learnable sink, ALiBi and max logit': {
    spec: { sink: true, alibi: true },
    options: { maskType: 'causal', sink: 'learnable', maxLogit: true },
  },
  'bias and dropout': { spec: { bias: [1, 4] }, options: { dropout: 0.25, seed: 99 } },
  padding_causal_bottom_right: {
    spec: { sequences: { q: [60, 3], kv: [77, 0] } },
    options: { maskType: 'padding_causal_bottom_right' },
  },
  bf16: { spec: { dtype: 'bf16' }, options: { maskType: 'causal' } },
  'f16, cross-attention, bottom right': {
    spec: { dtype: 'f16', shape: { ...SHAPE, seqLenQ: 41 } },
    options: { maskType: 'causal_bottom_right' },
  },
  'packed sequences with padding between': {
    spec: {
      packed: true,
      shape: { ...SHAPE, batch: 1 },
      sequences: { q: [30, 0, 21], kv: [12, 5, 40], paddedQ: [33, 1, 30], paddedKv: [12, 20, 40] },
    },
    options: { maskType: 'causal', window: [16, -1], dropout: 0.1 },
  },
};

for (const layout of ['zigzag', 'striped'] as const) {
  describe(`createEngine with 3 ranks, ${layout}: options`, function () {
    this.timeout(120_000);
    let engine: Engine;
    before(async () => {
      engine = await createEngine({ ranks: 3, layout });
    });
    after(() => engine.close());

    for (const [name, { spec, options }] of Object.entries(CASES)) {
      it(`equals the reference: ${name}`, async () => {
        const inputs = createInputs({ shape: SHAPE, ...spec });
        const result = await engine.forward(inputs, options);
        expect(result.out.dtype).to.equal(inputs.q.dtype);
        expectReference({ inputs, options }, result, 1000);
      });
    }

    it('sends KV blocks of 16-bit elements in half the bytes', async () => {
      const sent: number[] = [];
      for (const dtype of ['f32', 'bf16'] as const) {
        await engine.forward(createInputs({ shape: SHAPE, dtype }), { maskType: 'causal' });
        sent.push(engine.metrics().ranks[0].kvPayloadBytesSent);
      }
      expect(sent[1]).to.equal(sent[0] / 2);
    });

    it('refuses backward with ERR_UNSUPPORTED and goes on', async () => {
      const inputs: AttentionInputs = createInputs({ shape: SHAPE });
      await engine.forward(inputs);
      const error = await engine.backward(inputs.q).catch((reason: unknown) => reason);
      expect(error).to.have.property('code', 'ERR_UNSUPPORTED');
      expectReference({ inputs, options: {} }, await engine.forward(inputs));
    });
  });
}

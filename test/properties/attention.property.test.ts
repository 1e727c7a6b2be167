// Random legal calls through the engine, forward and backward, against the f64 reference; random illegal ones are refused with
// the code of the rule that they break. Seeds are fixed: the same calls on every run.
import { expect } from 'chai';
import fc from 'fast-check';
import { type AttentionInputs, type AttentionResult, describeCall } from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import type { Engine } from '../../src/context-parallel/engine-options.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { createEngine } from '../../src/node/engine.ts';
import { fromFloat32 } from '../../src/tensor/float16.ts';
import { f32Tensor } from '../../src/tensor/tensor.ts';
import { expectReference, expectReferenceGradients } from '../helpers/attention-case.ts';
import { createDout, createInputs } from '../helpers/attention-inputs.ts';
import { expectConfigRejection } from '../helpers/expect-config-error.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { anyCall } from './random-calls.ts';

const SEED = 20260;

interface Call {
  inputs: AttentionInputs;
  options: Partial<AttentionOptions>;
}

/** What breaks one rule of a call, and the code that it is refused with. */
const BREAKS: readonly { code: ErrorCode; change: (call: Call, size: number) => Call }[] = [
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }, size) => ({ inputs, options: { ...options, dropout: 1 + size } }),
  },
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }, size) => ({ inputs, options: { ...options, softcap: -1 - size } }),
  },
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }, size) => ({ inputs, options: { ...options, window: [-2 - size, 0] } }),
  },
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }, size) => ({ inputs, options: { ...options, seed: size + 0.5 } }),
  },
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }) => ({ inputs, options: { ...options, maskType: 'diagonal' as 'causal' } }),
  },
  {
    code: 'ERR_OPTION',
    change: ({ inputs, options }) =>
      inputs.sink
        ? { inputs, options: { ...options, sink: 'none' } }
        : { inputs, options: { ...options, sink: 'learnable' } },
  },
  {
    code: 'ERR_SHAPE',
    change: ({ inputs, options }, size) => {
      const { numHeads } = describeCall(inputs, options).shape;
      return { inputs: { ...inputs, alibiSlopes: f32Tensor([numHeads + 1 + size]) }, options };
    },
  },
  {
    code: 'ERR_SHAPE',
    change: ({ inputs, options }) => {
      const { shape, data, dtype } = inputs.k;
      const leading = shape.slice(0, -1);
      const doubled = fromFloat32(
        new Float32Array(2 * data.length),
        [...leading, 2 * shape[leading.length]],
        dtype as 'f32',
      );
      return { inputs: { ...inputs, k: doubled }, options };
    },
  },
  {
    code: 'ERR_DTYPE',
    change: ({ inputs, options }) => {
      const integers = { data: new Int32Array(inputs.v.data.length), shape: inputs.v.shape, dtype: 'i32' } as const;
      return { inputs: { ...inputs, v: integers }, options };
    },
  },
];

describe('attention, by random calls', function () {
  this.timeout(300_000);
  useGpu();
  let engine: Engine;
  before(async () => void (engine = await createEngine({ ranks: 1 })));
  after(() => engine?.close());

  it('gives out, lse, max logit and every gradient of the reference, without NaN, and the same bits again', async () => {
    await fc.assert(
      fc.asyncProperty(anyCall, async ({ spec, options }) => {
        const inputs = createInputs(spec);
        const result = await engine.forward(inputs, options);
        expectReference({ inputs, options }, result, 60);
        expect(result.maxLogit !== undefined, 'maxLogit').to.equal(options.maxLogit ?? false);
        const dout = createDout(describeCall(inputs, options));
        const gradients = await engine.backward(dout);
        expectReferenceGradients({ inputs, options }, dout, gradients);
        const again = await engine.forward(inputs, options);
        expect(bytesOf(again)).to.deep.equal(bytesOf(result));
        const gradientsAgain = await engine.backward(dout);
        for (const [name, tensor] of Object.entries(gradients)) {
          expect(gradientsAgain[name as 'dq'].data, name).to.deep.equal(tensor.data);
        }
      }),
      { seed: SEED, numRuns: 60, endOnFailure: true },
    );
  });

  it('refuses a call that breaks one rule with the code of the rule, and computes the next one', async () => {
    await fc.assert(
      fc.asyncProperty(
        anyCall,
        fc.constantFrom(...BREAKS),
        fc.nat(5),
        async ({ spec, options }, { code, change }, size) => {
          const broken = change({ inputs: createInputs(spec), options }, size);
          await expectConfigRejection(
            engine.forward(broken.inputs, broken.options),
            code,
            /^(attention|forward|[qkv]):? /,
          );
        },
      ),
      { seed: SEED, numRuns: 200 },
    );
    const inputs = createInputs({
      shape: { batch: 1, seqLenQ: 5, seqLenKv: 5, numHeads: 1, numKvHeads: 1, headDimQk: 8, headDimV: 8 },
    });
    expectReference({ inputs, options: {} }, await engine.forward(inputs));
  });
});

function bytesOf({ out, lse }: AttentionResult): unknown[] {
  return [out.data, lse.data];
}

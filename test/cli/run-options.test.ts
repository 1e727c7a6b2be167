// `kvring run` with every option of a call and every tensor that goes with one, against the f64 reference: the option changes
// the result, and changes it as it should. On one rank in this process, and on two.
import { expect } from 'chai';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type AttentionGradients,
  type AttentionInputs,
  type AttentionResult,
  describeCall,
} from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { readSafetensors, writeSafetensors } from '../../src/node/files.ts';
import { fromFloat32, toFloat32 } from '../../src/tensor/float16.ts';
import type { F32Tensor, FloatDType, HostTensor } from '../../src/tensor/tensor.ts';
import type { ChromeTrace } from '../../src/trace/perfetto.ts';
import { expectReference, expectReferenceGradients } from '../helpers/attention-case.ts';
import { createDout, createInputs, type InputsSpec } from '../helpers/attention-inputs.ts';
import { callCli } from '../helpers/run-cli.ts';

const SHAPE = {
  batch: 2,
  seqLenQ: 13,
  seqLenKv: 17,
  numHeads: 4,
  numKvHeads: 2,
  headDimQk: 8,
  headDimV: 8,
};
const FILE_NAMES: Readonly<Partial<Record<keyof AttentionInputs, string>>> = {
  alibiSlopes: 'alibi_slopes',
  cuSeqlensQ: 'cu_seqlens_q',
  cuSeqlensKv: 'cu_seqlens_kv',
  cuSeqlensQPadded: 'cu_seqlens_q_padded',
  cuSeqlensKvPadded: 'cu_seqlens_kv_padded',
};

/** Inputs, the options of the API, and the same on the command line. */
interface Case {
  spec?: Partial<InputsSpec>;
  options: Partial<AttentionOptions>;
  argv: readonly string[];
}

const LENGTHS = { q: [13, 5], kv: [11, 17] };
const PACKED = { packed: true, shape: { ...SHAPE, batch: 1 } };

const CASES: Readonly<Record<string, Case>> = {
  'no option': { options: {}, argv: [] },
  causal: { options: { maskType: 'causal' }, argv: ['--mask-type', 'causal'] },
  causal_bottom_right: { options: { maskType: 'causal_bottom_right' }, argv: ['--mask-type', 'causal_bottom_right'] },
  ...Object.fromEntries(
    (['padding', 'padding_causal', 'padding_causal_bottom_right'] as const).map((maskType) => [
      maskType,
      { spec: { sequences: LENGTHS }, options: { maskType }, argv: ['--mask-type', maskType] },
    ]),
  ),
  'a window': { options: { window: [3, 2] }, argv: ['--window', '3,2'] },
  'a window without a left end': { options: { window: [-1, 1] }, argv: ['--window', '-1,1'] },
  'another scale': { options: { softmaxScale: -0.7 }, argv: ['--softmax-scale', '-0.7'] },
  'a soft cap': { options: { softcap: 0.5 }, argv: ['--softcap', '0.5'] },
  'an off-by-one sink': { options: { sink: 'off_by_one' }, argv: ['--sink', 'off_by_one'] },
  'a learnable sink': { spec: { sink: true }, options: { sink: 'learnable' }, argv: ['--sink', 'learnable'] },
  dropout: { options: { dropout: 0.3 }, argv: ['--dropout', '0.3'] },
  'dropout with a seed': {
    options: { dropout: 0.3, seed: 2 ** 40 },
    argv: ['--dropout', '0.3', '--seed', '1099511627776'],
  },
  'a bias': { spec: { bias: [1, 4] }, options: {}, argv: [] },
  'ALiBi slopes': { spec: { alibi: true }, options: {}, argv: [] },
  'the largest scores': { options: { maxLogit: true }, argv: ['--max-logit'] },
  f16: { spec: { dtype: 'f16' }, options: {}, argv: [] },
  bf16: { spec: { dtype: 'bf16' }, options: {}, argv: ['--dtype', 'bf16'] },
  'packed sequences': {
    spec: { ...PACKED, sequences: { q: [6, 0, 7], kv: [4, 3, 10] } },
    options: { maskType: 'causal' },
    argv: ['--mask-type', 'causal'],
  },
  'packed sequences with padding': {
    spec: { ...PACKED, sequences: { q: [5, 2], kv: [9, 4], paddedQ: [8, 5], paddedKv: [10, 7] } },
    options: { maskType: 'padding_causal_bottom_right' },
    argv: ['--mask-type', 'padding_causal_bottom_right'],
  },
};

describe('kvring run', function () {
  this.timeout(120_000);
  let folder: string;
  before(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-run-'))));
  after(() => rm(folder, { recursive: true }));

  /** The tensors that a run over `inputs` writes. */
  async function run(
    inputs: AttentionInputs,
    argv: readonly string[],
    dout?: HostTensor,
  ): Promise<ReadonlyMap<string, HostTensor>> {
    const [input, output] = [join(folder, 'in.safetensors'), join(folder, 'out.safetensors')];
    const named = Object.entries(inputs).map(([name, tensor]) => {
      return [FILE_NAMES[name as keyof AttentionInputs] ?? name, tensor as HostTensor] as const;
    });
    await writeSafetensors(input, { ...Object.fromEntries(named), ...(dout && { dout }) });
    await rm(output, { force: true });
    const result = await callCli(['run', '--input', input, '--output', output, ...argv]);
    expect(result).to.deep.equal({ exitCode: 0, stdout: '', stderr: '' });
    return (await readSafetensors(output)).tensors;
  }

  for (const [name, { spec, options, argv }] of Object.entries(CASES)) {
    it(`equals the reference: ${name}`, async () => {
      const inputs = createInputs({ shape: SHAPE, ...spec });
      const tensors = await run(inputs, argv);
      expect([...tensors.keys()]).to.deep.equal(['out', 'lse', ...(options.maxLogit ? ['max_logit'] : [])]);
      expect(tensors.get('out')!.dtype).to.equal(inputs.q.dtype);
      expectReference({ inputs, options }, resultOf(tensors));
    });
  }

  it('gives another result for each of these options', async () => {
    const inputs = createInputs({ shape: SHAPE });
    const seen = new Set<string>();
    const plain = Object.entries(CASES).filter(([, { spec, options }]) => !spec && !options.maxLogit);
    for (const [name, { argv }] of plain) {
      const { data } = (await run(inputs, argv)).get('out')!;
      const text = Array.from(data, (value) => value.toFixed(3)).join();
      expect(seen.has(text), name).to.equal(false);
      seen.add(text);
    }
  });

  it('rounds f32 tensors for --dtype bf16, and writes f32', async () => {
    const inputs = createInputs({ shape: SHAPE });
    const { out, lse } = resultOf(await run(inputs, ['--dtype', 'bf16']));
    expect(out.dtype).to.equal('f32');
    const rounded = { q: roundTo('bf16', inputs.q), k: roundTo('bf16', inputs.k), v: roundTo('bf16', inputs.v) };
    expectReference({ inputs: rounded, options: {} }, { out, lse });
    expect(() => expectReference({ inputs, options: {} }, { out, lse })).to.throw(/wrong/);
  });

  it('writes the gradients for --backward, in the order of the design', async () => {
    const inputs = createInputs({ shape: SHAPE, bias: [1, 4], sink: true, alibi: true });
    const options = {
      maskType: 'causal',
      sink: 'learnable',
      softcap: 2,
      dropout: 0.2,
      seed: 3,
      maxLogit: true,
    } as const;
    const dout = createDout(describeCall(inputs, options));
    const argv = ['--mask-type', 'causal', '--sink', 'learnable', '--softcap', '2', '--dropout', '0.2', '--seed', '3'];
    const tensors = await run(inputs, ['--backward', ...argv, '--max-logit'], dout);
    expect([...tensors.keys()]).to.deep.equal(['out', 'lse', 'max_logit', 'dq', 'dk', 'dv', 'dbias', 'dsink']);
    expectReference({ inputs, options }, resultOf(tensors));
    expectReferenceGradients({ inputs, options }, dout, gradientsOf(tensors));
  });

  it('writes gradients in the dtype of the file, but dsink in f32', async () => {
    const inputs = createInputs({ shape: SHAPE, dtype: 'bf16', sink: true });
    const options = { sink: 'learnable' } as const;
    const dout = createDout(describeCall(inputs, options));
    const tensors = await run(inputs, ['--backward', '--sink', 'learnable'], dout);
    const dtypes = [...tensors].map(([name, { dtype }]) => `${name} ${dtype}`);
    expect(dtypes).to.deep.equal(['out bf16', 'lse f32', 'dq bf16', 'dk bf16', 'dv bf16', 'dsink f32']);
    expectReferenceGradients({ inputs, options }, dout, gradientsOf(tensors));
  });

  it('writes gradients of packed tensors in their shape, 0 in the padding, and a trace of both directions', async () => {
    const { spec, options, argv } = CASES['packed sequences with padding'];
    const inputs = createInputs({ shape: SHAPE, ...spec });
    const dout = createDout(describeCall(inputs, options));
    const trace = join(folder, 'trace.json');
    const tensors = await run(inputs, ['--backward', ...argv, '--trace', trace], dout);
    expect([...tensors.keys()]).to.deep.equal(['out', 'lse', 'dq', 'dk', 'dv']);
    const { traceEvents } = JSON.parse(await readFile(trace, 'utf8')) as ChromeTrace;
    const spans = traceEvents.filter(({ ph, cat }) => ph === 'X' && cat === 'compute').map(({ name }) => name);
    expect(spans).to.deep.equal(['attend kv 0', 'backward']);
    const { dq, dk, dv } = gradientsOf(tensors);
    expectReferenceGradients({ inputs, options }, dout, { dq, dk, dv });
    expect([dq.shape, dk.shape]).to.deep.equal([inputs.q.shape, inputs.k.shape]);
    // Rows 5 to 7 of q, and row 9 of k, lie between the sequences.
    const rowSize = SHAPE.numHeads * SHAPE.headDimQk;
    expect(new Set(dq.data.subarray(5 * rowSize, 8 * rowSize))).to.deep.equal(new Set([0]));
  });

  it('gives the same on two ranks: window, soft cap, sink, dropout, bias, max logit, bf16', async () => {
    const inputs = createInputs({ shape: SHAPE, dtype: 'bf16', bias: [2, 1], sink: true });
    const options = { window: [9, 4], softcap: 2, sink: 'learnable', dropout: 0.2, seed: 5, maxLogit: true } as const;
    const argv = ['--window', '9,4', '--softcap', '2', '--sink', 'learnable', '--dropout', '0.2', '--seed', '5'];
    const tensors = await run(inputs, [...argv, '--max-logit', '--ranks', '2']);
    expectReference({ inputs, options }, resultOf(tensors));
  });
});

function roundTo(dtype: FloatDType, { data, shape }: HostTensor): HostTensor {
  return fromFloat32(toFloat32(fromFloat32(data as Float32Array, shape, dtype)), shape, 'f32');
}

function resultOf(tensors: ReadonlyMap<string, HostTensor>): AttentionResult {
  const maxLogit = tensors.get('max_logit') as F32Tensor | undefined;
  return { out: tensors.get('out')!, lse: tensors.get('lse') as F32Tensor, ...(maxLogit && { maxLogit }) };
}

function gradientsOf(tensors: ReadonlyMap<string, HostTensor>): AttentionGradients {
  const [dq, dk, dv] = ['dq', 'dk', 'dv'].map((name) => tensors.get(name)!);
  const [dbias, dsink] = ['dbias', 'dsink'].map((name) => tensors.get(name) as F32Tensor | undefined);
  return { dq, dk, dv, ...(dbias && { dbias }), ...(dsink && { dsink }) };
}

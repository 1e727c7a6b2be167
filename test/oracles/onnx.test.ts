// Vectors that others published: the reference and `kvring run`, on one rank and on three, must give their numbers.
import { expect } from 'chai';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AttentionInputs, describeCall } from '../../src/attention/call.ts';
import { referenceForward, referenceInputs } from '../../src/attention/reference.ts';
import type { Engine } from '../../src/context-parallel/engine-options.ts';
import { createEngine } from '../../src/node/engine.ts';
import { readSafetensors, writeSafetensors } from '../../src/node/files.ts';
import { toFloat32 } from '../../src/tensor/float16.ts';
import type { HostTensor } from '../../src/tensor/tensor.ts';
import { callCli } from '../helpers/run-cli.ts';
import { exportOut, exportPresent, importCase, type OnnxCase, readOnnxCases } from './onnx.ts';

/** The publisher computes in f32 too; |out| ≤ 1, so this is some 40 units in the last place. */
const F32_TOLERANCE = 5e-6;
/**
 * The publisher rounds scores, weights and results to f16: three relative errors of 2⁻¹¹ (a score is at most 1) on |out| ≤ 1;
 * ours rounds the result.
 */
const F16_TOLERANCE = 4 * 2 ** -11;

/** Names of the inputs in a file. */
const FILE_NAMES: Partial<Record<keyof AttentionInputs, string>> = {
  cuSeqlensQ: 'cu_seqlens_q',
  cuSeqlensKv: 'cu_seqlens_kv',
};

/** Vectors that go through `kvring run` on three ranks as well: one as plain as they come, one with a mask. */
const RING_BY_COMMAND = ['test_attention_4d_causal', 'test_attention_4d_attn_mask_4d_causal'];

function expectPublished(out: ArrayLike<number>, published: OnnxCase): void {
  const got = exportOut(out, published);
  const { data, type } = published.outputs.Y;
  expect(got).to.have.length(data.length);
  for (const [index, value] of data.entries()) {
    const tolerance = type === 'float16' ? F16_TOLERANCE : F32_TOLERANCE;
    expect(got[index], `Y[${index}]`).to.be.closeTo(value as number, tolerance);
  }
}

describe('ONNX Attention vectors', () => {
  let folder: string;
  let ring: Engine;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kvring-onnx-'));
    ring = await createEngine({ ranks: 3 });
  });
  after(async () => {
    await ring?.close();
    await rm(folder, { recursive: true });
  });

  it('are 22: causal, scaled, soft-capped, GQA, two head dims, f16, masks, a past and padded keys, 4-D and 3-D', () => {
    const cases = readOnnxCases();
    expect(cases).to.have.length(22);
    const withInput = (name: keyof OnnxCase['inputs']) => cases.filter(({ inputs }) => inputs[name]).length;
    expect([withInput('attn_mask'), withInput('past_key'), withInput('nonpad_kv_seqlen')]).to.deep.equal([8, 1, 2]);
  });

  for (const published of readOnnxCases()) {
    const { inputs, options } = importCase(published);

    it(`${published.name}: reference`, () => {
      const call = describeCall(inputs, options);
      const { out } = referenceForward(referenceInputs(inputs, call), call.shape, call.options);
      expectPublished(out, published);
    });

    const { present_key: presentKey, present_value: presentValue } = published.outputs;
    if (presentKey && presentValue) {
      it(`${published.name}: k and v hold the past, as its present_key and present_value`, () => {
        const f32 = (data: OnnxCase['outputs']['Y']['data']): Float32Array => Float32Array.from(data, Number);
        expect(f32(exportPresent(inputs.k.data, presentKey.dims))).to.deep.equal(f32(presentKey.data));
        expect(f32(exportPresent(inputs.v.data, presentValue.dims))).to.deep.equal(f32(presentValue.data));
      });
    }

    it(`${published.name}: an engine of three ranks`, async () => {
      const { out } = await ring.forward(inputs, options);
      expectPublished(toFloat32(out), published);
    });

    // A ring's processes take seconds to start: two vectors show that the command line starts one.
    for (const ranks of RING_BY_COMMAND.includes(published.name) ? [1, 3] : [1]) {
      it(`${published.name}: kvring run --ranks ${ranks}`, async () => {
        const [input, output] = ['in', 'out'].map((name) => join(folder, `${name}.safetensors`));
        const named = Object.entries(inputs) as [keyof AttentionInputs, HostTensor][];
        const tensors = named.map(([name, tensor]) => [FILE_NAMES[name] ?? name, tensor] as const);
        await writeSafetensors(input, Object.fromEntries(tensors));
        const flags = ['--mask-type', options.maskType!, '--softmax-scale', String(options.softmaxScale)];
        if (options.softcap) flags.push('--softcap', String(options.softcap));
        const files = ['--input', input, '--output', output];
        const result = await callCli(['run', ...files, ...flags, '--ranks', String(ranks)]);
        expect(result).to.deep.equal({ exitCode: 0, stdout: '', stderr: '' });
        const { tensors: results } = await readSafetensors(output);
        await rm(output);
        expect([...results.keys()]).to.deep.equal(['out', 'lse']);
        const out = results.get('out')!;
        expect(out.dtype).to.equal(inputs.q.dtype);
        expectPublished(toFloat32(out), published);
      });
    }
  }
});

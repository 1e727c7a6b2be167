// Vectors that others published: the reference and `kvring run`, on one rank and on three, must give their numbers.
import { expect } from 'chai';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { referenceForward } from '../../src/attention/reference.ts';
import { inferShape } from '../../src/attention/shape.ts';
import { readSafetensors, writeSafetensors } from '../../src/node/files.ts';
import { callCli } from '../helpers/run-cli.ts';
import { exportOut, importCase, type OnnxCase, readOnnxCases } from './onnx.ts';

/** The publisher computes in f32 too; |out| ≤ 1, so this is some 40 units in the last place. */
const TOLERANCE = 5e-6;

function expectPublished(out: ArrayLike<number>, published: OnnxCase): void {
  const got = exportOut(out, published);
  const { data } = published.outputs.Y;
  expect(got).to.have.length(data.length);
  for (const [index, value] of data.entries()) {
    expect(got[index], `Y[${index}]`).to.be.closeTo(value, TOLERANCE);
  }
}

describe('ONNX Attention vectors', () => {
  let folder: string;
  before(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-onnx-'))));
  after(() => rm(folder, { recursive: true }));

  it('are nine: plain, causal, scaled, GQA, two head dims, 4-D and 3-D', () => {
    expect(readOnnxCases()).to.have.length(9);
  });

  for (const published of readOnnxCases()) {
    const { inputs, options } = importCase(published);

    it(`${published.name}: reference`, () => {
      const { q, k, v } = inputs;
      const { out } = referenceForward({ q: q.data, k: k.data, v: v.data }, inferShape(q, k, v), options);
      expectPublished(out, published);
    });

    for (const ranks of [1, 3]) {
      it(`${published.name}: kvring run --ranks ${ranks}`, async () => {
        const [input, output] = [
          join(folder, 'in.safetensors'),
          join(folder, `${published.name}-${ranks}.safetensors`),
        ];
        await writeSafetensors(input, { ...inputs });
        const files = ['--input', input, '--output', output];
        const scale = ['--mask-type', options.maskType, '--softmax-scale', String(options.softmaxScale)];
        const result = await callCli(['run', ...files, ...scale, '--ranks', String(ranks)]);
        expect(result).to.deep.equal({ exitCode: 0, stdout: '', stderr: '' });
        const { tensors } = await readSafetensors(output);
        expect([...tensors.keys()]).to.deep.equal(['out', 'lse']);
        expectPublished(tensors.get('out')!.data, published);
      });
    }
  }
});

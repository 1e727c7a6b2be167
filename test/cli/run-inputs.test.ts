// `kvring run` on files that are not what they should be: refused before a rank is started, and no output is written.
import { expect } from 'chai';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeSafetensors } from '../../src/tensor/safetensors.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { callCli } from '../helpers/run-cli.ts';

const QKV = { q: f32Tensor([1, 4, 2, 8]), k: f32Tensor([1, 4, 1, 8]), v: f32Tensor([1, 4, 1, 8]) };
const HALF: HostTensor = { data: new Uint16Array(64), shape: [1, 4, 2, 8], dtype: 'f16' };
const LENGTHS: HostTensor = { data: Int32Array.of(0, 4), shape: [2], dtype: 'i32' };

const { q, v } = QKV;
const REFUSALS: readonly (readonly [title: string, tensors: Record<string, HostTensor>, pattern: RegExp])[] = [
  ['q but no k', { q, v }, /must hold q, k and v, got q, v; missing k \[ERR_FILE\]/],
  ['no tensor at all', {}, /got no tensor; missing q, k, v \[ERR_FILE\]/],
  [
    'a tensor that kvring does not know',
    { ...QKV, query: q },
    /'query' is no tensor.*got q, k, v, query.*\[ERR_FILE\]/,
  ],
  ['dout', { ...QKV, dout: q }, /does not compute with 'dout'.*\[ERR_UNSUPPORTED\]/],
  ['bias', { ...QKV, bias: f32Tensor([1, 1, 4, 4]) }, /does not compute with 'bias'.*\[ERR_UNSUPPORTED\]/],
  ['sink', { ...QKV, sink: f32Tensor([2]) }, /does not compute with 'sink'.*\[ERR_UNSUPPORTED\]/],
  ['ALiBi slopes', { ...QKV, alibi_slopes: f32Tensor([2]) }, /with 'alibi_slopes'.*\[ERR_UNSUPPORTED\]/],
  ['sequence lengths', { ...QKV, cu_seqlens_q: LENGTHS }, /with 'cu_seqlens_q'.*\[ERR_UNSUPPORTED\]/],
  ['f16', { ...QKV, q: HALF }, /this version computes f32, got q\.dtype=f16 \[ERR_UNSUPPORTED\]/],
  ['packed tensors', { ...QKV, q: f32Tensor([4, 2, 8]) }, /q must be \[batch, seqLen, heads, headDim\].*\[ERR_SHAPE\]/],
  ['other head dims', { ...QKV, k: f32Tensor([1, 4, 1, 4]) }, /same head dim, got q=\[1, 4, 2, 8\].*\[ERR_SHAPE\]/],
  ['no tokens', { ...QKV, q: f32Tensor([1, 0, 2, 8]) }, /q: every size must be a positive integer.*\[ERR_SHAPE\]/],
];

describe('kvring run refuses a file with', () => {
  let folder: string;
  before(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-run-'))));
  after(() => rm(folder, { recursive: true }));

  async function expectRefusal(bytes: Uint8Array, pattern: RegExp): Promise<void> {
    const [input, output] = [join(folder, 'in.safetensors'), join(folder, 'out.safetensors')];
    await writeFile(input, bytes);
    const { exitCode, stdout, stderr } = await callCli(['run', '--input', input, '--output', output]);
    expect(stderr).to.match(pattern);
    expect(stderr).to.match(/^kvring: [^\n]+\n$/);
    expect({ exitCode, stdout, written: existsSync(output) }).to.deep.equal({
      exitCode: 2,
      stdout: '',
      written: false,
    });
  }

  for (const [title, tensors, pattern] of REFUSALS) {
    it(title, () => expectRefusal(encodeSafetensors(tensors), pattern));
  }

  it('an end that is missing', async () => {
    const whole = encodeSafetensors(QKV);
    await expectRefusal(whole.subarray(0, -1), /'v' must lie within the buffer.*\[ERR_FILE\]/);
    await expectRefusal(whole.subarray(0, 20), /cut short or is no safetensors file \[ERR_FILE\]/);
    await expectRefusal(new Uint8Array(0), /byteLength=0 \[ERR_FILE\]/);
  });

  it('offsets that lie', async () => {
    const text = Buffer.from(encodeSafetensors(QKV)).toString('latin1').replace('[256,384]', '[128,256]');
    await expectRefusal(Buffer.from(text, 'latin1'), /'k' overlaps the tensor before it.*\[128, 256\].*\[ERR_FILE\]/);
  });

  it('a dtype that is none of ours', async () => {
    const text = Buffer.from(encodeSafetensors(QKV)).toString('latin1').replace('"F32"', '"F64"');
    await expectRefusal(Buffer.from(text, 'latin1'), /'q' must be F32, F16, BF16 or I32, got dtype=F64 \[ERR_DTYPE\]/);
  });

  it('an output that cannot be written, before the input is read', async () => {
    const { exitCode, stderr } = await callCli(['run', '--input', join(folder, 'none'), '--output', folder]);
    expect(stderr).to.match(/cannot write path=.*it is a directory; name a file in it \[ERR_FILE\]/);
    expect(exitCode).to.equal(2);
  });
});

// `kvring run` on files that are not what they should be: refused before a rank is started, and no output is written.
import { expect } from 'chai';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeSafetensors } from '../../src/tensor/safetensors.ts';
import { f32Tensor, type HostTensor } from '../../src/tensor/tensor.ts';
import { cumulative } from '../helpers/attention-inputs.ts';
import { callCli } from '../helpers/run-cli.ts';

const QKV = { q: f32Tensor([1, 4, 2, 8]), k: f32Tensor([1, 4, 1, 8]), v: f32Tensor([1, 4, 1, 8]) };
const PACKED = { q: f32Tensor([4, 2, 8]), k: f32Tensor([4, 1, 8]), v: f32Tensor([4, 1, 8]) };
const HALF: HostTensor = { data: new Uint16Array(64), shape: [1, 4, 2, 8], dtype: 'f16' };
const LENGTHS = { cu_seqlens_q: cumulative([4]), cu_seqlens_kv: cumulative([4]) };
const LEARNABLE = ['--sink', 'learnable'];
const PADDING = ['--mask-type', 'padding'];

const HALVES = { q: HALF, k: { ...HALF, shape: [1, 8, 1, 8] }, v: { ...HALF, shape: [1, 8, 1, 8] } };

/** What the file holds, what the line on stderr says, and what else stands on the command line. */
type Refusal = readonly [title: string, tensors: Record<string, HostTensor>, pattern: RegExp, argv?: readonly string[]];

const { q, v } = QKV;
const NAMES: readonly Refusal[] = [
  ['q but no k', { q, v }, /must hold q, k and v, got q, v; missing k \[ERR_FILE\]/],
  ['no tensor at all', {}, /got no tensor; missing q, k, v \[ERR_FILE\]/],
  [
    'a tensor that kvring does not know',
    { ...QKV, query: q },
    /'query' is no tensor.*got q, k, v, query.*\[ERR_FILE\]/,
  ],
  [
    'a tensor under its name in the API',
    { ...QKV, alibiSlopes: f32Tensor([2]) },
    /'alibiSlopes' is no tensor.*\[ERR_FILE\]/,
  ],
  ['a tensor called like a method', { ...QKV, toString: q }, /'toString' is no tensor.*\[ERR_FILE\]/],
];

const SHAPES: readonly Refusal[] = [
  ['q in another dtype than k', { ...QKV, q: HALF }, /must have one dtype.*k\.dtype=f32, q\.dtype=f16 \[ERR_DTYPE\]/],
  ['q in i32', { ...QKV, q: LENGTHS.cu_seqlens_q }, /f32, f16 or bf16, got q\.dtype=i32.*\[ERR_DTYPE\]/],
  ['q packed and k not', { ...QKV, q: PACKED.q }, /or all packed as \[tokens, heads, headDim\].*\[ERR_SHAPE\]/],
  ['other head dims', { ...QKV, k: f32Tensor([1, 4, 1, 4]) }, /same head dim, got q=\[1, 4, 2, 8\].*\[ERR_SHAPE\]/],
  ['no tokens', { ...QKV, q: f32Tensor([1, 0, 2, 8]) }, /q: every size must be a positive integer.*\[ERR_SHAPE\]/],
  ['a bias of another size', { ...QKV, bias: f32Tensor([1, 1, 4, 5]) }, /bias must be .* 4, 4\], got .*\[ERR_SHAPE\]/],
  ['a bias in 16 bits', { ...QKV, bias: { ...HALF, shape: [1, 4, 4, 4] } }, /bias must be f32, got f16 \[ERR_DTYPE\]/],
  ['slopes of another size', { ...QKV, alibi_slopes: f32Tensor([3]) }, /alibiSlopes must be \[2\].*\[ERR_SHAPE\]/],
];

const OPTIONS: readonly Refusal[] = [
  ['a sink and no option for it', { ...QKV, sink: f32Tensor([2]) }, /sink is for sink=learnable.*\[ERR_OPTION\]/],
  [
    'a sink and the option of another',
    { ...QKV, sink: f32Tensor([2]) },
    /sink is for sink=learnable.*\[ERR_OPTION\]/,
    ['--sink', 'off_by_one'],
  ],
  [
    'no sink for --sink learnable',
    QKV,
    /sink=learnable needs the tensor sink \[2\], got none \[ERR_OPTION\]/,
    LEARNABLE,
  ],
  [
    'lengths and no mask type for them',
    { ...QKV, ...LENGTHS },
    /cuSeqlensQ, cuSeqlensKv is for packed.*\[ERR_OPTION\]/,
  ],
  ['no lengths for --mask-type padding', QKV, /padding needs the tensors cuSeqlensQ.*\[ERR_OPTION\]/, PADDING],
  ['packed tensors and no lengths', PACKED, /need the tensors cuSeqlensQ and cuSeqlensKv \[ERR_OPTION\]/],
  [
    'lengths of another batch',
    { ...QKV, ...LENGTHS, cu_seqlens_q: cumulative([2, 2]) },
    /must both be \[2\], got \[3\] and \[2\] \[ERR_SHAPE\]/,
    PADDING,
  ],
  [
    'padded lengths of tensors that are not packed',
    { ...QKV, ...LENGTHS, cu_seqlens_q_padded: cumulative([4]) },
    /cuSeqlensQPadded and cuSeqlensKvPadded are for packed tensors \[ERR_OPTION\]/,
    PADDING,
  ],
  [
    'a sequence longer than its room',
    { ...PACKED, ...LENGTHS, cu_seqlens_kv_padded: cumulative([3]) },
    /sequence 0 has 4 rows by cuSeqlensKv.*room for 3 \[ERR_OPTION\]/,
  ],
  ['a bias of packed tensors', { ...PACKED, ...LENGTHS, bias: f32Tensor([1, 1, 4, 4]) }, /packed.*\[ERR_OPTION\]/],
  [
    'f16 and --wire-dtype f32',
    HALVES,
    /--wire-dtype: .*in f16, got 'f32'.*\[ERR_UNSUPPORTED\]/,
    ['--wire-dtype', 'f32'],
  ],
];

const BACKWARD: readonly Refusal[] = [
  ['dout and no --backward', { ...QKV, dout: q }, /dout is for --backward.*\[ERR_OPTION\]/],
  [
    'no dout for --backward',
    QKV,
    /--backward needs the tensor dout \[1, 4, 2, 8\], got none \[ERR_OPTION\]/,
    ['--backward'],
  ],
  ['dout in another dtype', { ...QKV, dout: HALF }, /q's dtype f32, got dtype=f16 \[ERR_DTYPE\]/, ['--backward']],
  [
    'dout in the shape of q where that of v differs',
    { ...QKV, v: f32Tensor([1, 4, 1, 6]), dout: q },
    /shape of out, \[1, 4, 2, 6\], got \[1, 4, 2, 8\] \[ERR_SHAPE\]/,
    ['--backward'],
  ],
];

describe('kvring run refuses a file with', () => {
  let folder: string;
  before(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-run-'))));
  after(() => rm(folder, { recursive: true }));

  async function expectRefusal(bytes: Uint8Array, pattern: RegExp, argv: readonly string[] = []): Promise<void> {
    const [input, output] = [join(folder, 'in.safetensors'), join(folder, 'out.safetensors')];
    await writeFile(input, bytes);
    const { exitCode, stdout, stderr } = await callCli(['run', '--input', input, '--output', output, ...argv]);
    expect(stderr).to.match(pattern);
    expect(stderr).to.match(/^kvring: [^\n]+\n$/);
    expect({ exitCode, stdout, written: existsSync(output) }).to.deep.equal({
      exitCode: 2,
      stdout: '',
      written: false,
    });
  }

  for (const [title, tensors, pattern, argv] of [...NAMES, ...SHAPES, ...OPTIONS, ...BACKWARD]) {
    it(title, () => expectRefusal(encodeSafetensors(tensors), pattern, argv));
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

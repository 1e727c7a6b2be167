// What the command line takes and refuses, without starting anything: unknown options, values out of range, options of
// later versions, and the exit code and one line of every refusal.
import { expect } from 'chai';
import { callCli } from '../helpers/run-cli.ts';

const RUN = ['run', '--input', 'in.safetensors', '--output', 'out.safetensors'];
const LAUNCH = ['launch', '--nproc-per-node', '2'];

/** The arguments, and what the line on stderr says. */
const REFUSALS: readonly (readonly [argv: readonly string[], pattern: RegExp])[] = [
  // Usage
  [['benhc'], /unknown command 'benhc' \(Did you mean bench\?\) \[ERR_USAGE\]/],
  [['bench', 'ring', '--seqlen', '3'], /unknown option '--seqlen' \(Did you mean --seq-len\?\) \[ERR_USAGE\]/],
  [[...RUN, '--softmax-sclae', '1'], /Did you mean --softmax-scale\?\) \[ERR_USAGE\]/],
  [['bench', 'rign'], /'rign' is no suite; this version has attention, ring, transport \[ERR_USAGE\]/],
  [['bench', '--iters', '3', 'ring'], /the suite comes before its options: kvring bench ring … \[ERR_USAGE\]/],
  [['run', '--output', 'b'], /'--input <file>' not specified \[ERR_USAGE\]/],
  [LAUNCH, /missing required argument 'script' \[ERR_USAGE\]/],
  [['launch', 'x.ts'], /'--nproc-per-node <number>' not specified \[ERR_USAGE\]/],
  [[...LAUNCH, '--nnodes', '2', 'x.ts'], /add --rdzv-endpoint host:port of machine 0 \[ERR_USAGE\]/],
  [[...LAUNCH, '--tls-cert', 'a.pem', 'x.ts'], /belong together, got --tls-cert alone \[ERR_USAGE\]/],
  [['doctor', 'please'], /too many arguments.*\[ERR_USAGE\]/],
  // Values
  [['bench', 'ring', '--seq-len', 'NaN'], /--seq-len: .*got 'NaN' \[ERR_OPTION\]/],
  [['bench', 'ring', '--seq-len', '1024-512*2'], /must grow from its first value to its last.*\[ERR_OPTION\]/],
  [['bench', 'ring', '--layout', 'zigzag,zagzig'], /--layout: 'zagzig' is no known value.*\[ERR_OPTION\]/],
  [['bench', 'ring', '--iters', '0'], /--iters: must be an integer from 1, got '0' \[ERR_OPTION\]/],
  [['bench', 'ring', '-o', 'xml'], /--output: 'xml' is no known value.*md, csv, json, jsonl \[ERR_OPTION\]/],
  [['bench', 'ring', '--num-heads', '3', '--num-kv-heads', '2'], /numHeads=3, numKvHeads=2 \[ERR_SHAPE\]/],
  [['bench', 'ring', '--head-dim', '512'], /head dims up to 256.*\[ERR_SHAPE\]/],
  [['bench', 'transport', '--bytes', '1.5'], /--bytes: .*\[ERR_OPTION\]/],
  [[...RUN, '--softmax-scale', 'NaN'], /--softmax-scale: must be a finite number, got 'NaN' \[ERR_OPTION\]/],
  [[...RUN, '--softmax-scale', ''], /--softmax-scale: must be a finite number, got '' \[ERR_OPTION\]/],
  [[...RUN, '--ranks', '-1'], /--ranks: must be an integer from 1, got '-1' \[ERR_OPTION\]/],
  [
    [...RUN, '--mask-type', 'diagonal'],
    /--mask-type: 'diagonal' is no known value.*no_mask, causal.*padding_causal_bottom_right \[ERR_OPTION\]/,
  ],
  [[...RUN, '--window', '128'], /--window: takes left,right.*got '128' \[ERR_OPTION\]/],
  [[...RUN, '--window', '-2,0'], /--window: takes left,right.*got '-2,0' \[ERR_OPTION\]/],
  [[...RUN, '--window', '1,2,3'], /--window: takes left,right.*\[ERR_OPTION\]/],
  [[...RUN, '--window', '1073741824,0'], /window must be \[left, right\].*got window=1073741824,0 \[ERR_OPTION\]/],
  [[...RUN, '--softcap', '-1'], /softcap must be finite and at least 0.*got softcap=-1 \[ERR_OPTION\]/],
  [[...RUN, '--softcap', 'soft'], /--softcap: must be a finite number, got 'soft' \[ERR_OPTION\]/],
  [[...RUN, '--sink', 'kitchen'], /--sink: 'kitchen' is no known value.*none, off_by_one, learnable \[ERR_OPTION\]/],
  [[...RUN, '--dropout', '1'], /dropout must be at least 0 and below 1, got dropout=1 \[ERR_OPTION\]/],
  [[...RUN, '--seed', '-1'], /--seed: must be an integer from 0, got '-1' \[ERR_OPTION\]/],
  [[...RUN, '--seed', '9007199254740992'], /--seed: must be an integer from 0.*\[ERR_OPTION\]/],
  [[...RUN, '--dtype', 'f64'], /--dtype: 'f64' is no known value.*f32, f16, bf16 \[ERR_OPTION\]/],
  [['bench', 'attention', '--window', '1,2,3'], /--window: takes left,right.*got '1,2,3' \[ERR_OPTION\]/],
  [['bench', 'attention', '--window', '1,2;'], /--window: takes left,right.*got '' \[ERR_OPTION\]/],
  [['bench', 'attention', '--window', '0,1073741824'], /window must be \[left, right\].*\[ERR_OPTION\]/],
  [['bench', 'attention', '--direction', 'sideways'], /--direction: 'sideways' is no known value.*\[ERR_OPTION\]/],
  [
    ['bench', 'attention', '--dtype', 'f32,f16', '--head-dim', '7'],
    /head dim in f16 must be even, got headDim=7.*\[ERR_SHAPE\]/,
  ],
  [[...LAUNCH, '--node-rank', '1', 'x.ts'], /--node-rank must be less than --nnodes.*\[ERR_OPTION\]/],
  // What this version does not compute
  [['serve', '--ranks', '2'], /no 'kvring serve' \[ERR_UNSUPPORTED\]/],
  [['join', 'http://127.0.0.1:1/#token=x'], /no 'kvring join' \[ERR_UNSUPPORTED\]/],
  [['bench', 'peers'], /got suite='peers' \[ERR_UNSUPPORTED\]/],
  [['bench', 'attention', '--ranks', '2'], /takes 1 rank, got ranks=2; bench ring.*\[ERR_UNSUPPORTED\]/],
  [[...LAUNCH, 'pretrain-gpt', '--num-layers', '2'], /no pretrain-gpt.*\[ERR_UNSUPPORTED\]/],
  [
    ['bench', 'ring', '--direction', 'forward,backward'],
    /bench ring: times forward, got direction=backward; bench attention.*\[ERR_UNSUPPORTED\]/,
  ],
  [
    ['bench', 'ring', '--direction', 'forward_backward'],
    /bench ring: times forward, got direction=forward_backward.*\[ERR_UNSUPPORTED\]/,
  ],
  ...['padding', 'padding_causal', 'padding_causal_bottom_right'].map(
    (maskType) =>
      [
        ['bench', 'attention', '--mask-type', `causal,${maskType}`],
        new RegExp(`--mask-type: .*got '${maskType}'; .*length of every sequence.*\\[ERR_UNSUPPORTED\\]`),
      ] as const,
  ),
  [
    ['bench', 'attention', '--dtype', 'f16', '--wire-dtype', 'f32'],
    /--wire-dtype: .*stored, in f16, got 'f32'.*\[ERR_UNSUPPORTED\]/,
  ],
  [[...RUN, '--backward', '--ranks', '2'], /--backward: .*on 1 rank, got ranks=2.*\[ERR_UNSUPPORTED\]/],
  ...['all_gather', 'a2a', 'a2a+p2p'].map(
    (type) =>
      [[...RUN, '--cp-comm-type', type], /--cp-comm-type: this version computes p2p.*\[ERR_UNSUPPORTED\]/] as const,
  ),
  ...[
    ['--wire-dtype', 'bf16'],
    ['--hierarchical-context-parallel-sizes', '2,2'],
    ['--remote-ranks', '1'],
    ['--port', '8000'],
    ['--host', '0.0.0.0'],
  ].map(
    (later) => [[...RUN, ...later], new RegExp(`${later[0]}: this version does not.*\\[ERR_UNSUPPORTED\\]`)] as const,
  ),
];

describe('kvring refuses with exit code 2 and one line', () => {
  for (const [argv, pattern] of REFUSALS) {
    it(argv.map((word) => (word === '' ? "''" : word)).join(' '), async () => {
      const { exitCode, stdout, stderr } = await callCli(argv);
      expect(stderr).to.match(pattern);
      expect(stderr).to.match(/^kvring: [^\n]+\n$/);
      expect(stdout).to.equal('');
      expect(exitCode).to.equal(2);
    });
  }
});

describe('kvring takes', () => {
  it('values of later options that ask for nothing: the refusal is about the file', async () => {
    const off = ['--wire-dtype', 'f32', '--remote-ranks', '0'];
    const { exitCode, stderr } = await callCli(['run', '--input', 'none', '--output', 'out.safetensors', ...off]);
    expect(stderr).to.match(/path=none: there is no such file \[ERR_FILE\]/);
    expect(exitCode).to.equal(2);
  });

  it('every option of a call, with values that begin with a dash: the refusal is about the file', async () => {
    const call = ['--mask-type', 'padding_causal_bottom_right', '--softmax-scale', '-0.5', '--softcap', '30'];
    const rest = ['--sink', 'learnable', '--dropout', '0.1', '--seed', '9007199254740991', '--dtype', 'bf16'];
    for (const window of [['--window', '-1,0'], ['--window=-1,-1'], ['--window', '128, 0']]) {
      const argv = [...call, ...rest, ...window, '--max-logit', '--backward'];
      const { exitCode, stderr } = await callCli(['run', '--input', 'none', '--output', 'out.safetensors', ...argv]);
      expect(stderr).to.match(/path=none: there is no such file \[ERR_FILE\]/);
      expect(exitCode).to.equal(2);
    }
  });

  it('--help and --version on stdout with exit code 0', async () => {
    expect(await callCli(['--version'])).to.deep.include({ exitCode: 0, stderr: '' });
    for (const argv of [['--help'], ['bench', '--help'], ['bench', 'ring', '--help'], ['help', 'launch']]) {
      const { exitCode, stdout, stderr } = await callCli(argv);
      expect({ exitCode, stderr }, argv.join(' ')).to.deep.equal({ exitCode: 0, stderr: '' });
      expect(stdout).to.match(/^Usage: kvring/);
    }
  });

  it('no command as a question: help on stderr and exit code 2', async () => {
    const { exitCode, stdout, stderr } = await callCli([]);
    expect({ exitCode, stdout }).to.deep.equal({ exitCode: 2, stdout: '' });
    expect(stderr).to.match(/^Usage: kvring/);
  });
});

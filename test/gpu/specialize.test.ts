// The text that specialise makes: modules, constants, aliases, enables and unrolled loops, the source line of each of its
// lines, and a refusal for every promise that a shader breaks.
import { expect } from 'chai';
import { DeviceError } from '../../src/errors.ts';
import { specialize } from '../../src/gpu/specialize.ts';

const KERNEL = [
  '// requires: a.wgsl, b.wgsl',
  'const SIZE: u32 = 2;',
  'alias Element = f32; // of q',
  'fn main() {',
  '  for (var i = 0u; i < SIZE; i++) { // unroll',
  '    use(i);',
  '  }',
  '}',
].join('\n');

function library(kernel = KERNEL): Map<string, string> {
  return new Map([
    ['kernel.wgsl', kernel],
    ['a.wgsl', '// requires: b.wgsl\nconst A: u32 = 1;'],
    ['b.wgsl', 'const B: u32 = 1;'],
  ]);
}

function expectRefusal(work: () => unknown, message: RegExp): void {
  expect(work).to.throw(DeviceError, message).with.property('code', 'ERR_SHADER');
}

describe('specialize', () => {
  it('appends each required module once', () => {
    const { code } = specialize(library(), 'kernel.wgsl');
    expect(code.split('\n').filter((line) => /const [AB]/.test(line))).to.deep.equal([
      'const A: u32 = 1;',
      'const B: u32 = 1;',
    ]);
  });

  it('sets constants and aliases, and keeps the comment behind them', () => {
    const { code } = specialize(library(), 'kernel.wgsl', { constants: { SIZE: 3, Element: 'array<f32, 1>', B: 7 } });
    expect(code).to.include('const SIZE: u32 = 3;').and.include('alias Element = array<f32, 1>; // of q');
    expect(code).to.include('const B: u32 = 7;');
  });

  it('leaves the library as it was', () => {
    const shaders = library();
    specialize(shaders, 'kernel.wgsl', { constants: { SIZE: 3 } });
    expect(shaders).to.deep.equal(library());
  });

  it('puts enables first', () => {
    const { code } = specialize(library(), 'kernel.wgsl', { enable: ['f16'] });
    expect(code.split('\n')[0]).to.equal('enable f16;');
  });

  it('expands an unroll loop, also inside another, with the index as a constant', () => {
    const nested = [
      'const N: u32 = 2;',
      'for (var i = 0u; i < N; i++) { // unroll',
      '  for (var j = 0u; j < N; j++) { // unroll',
      '    use(i, j);',
      '  }',
      '}',
    ].join('\n');
    const { code } = specialize(library(nested), 'kernel.wgsl');
    const indices = code.split('\n').filter((line) => line.includes('const') && !line.includes('N'));
    expect(indices.map((line) => line.trim())).to.deep.equal(
      ['i: 0', 'j: 0', 'j: 1', 'i: 1', 'j: 0', 'j: 1'].map((text) => {
        const [name, value] = text.split(': ');
        return `{ const ${name}: u32 = ${value}u;`;
      }),
    );
    expect(code).not.to.include('for (');
  });

  it('knows the file and line of every line', () => {
    const { code, lines } = specialize(library(), 'kernel.wgsl', { enable: ['f16'] });
    expect(lines.length).to.equal(code.split('\n').length);
    expect(lines.filter(({ text }) => text.includes('use(i)')).map(({ line }) => line)).to.deep.equal([6, 6]);
    expect(lines.find(({ text }) => text.startsWith('const B'))).to.include({ file: 'b.wgsl', line: 1 });
  });

  it('rejects a file that is not there', () => {
    expectRefusal(
      () => specialize(library(), 'other.wgsl'),
      /no shader other\.wgsl, got kernel\.wgsl, a\.wgsl, b\.wgsl/,
    );
    expectRefusal(() => specialize(library('// requires: c.wgsl'), 'kernel.wgsl'), /no shader c\.wgsl/);
  });

  it('rejects a constant that is declared never or twice', () => {
    expectRefusal(() => specialize(library(), 'kernel.wgsl', { constants: { NONE: 1 } }), /NONE exactly once, got 0/);
    const twice = `${KERNEL}\nconst B: u32 = 2;`;
    expectRefusal(() => specialize(library(twice), 'kernel.wgsl', { constants: { B: 1 } }), /B exactly once, got 2/);
  });

  it('rejects a loop that it cannot unroll', () => {
    const loop = (head: string): Map<string, string> => library(`const N: u32 = 2;\n${head} // unroll\n}`);
    expectRefusal(
      () => specialize(loop('for (var i = 1u; i < N; i++) {'), 'kernel.wgsl'),
      /kernel\.wgsl:2: an unroll loop/,
    );
    expectRefusal(() => specialize(loop('for (var i = 0u; i < M; i++) {'), 'kernel.wgsl'), /integer const, got M/);
    const open = library('const N: u32 = 2;\nfor (var i = 0u; i < N; i++) { // unroll');
    expectRefusal(() => specialize(open, 'kernel.wgsl'), /no closing brace/);
  });
});

// The rule about bare `var` in loops, on both sides of its border.
import { expect } from 'chai';
import { checkShader } from './shader-rules.ts';

describe('checkShader', () => {
  it('finds a bare var in a loop, at any depth', () => {
    const text = [
      'fn f() {',
      '  for (var i = 0u; i < 2u; i++) {',
      '    if (i > 0u) {',
      '      var x: array<f32, 4>;',
      '    }',
      '  }',
      '}',
    ];
    expect(checkShader(text.join('\n')).map(({ line }) => line)).to.deep.equal([4]);
    expect(checkShader('fn f() { while (true) {\nvar x: f32; } }').map(({ line }) => line)).to.deep.equal([2]);
    expect(checkShader('fn f() {\nloop\n{\nvar x: f32;\n}\n}').map(({ line }) => line)).to.deep.equal([4]);
  });

  it('allows it outside of loops, and with a value in them', () => {
    const text = [
      'var<private> a: f32;',
      'fn f() {',
      '  var x: f32;',
      '  for (;;) {',
      '    var y: f32 = 0.0;',
      '    var z = f32();',
      '    // var c: f32;',
      '  }',
      '  var w: f32;',
      '}',
    ];
    expect(checkShader(text.join('\n'))).to.deep.equal([]);
  });
});

// Lists and ranges of the command line: what they expand to, and that nothing else is taken for one.
import { expect } from 'chai';
import { expandGrid, groupNeighbours, MAX_VALUES, parseIntegers } from '../../bench/grid.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

describe('parseIntegers', () => {
  const lists: [string, number[]][] = [
    ['1024', [1024]],
    ['1024,2048', [1024, 2048]],
    ['1024-8192*2', [1024, 2048, 4096, 8192]],
    ['1024-4096+1024', [1024, 2048, 3072, 4096]],
    ['1-10*3', [1, 3, 9]],
    ['1-10+4', [1, 5, 9]],
    ['7-7*2', [7]],
    ['64, 128-512*2 ,3', [64, 128, 256, 512, 3]],
  ];
  for (const [text, values] of lists) {
    it(`expands '${text}'`, () => expect(parseIntegers('--seq-len', text)).to.deep.equal(values));
  }

  const refused = ['', ' ', ',', '1,', 'abc', 'NaN', '1.5', '-1', '0', '1e3', '0x10', '1-2', '8-1*2', '1-8*1', '1-8*0'];
  for (const text of [...refused, '1-8+0', '1-8/2', '1--8*2', '1-8*2*2', '99999999999999999999', 'Infinity']) {
    it(`refuses '${text}' and names the option`, () => {
      expectConfigError(() => parseIntegers('--seq-len', text), 'ERR_OPTION', /^--seq-len: .*got '/);
    });
  }

  it('refuses more values than anyone means', () => {
    expect(parseIntegers('--batch', `1-${MAX_VALUES}+1`)).to.have.length(MAX_VALUES);
    const tooMany = [`1-${MAX_VALUES + 1}+1`, '1-9007199254740991+1'];
    for (const text of tooMany) expectConfigError(() => parseIntegers('--batch', text), 'ERR_OPTION', /at most 1000/);
  });
});

describe('expandGrid', () => {
  it('gives every combination, the last axis fastest', () => {
    expect(expandGrid({ seqLen: [1, 2], layout: ['a', 'b'] })).to.deep.equal([
      { seqLen: 1, layout: 'a' },
      { seqLen: 1, layout: 'b' },
      { seqLen: 2, layout: 'a' },
      { seqLen: 2, layout: 'b' },
    ]);
  });

  it('gives nothing when an axis has no value', () => {
    expect(expandGrid({ seqLen: [1, 2], layout: [] })).to.deep.equal([]);
  });
});

describe('groupNeighbours', () => {
  it('cuts a list where the key changes, and keeps the order', () => {
    const groups = groupNeighbours([1, 3, 2, 4, 5], (value) => (value % 2 === 0 ? 'even' : 'odd'));
    expect(groups).to.deep.equal([[1, 3], [2, 4], [5]]);
    expect(groupNeighbours([], () => '')).to.deep.equal([]);
  });
});

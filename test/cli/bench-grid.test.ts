// The grid of the bench: every combination once, in an order that can be read, with defaults that fit together; and the
// exit code of its rows.
import { expect } from 'chai';
import { exitCodeOf } from '../../src/cli/bench.ts';
import { type GridFlags, spanGrid } from '../../src/cli/bench-grid.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const ONE: GridFlags = {
  batch: [1],
  seqLen: [1024],
  numHeads: [8],
  headDim: [64],
  dtype: ['f32'],
  maskType: ['no_mask'],
  window: [[-1, -1]],
  direction: ['forward'],
  ranks: [4],
  cpCommType: ['p2p'],
  layout: ['zigzag'],
};

describe('spanGrid', () => {
  it('has as many KV heads as query heads unless it is told otherwise', () => {
    const heads = (flags: Partial<GridFlags>) =>
      spanGrid({ ...ONE, ...flags }).map(({ numHeads, numKvHeads }) => [numHeads, numKvHeads]);
    expect(heads({ numHeads: [4, 8] })).to.deep.equal([
      [4, 4],
      [8, 8],
    ]);
    expect(heads({ numHeads: [4, 8], numKvHeads: [1, 2] })).to.deep.equal([
      [4, 1],
      [4, 2],
      [8, 1],
      [8, 2],
    ]);
  });

  it('keeps the ranks together, so that they are started once, and has the fields in the order of a row', () => {
    const cases = spanGrid({ ...ONE, ranks: [2, 4], seqLen: [256, 512] });
    expect(cases.map(({ ranks, seqLen }) => [ranks, seqLen])).to.deep.equal([
      [2, 256],
      [2, 512],
      [4, 256],
      [4, 512],
    ]);
    expect(Object.keys(cases[0]).join()).to.equal(
      'ranks,cpCommType,layout,batch,seqLen,seqLenKv,numHeads,numKvHeads,headDim,dtype,maskType,window,direction',
    );
  });

  it('has as many keys as queries unless told', () => {
    const keys = (flags: Partial<GridFlags>) => spanGrid({ ...ONE, ...flags }).map((one) => [one.seqLen, one.seqLenKv]);
    expect(keys({ seqLen: [1, 64] })).to.deep.equal([
      [1, 1],
      [64, 64],
    ]);
    expect(keys({ seqLen: [1, 8], seqLenKv: [4096] })).to.deep.equal([
      [1, 4096],
      [8, 4096],
    ]);
  });

  it('keeps windows and directions of the same case side by side, so that they can take turns', () => {
    const cases = spanGrid({
      ...ONE,
      maskType: ['no_mask', 'causal'],
      window: [
        [-1, -1],
        [127, 0],
      ],
      direction: ['forward', 'backward'],
    });
    expect(cases.map(({ maskType, window, direction }) => [maskType, String(window), direction])).to.deep.equal(
      ['no_mask', 'causal'].flatMap((maskType) =>
        ['-1,-1', '127,0'].flatMap((window) =>
          ['forward', 'backward'].map((direction) => [maskType, window, direction]),
        ),
      ),
    );
  });

  it('refuses the whole grid when one of its cases does not fit', () => {
    const span = () => spanGrid({ ...ONE, numHeads: [8, 9], numKvHeads: [4] });
    expectConfigError(span, 'ERR_SHAPE', /numHeads=9, numKvHeads=4/);
  });
});

describe('exitCodeOf', () => {
  it('is 1 when any row has a wrong element, and a count that is none counts as wrong', () => {
    expect(exitCodeOf([])).to.equal(0);
    expect(exitCodeOf([{ wrong: 0 }, { wrong: null }])).to.equal(0);
    expect(exitCodeOf([{ wrong: 0 }, { wrong: 3 }])).to.equal(1);
    expect(exitCodeOf([{ wrong: NaN }])).to.equal(1);
  });
});

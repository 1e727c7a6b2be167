// Mask types and windows: the drawings of their documentation, and the interval that they come down to.
import { expect } from 'chai';
import {
  keyInterval,
  MASK_TYPES,
  type MaskType,
  queryOffset,
  UNLIMITED,
  type Window,
} from '../../src/attention/mask.ts';
import { listSequences } from '../../src/attention/sequences.ts';

const [ROWS, KEYS] = [3, 5];
const PADDED = { packed: false, startsQ: [0], lensQ: [2], startsKv: [0], lensKv: [4] };

/** Which of 3 queries keeps which of 5 keys; padding types have 2 queries and 4 keys. */
function draw(maskType: MaskType, window: Window = [-1, -1]): string[] {
  const shape = { batch: 1, seqLenQ: ROWS, seqLenKv: KEYS, numHeads: 1, numKvHeads: 1, headDimQk: 1, headDimV: 1 };
  const [{ lenQ, lenKv, offset }] = listSequences(shape, maskType, maskType.startsWith('padding') ? PADDED : null);
  const { left, right } = keyInterval(maskType, window);
  return Array.from({ length: ROWS }, (_, i) =>
    Array.from({ length: KEYS }, (_key, j) => {
      const isKept = i < lenQ && j < lenKv && j >= i + offset - left && j <= i + offset + right;
      return isKept ? 'x' : '.';
    }).join(' '),
  );
}

describe('mask types', () => {
  const drawings: Record<MaskType, string[]> = {
    no_mask: ['x x x x x', 'x x x x x', 'x x x x x'],
    causal: ['x . . . .', 'x x . . .', 'x x x . .'],
    causal_bottom_right: ['x x x . .', 'x x x x .', 'x x x x x'],
    padding: ['x x x x .', 'x x x x .', '. . . . .'],
    padding_causal: ['x . . . .', 'x x . . .', '. . . . .'],
    padding_causal_bottom_right: ['x x x . .', 'x x x x .', '. . . . .'],
  };
  for (const maskType of MASK_TYPES) {
    it(`${maskType} keeps what its drawing shows`, () => {
      expect(draw(maskType)).to.deep.equal(drawings[maskType]);
    });
  }
});

describe('windows', () => {
  it('keep keys from left before to right after the query', () => {
    expect(draw('no_mask', [1, 1])).to.deep.equal(['x x . . .', 'x x x . .', '. x x x .']);
  });

  it('without limit on one side are the mask alone there', () => {
    expect(draw('no_mask', [0, -1])).to.deep.equal(['x x x x x', '. x x x x', '. . x x x']);
    expect(draw('no_mask', [-1, 0])).to.deep.equal(draw('causal'));
  });

  it('never widen a causal mask', () => {
    expect(draw('causal', [1, 3])).to.deep.equal(draw('causal', [1, -1]));
  });

  it('move with the offset of bottom-right masks', () => {
    expect(draw('causal_bottom_right', [1, -1])).to.deep.equal(['. x x . .', '. . x x .', '. . . x x']);
  });
});

describe('keyInterval', () => {
  it('has UNLIMITED for a side without limit, beyond every position', () => {
    expect(keyInterval('no_mask', [-1, -1])).to.deep.equal({ left: UNLIMITED, right: UNLIMITED });
    expect(keyInterval('padding_causal', [-1, -1])).to.deep.equal({ left: UNLIMITED, right: 0 });
    expect(keyInterval('padding', [7, 2])).to.deep.equal({ left: 7, right: 2 });
  });
});

describe('queryOffset', () => {
  it('aligns the last query with the last key for bottom-right types, also with fewer keys, and is 0 for the others', () => {
    for (const maskType of MASK_TYPES) {
      const isAligned = maskType === 'causal_bottom_right' || maskType === 'padding_causal_bottom_right';
      expect(queryOffset(maskType, 3, 8), maskType).to.equal(isAligned ? 5 : 0);
      expect(queryOffset(maskType, 8, 3), maskType).to.equal(isAligned ? -5 : 0);
    }
  });
});

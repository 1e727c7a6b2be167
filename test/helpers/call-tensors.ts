// Tensors of four calls that are right: plain, padded, packed, and packed with gaps. Tests of what is refused change one thing.
import type { AttentionOptions } from '../../src/attention/options.ts';
import { createInputs } from './attention-inputs.ts';

export const SHAPE = { batch: 2, seqLenQ: 4, seqLenKv: 6, numHeads: 4, numKvHeads: 2, headDimQk: 8, headDimV: 10 };
export const PACKED_SHAPE = { ...SHAPE, batch: 1, seqLenQ: 9, seqLenKv: 12 };
export const PLAIN = createInputs({ shape: SHAPE });
export const PADDED = createInputs({ shape: SHAPE, sequences: { q: [4, 1], kv: [0, 6] } });
export const PACKED = createInputs({ shape: PACKED_SHAPE, packed: true, sequences: { q: [3, 0, 6], kv: [4, 5, 3] } });
/** Room for 4 + 5 tokens of q and 6 + 6 of k and v, of which 3 + 5 and 6 + 2 are used. */
export const GAPS = createInputs({
  shape: PACKED_SHAPE,
  packed: true,
  sequences: { q: [3, 5], kv: [6, 2], paddedQ: [4, 5], paddedKv: [6, 6] },
});
export const PADDING: Partial<AttentionOptions> = { maskType: 'padding' };

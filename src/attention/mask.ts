// Which keys a query may see. Every mask type and window comes down to one interval of keys per query, which moves with
// the query: what the schedule cuts into tiles, and what kernels evaluate in partial ones. Pure.

/**
 * The mask types, drawn for 3 queries (rows) and 5 keys (columns); x is kept. Padding types take one length of queries and
 * of keys per batch entry: here 2 of 3 queries and 4 of 5 keys are valid.
 *
 *   no_mask     causal      causal_bottom_right    padding     padding_causal    padding_causal_bottom_right
 *   x x x x x   x . . . .   x x x . .              x x x x .   x . . . .         x x x . .
 *   x x x x x   x x . . .   x x x x .              x x x x .   x x . . .         x x x x .
 *   x x x x x   x x x . .   x x x x x              . . . . .   . . . . .         . . . . .
 *
 * In packed tensors every rule counts within its sequence.
 */
export const MASK_TYPES = [
  'no_mask',
  'causal',
  'causal_bottom_right',
  'padding',
  'padding_causal',
  'padding_causal_bottom_right',
] as const;
export type MaskType = (typeof MASK_TYPES)[number];

/** How many keys before and after the query's own position are kept; −1 is unlimited. */
export type Window = readonly [left: number, right: number];

/** Query position p (with its offset) keeps the keys from p − left to p + right. */
export interface KeyInterval {
  left: number;
  right: number;
}

/** Stands for "no limit" where a kernel counts in 32 bits: no position reaches it. */
export const UNLIMITED = 2 ** 30;

/** The keys that a mask type and a window keep together. */
export function keyInterval(maskType: MaskType, [left, right]: Window): KeyInterval {
  const after = right < 0 ? UNLIMITED : right;
  return { left: left < 0 ? UNLIMITED : left, right: isCausal(maskType) ? Math.min(after, 0) : after };
}

export function isCausal(maskType: MaskType): boolean {
  return maskType.includes('causal');
}

/** Whether lengths of queries and keys come with the call, one pair per batch entry. */
export function isPadding(maskType: MaskType): boolean {
  return maskType.startsWith('padding');
}

/**
 * What is added to a query's position i before it is compared with keys: lenKv − lenQ where the last query is aligned
 * with the last key, else 0.
 */
export function queryOffset(maskType: MaskType, lenQ: number, lenKv: number): number {
  return maskType.endsWith('bottom_right') ? lenKv - lenQ : 0;
}

// Inputs of the benchmarks: N(0, 1), where every element follows from the seed and its index alone, so that each rank
// makes its own shard and all agree on the whole tensor. Pure.

/** Seeds of the tensors, so that all suites compute the same thing. */
export const INPUT_SEEDS = { q: 1, k: 2, v: 3, dout: 4 } as const;

const TWO_PI = 2 * Math.PI;
const UINT32 = 2 ** 32;

/** Fills `target` with elements firstIndex, firstIndex + 1, … of the tensor with this seed. */
export function fillNormal(target: Float32Array, seed: number, firstIndex = 0): void {
  const end = firstIndex + target.length;
  // Box–Muller makes elements two at a time: 2p is the cosine of pair p, 2p + 1 its sine.
  for (let pair = Math.floor(firstIndex / 2); 2 * pair < end; pair++) {
    const key = hash(seed ^ hash(Math.floor(pair / UINT32)));
    const first = hash(key ^ pair);
    const second = hash(first + 0x9e3779b9);
    const radius = Math.sqrt(-2 * Math.log((first + 0.5) / UINT32));
    const angle = TWO_PI * (second / UINT32);
    const at = 2 * pair - firstIndex;
    if (at >= 0) target[at] = radius * Math.cos(angle);
    if (at + 1 < target.length) target[at + 1] = radius * Math.sin(angle);
  }
}

/** A bijection of 32-bit integers that spreads every bit over all (the lowbias32 constants). */
function hash(value: number): number {
  let mixed = value >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x7feb352d);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x846ca68b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

// Which attention weights dropout drops: a counter-based generator, Threefry-2x32 with 13 rounds (Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3", table 2), keyed by seed, sequence and head, counted by query and key. The
// mask depends on global positions alone: not on tiles, layouts or ranks. shaders/dropout.wgsl computes the same. Pure.

const PARITY = 0x1bd11bda;
const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24] as const;
const ROUNDS = 13;

/** Two random words from a key and a counter of two words each. */
export function threefry(
  [key0, key1]: readonly [number, number],
  [counter0, counter1]: readonly [number, number],
): [number, number] {
  const schedule = [key0 >>> 0, key1 >>> 0, (PARITY ^ key0 ^ key1) >>> 0];
  let x0 = (counter0 + schedule[0]) >>> 0;
  let x1 = (counter1 + schedule[1]) >>> 0;
  for (let round = 0; round < ROUNDS; round++) {
    const rotation = ROTATIONS[round % 8];
    x0 = (x0 + x1) >>> 0;
    x1 = (((x1 << rotation) | (x1 >>> (32 - rotation))) ^ x0) >>> 0;
    if (round % 4 === 3) {
      const injection = (round + 1) / 4;
      x0 = (x0 + schedule[injection % 3]) >>> 0;
      x1 = (x1 + schedule[(injection + 1) % 3] + injection) >>> 0;
    }
  }
  return [x0, x1];
}

/** The words of a seed from 0 to 2⁵³ − 1. */
export function seedWords(seed: number): [low: number, high: number] {
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

/** A weight is dropped when its random word is below this: p · 2³², rounded. */
export function dropoutThreshold(dropout: number): number {
  return Math.min(2 ** 32 - 1, Math.round(dropout * 2 ** 32));
}

/** Whether the weight of query i and key j (positions in their sequence) is kept. */
export function keepsWeight(
  { dropout, seed }: { dropout: number; seed: number },
  { sequence, head }: { sequence: number; head: number },
  i: number,
  j: number,
): boolean {
  const key = threefry(seedWords(seed), [sequence, head]);
  return threefry(key, [i, j])[0] >= dropoutThreshold(dropout);
}

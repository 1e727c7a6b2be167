// A covering choice: few cases in which every pair of values of every two factors is met.

/** A value of each factor. */
export type Case<Factors extends Record<string, readonly unknown[]>> = {
  [Name in keyof Factors]: Factors[Name][number];
};

/** Greedy and deterministic: each case takes, factor by factor, the value that meets most pairs that are still missing. */
export function coveringCases<Factors extends Record<string, readonly unknown[]>>(factors: Factors): Case<Factors>[] {
  const names = Object.keys(factors);
  const missing = new Set<string>();
  for (const [first, a] of names.entries()) {
    for (const b of names.slice(first + 1)) {
      for (const x of factors[a].keys()) for (const y of factors[b].keys()) missing.add(pairKey(a, x, b, y));
    }
  }
  const cases: Case<Factors>[] = [];
  while (missing.size > 0) {
    const chosen = seedCase(missing);
    for (const name of names) {
      if (chosen.has(name)) continue;
      const gains = [...factors[name].keys()].map((index) => countPairs(missing, chosen, name, index));
      chosen.set(name, gains.indexOf(Math.max(...gains)));
    }
    for (const [a, x] of chosen) for (const [b, y] of chosen) missing.delete(pairKey(a, x, b, y));
    cases.push(Object.fromEntries(names.map((name) => [name, factors[name][chosen.get(name)!]])) as Case<Factors>);
  }
  return cases;
}

function pairKey(a: string, x: number, b: string, y: number): string {
  return `${a}=${x}&${b}=${y}`;
}

/** The first missing pair: every case meets at least that one. */
function seedCase(missing: ReadonlySet<string>): Map<string, number> {
  const [pair] = missing;
  return new Map(pair.split('&').map((part) => [part.split('=')[0], Number(part.split('=')[1])]));
}

function countPairs(
  missing: ReadonlySet<string>,
  chosen: ReadonlyMap<string, number>,
  name: string,
  index: number,
): number {
  let count = 0;
  for (const [other, value] of chosen) {
    if (missing.has(pairKey(name, index, other, value)) || missing.has(pairKey(other, value, name, index))) count++;
  }
  return count;
}

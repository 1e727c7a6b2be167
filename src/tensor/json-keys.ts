// Finds what JSON.parse hides: a key that stands twice in one object, of which it keeps the last. Pure.

/** A string, or one character that opens, closes or separates; numbers and words carry no key and are skipped. */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]/g;

/**
 * The first key that stands twice in the same object of a valid JSON text, or undefined.
 *
 * @param text JSON that JSON.parse accepts; of anything else the result means nothing
 */
export function findDuplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  let previous = '';
  for (const [token] of text.matchAll(TOKEN)) {
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(undefined);
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':') {
      const key = JSON.parse(previous) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
    previous = token;
  }
  return undefined;
}

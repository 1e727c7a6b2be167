// What this package says of itself.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** The folder that holds package.json and shaders/, from the sources as well as from dist/. */
export function packageRoot(): URL {
  // Not import.meta.resolve: it is missing where a loader hook turns modules into CommonJS.
  return new URL('.', pathToFileURL(createRequire(import.meta.url).resolve('kvring/package.json')));
}

/** The version in package.json. */
export function packageVersion(): string {
  const text = readFileSync(fileURLToPath(new URL('package.json', packageRoot())), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** What the ranks of an engine must have in common. */
export function engineAgreement(): string {
  return `kvring ${packageVersion()} engine`;
}

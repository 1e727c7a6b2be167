// The lint of `npm run check` really sees types: a promise that nobody waits for is found.
import { expect } from 'chai';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

describe('oxlint', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvring-lint-'));
    for (const file of ['.oxlintrc.json', 'tsconfig.json']) copyFileSync(join(ROOT, file), join(folder, file));
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    mkdirSync(join(folder, 'src'));
  });
  after(() => rmSync(folder, { recursive: true }));

  function lint(text: string): { status: number | null; stdout: string } {
    writeFileSync(join(folder, 'src', 'file.ts'), text);
    return spawnSync(join(ROOT, 'node_modules', '.bin', 'oxlint'), ['src'], { cwd: folder, encoding: 'utf8' });
  }

  const refused: [rule: string, text: string][] = [
    ['no-floating-promises', 'export async function save(): Promise<void> {}\nsave();\n'],
    ['no-misused-promises', 'export const all = (n: number[]) => n.forEach(async () => Promise.resolve());\n'],
    ['no-console', 'console.log(1);\nexport {};\n'],
    ['no-explicit-any', 'export const x = (value: any): unknown => value;\n'],
    ['consistent-type-imports', "import { Writable } from 'node:stream';\nexport type Sink = Writable;\n"],
    ['no-unused-vars', 'const unused = 1;\nexport {};\n'],
  ];
  for (const [rule, text] of refused) {
    it(`refuses what ${rule} is for`, () => {
      const { status, stdout } = lint(text);
      expect(stdout).to.include(`(${rule})`);
      expect(status).to.equal(1);
    });
  }

  it('accepts a promise that is awaited', () => {
    const { status, stdout } = lint('export async function save(): Promise<void> {}\nawait save();\n');
    expect(status, stdout).to.equal(0);
  });
});

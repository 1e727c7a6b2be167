// `npm run check`: prints every import that breaks a rule as file:line, and fails if there is one.
import { readdirSync, readFileSync } from 'node:fs';
import { checkImports } from './import-rules.ts';

/** The TypeScript files of the checkout, as posix paths from its root. */
function readSources(): Map<string, string> {
  const root = new URL('../../', import.meta.url);
  const paths = ['src', 'bench', 'test'].flatMap((folder) =>
    readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' })
      .map((path) => `${folder}/${path.replaceAll('\\', '/')}`)
      .filter((path) => path.endsWith('.ts') && !path.includes('node_modules/')),
  );
  return new Map(paths.map((path) => [path, readFileSync(new URL(path, root), 'utf8')]));
}

const sources = readSources();
const findings = checkImports(sources);
for (const { file, line, rule } of findings) process.stderr.write(`${file}:${line}: ${rule}\n`);
process.stdout.write(`imports: ${sources.size} files, ${findings.length} broken rules\n`);
process.exitCode = findings.length > 0 ? 1 : 0;

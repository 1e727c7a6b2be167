// The check of imports finds what it is there for, at the right line, and accepts what is allowed.
import { expect } from 'chai';
import { checkImports } from './import-rules.ts';

function check(files: Record<string, string>): string[] {
  return checkImports(new Map(Object.entries(files))).map(({ file, line, rule }) => `${file}:${line}: ${rule}`);
}

describe('checkImports', () => {
  it('accepts imports that point down, and anything in tests', () => {
    const files = {
      'src/gpu/a.ts': "import { x } from '../attention/shape.ts';\nimport type { T } from '../trace/timeline.ts';",
      'src/context-parallel/a.ts': "import { x } from '../gpu/a.ts';\nimport { y } from '../transport/a.ts';",
      'src/node/a.ts': "import { readFile } from 'node:fs/promises';\nimport { WebSocket } from 'ws';",
      'src/cli/a.ts': "import { Command } from 'commander';\nimport { x } from '../../bench/grid.ts';",
      'bench/a.ts': "import { x } from '../src/node/a.ts';\nimport { cpus } from 'node:os';",
      'test/a.ts': "import { x } from '../src/gpu/a.ts';\nimport { y } from '../bench/a.ts';\nimport 'mocha';",
      'src/index.ts': "// What Node gets.\nexport { x } from './node/a.ts';\nexport type { T } from './gpu/a.ts';",
    };
    expect(check(files)).to.deep.equal([]);
  });

  const broken: [title: string, file: string, text: string, finding: string][] = [
    [
      'an import that points up',
      'src/tensor/a.ts',
      "\nimport { x } from '../attention/b.ts';",
      '2: tensor must not import attention (src/attention/b.ts)',
    ],
    [
      'gpu that sees transport',
      'src/gpu/a.ts',
      "import '../transport/b.ts';",
      '1: gpu must not import transport (src/transport/b.ts)',
    ],
    [
      'transport that sees gpu',
      'src/transport/a.ts',
      "export * from '../gpu/b.ts';",
      '1: transport must not import gpu (src/gpu/b.ts)',
    ],
    [
      'a type from above',
      'src/errors.ts',
      "import type { T } from './tensor/b.ts';",
      '1: errors must not import tensor (src/tensor/b.ts)',
    ],
    [
      'a dynamic import',
      'src/gpu/a.ts',
      "const a = await import('../node/b.ts');",
      '1: gpu must not import node (src/node/b.ts)',
    ],
    [
      'a type by import()',
      'src/gpu/a.ts',
      "type T = import('../node/b.ts').T;",
      '1: gpu must not import node (src/node/b.ts)',
    ],
    ['node:* outside node/', 'src/gpu/a.ts', "import 'node:fs';", '1: gpu must not import the package node:fs'],
    ['ws outside node/', 'src/transport/a.ts', "import 'ws';", '1: transport must not import the package ws'],
    ['webgpu outside node/', 'src/gpu/a.ts', "import('webgpu');", '1: gpu must not import the package webgpu'],
    ['node that sees web', 'src/node/a.ts', "import '../web/b.ts';", '1: node must not import web (src/web/b.ts)'],
    [
      'src that sees bench',
      'src/node/a.ts',
      "import '../../bench/b.ts';",
      '1: node must not import bench (bench/b.ts)',
    ],
    ['cli that sees test', 'src/cli/a.ts', "import '../../test/b.ts';", '1: cli must not import test (test/b.ts)'],
    ['bench that sees test', 'bench/a.ts', "import '../test/b.ts';", '1: bench must not import test (test/b.ts)'],
    ['a page in gpu', 'src/gpu/a.ts', 'document.title;', '1: only web/ may use the global document'],
    ['a worker in node', 'src/node/a.ts', "new Worker('x');", '1: only web/ may use the global Worker'],
    ['work in an index file', 'src/index.ts', 'export const x = 1;', '1: an index file holds re-exports only'],
    [
      'a folder that is on no map',
      'src/utils/a.ts',
      "import '../errors.ts';",
      '1: utils must not import errors (src/errors.ts)',
    ],
  ];
  for (const [title, file, text, finding] of broken) {
    it(`finds ${title}`, () => expect(check({ [file]: text })).to.deep.equal([`${file}:${finding}`]));
  }

  it('lets a file call its own variable window', () => {
    expect(check({ 'src/attention/a.ts': 'function f({ window }: O) { return window.left; }' })).to.deep.equal([]);
  });

  it('finds a cycle, and says the way round', () => {
    const files = {
      'src/gpu/a.ts': "import './b.ts';",
      'src/gpu/b.ts': "\n\nimport type { T } from './c.ts';",
      'src/gpu/c.ts': "import './a.ts';",
      'src/gpu/d.ts': "import './a.ts';",
    };
    const way = 'src/gpu/a.ts → src/gpu/b.ts → src/gpu/c.ts → src/gpu/a.ts';
    expect(check(files)).to.deep.equal([`src/gpu/c.ts:1: import cycle: ${way}`]);
  });
});

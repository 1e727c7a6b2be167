// The package as its users meet it: what the two entries export, that the page's side reaches no Node module, that every
// shader is listed, and that the package can name its own files.
import { expect } from 'chai';
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as browser from '../src/browser.ts';
import { SHADER_FILES } from '../src/gpu/shader-library.ts';
import * as node from '../src/index.ts';
import { packageVersion } from '../src/node/package-info.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

describe('the package', () => {
  it('lists every shader', () => {
    const files = readdirSync(`${ROOT}/shaders`).filter((name) => name.endsWith('.wgsl'));
    expect(SHADER_FILES.toSorted()).to.deep.equal(files.toSorted());
  });

  it('gives a page the same names as Node, but for processes and the device helpers of scripts', () => {
    const nodeOnly = Object.keys(node).filter((name) => !(name in browser));
    expect(nodeOnly.toSorted()).to.deep.equal([
      'DotProductAttention',
      'ProcessGroup',
      'init',
      'initModelParallel',
      'readTensor',
      'uploadTensor',
      'writeTensor',
    ]);
    expect(Object.keys(browser).every((name) => name in node)).to.equal(true);
  });

  it('reaches no Node module from the page’s entry', () => {
    const seen = new Set<string>();
    const visit = (path: string): void => {
      if (seen.has(path)) return;
      seen.add(path);
      const source = readFileSync(path, 'utf8');
      for (const [, name] of source.matchAll(/^(?:import|export) (?!type )[^;]*?from '([^']+)'/gm)) {
        expect(name, `${path} imports ${name}`).to.match(/^\.\.?\//);
        visit(fileURLToPath(new URL(name, `file://${path}`)));
      }
    };
    visit(`${ROOT}src/browser.ts`);
    expect([...seen].filter((path) => path.includes('/src/node/'))).to.deep.equal([]);
    expect(seen.size).to.be.above(20);
  });

  it('knows its own version', () => {
    expect(packageVersion()).to.match(/^\d+\.\d+\.\d+/);
  });
});

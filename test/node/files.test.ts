// Files: written whole or not at all, and every failure names the path.
import { expect } from 'chai';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkWritable, readBytes, readSafetensors, writeBytes, writeSafetensors } from '../../src/node/files.ts';
import { f32Tensor } from '../../src/tensor/tensor.ts';
import { expectConfigRejection } from '../helpers/expect-config-error.ts';

describe('files', () => {
  let folder: string;
  beforeEach(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-files-'))));
  afterEach(() => rm(folder, { recursive: true }));

  it('come back as they were written, and nothing else stays in the folder', async () => {
    const path = join(folder, 'a.safetensors');
    await writeSafetensors(path, { q: f32Tensor([2], Float32Array.of(1, -Infinity)) });
    expect((await readSafetensors(path)).tensors.get('q')?.data).to.deep.equal(Float32Array.of(1, -Infinity));
    expect(await readdir(folder)).to.deep.equal(['a.safetensors']);
  });

  it('replace the file that was there', async () => {
    const path = join(folder, 'a.json');
    await writeBytes(path, 'old and longer');
    await writeBytes(path, 'new');
    expect(await readFile(path, 'utf8')).to.equal('new');
  });

  it('are refused with their path when they are not there or are a directory', async () => {
    await expectConfigRejection(readBytes(join(folder, 'none')), 'ERR_FILE', /none: there is no such file/);
    await expectConfigRejection(readBytes(folder), 'ERR_FILE', /it is a directory/);
  });

  it('do not take the place of a directory, and are not written into one that does not exist', async () => {
    const directory = join(folder, 'directory');
    await mkdir(directory);
    await writeFile(join(directory, 'inside'), '');
    await expectConfigRejection(writeBytes(directory, 'x'), 'ERR_FILE', /directory: it is a directory/);
    await expectConfigRejection(checkWritable(directory), 'ERR_FILE', /it is a directory/);
    await expectConfigRejection(writeBytes(join(folder, 'none', 'a'), 'x'), 'ERR_FILE', /directory does not exist/);
    expect(await readdir(directory)).to.deep.equal(['inside']);
  });
});

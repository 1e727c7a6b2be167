// `kvring` as a process: exit codes, a script's own arguments, and Ctrl-C, which leaves no rank behind.
import { expect } from 'chai';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { spawnCli } from '../helpers/run-cli.ts';

/** Waits until `condition` holds; the test's timeout is the limit. */
async function waitUntil(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(20);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe('the kvring process', () => {
  let folder: string;
  before(async () => void (folder = await mkdtemp(join(tmpdir(), 'kvring-cli-'))));
  after(() => rm(folder, { recursive: true }));

  async function writeScript(name: string, text: string): Promise<string> {
    const path = join(folder, name);
    await writeFile(path, text);
    return path;
  }

  it('exits with 2 on bad usage', async () => {
    const { exitCode, stdout, stderr } = await spawnCli(['bench', 'ring', '--nonsense']).ended;
    expect({ exitCode, stdout }).to.deep.equal({ exitCode: 2, stdout: '' });
    expect(stderr).to.match(/^kvring: unknown option '--nonsense' \[ERR_USAGE\]\n$/);
  });

  it('launch gives the script its own arguments, untouched', async () => {
    const script = await writeScript(
      'args.mjs',
      'process.stdout.write(JSON.stringify(process.argv.slice(2)) + "\\n");',
    );
    const args = ['--nproc-per-node', '3', '--help', '-o', '--', '-h', 'a b', ''];
    const { exitCode, stdout, stderr } = await spawnCli(['launch', '--nproc-per-node', '1', script, ...args]).ended;
    expect(stderr).to.equal('');
    expect(JSON.parse(stdout)).to.deep.equal(args);
    expect(exitCode).to.equal(0);
  });

  it('launch exits with 1 when a rank fails', async () => {
    const script = await writeScript('fail.mjs', 'process.exit(process.env.RANK === "1" ? 7 : 0);');
    const { exitCode, stderr } = await spawnCli(['launch', '--nproc-per-node', '2', script]).ended;
    expect(stderr).to.match(/rank 1/);
    expect(exitCode).to.equal(1);
  });

  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    it(`exits with ${expected} on ${signal} and leaves no rank behind`, async () => {
      const ready = await mkdtemp(join(folder, 'ready-'));
      const script = await writeScript(
        'sleep.mjs',
        `import { writeFileSync } from 'node:fs';
         writeFileSync(${JSON.stringify(`${ready}/`)} + process.pid, '');
         setInterval(() => {}, 1000);`,
      );
      const running = spawnCli(['launch', '--nproc-per-node', '2', script]);
      await waitUntil(async () => (await readdir(ready)).length === 2);
      running.process.kill(signal);
      const { exitCode } = await running.ended;
      expect(exitCode).to.equal(expected);
      const ranks = (await readdir(ready)).map(Number);
      await waitUntil(() => !ranks.some(isAlive));
    });
  }
});

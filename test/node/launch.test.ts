// `kvring launch` as a script's author meets it: ranks, groups, results, prefixed output, exit codes, the first failure
// named, no process left; two machines (network namespaces) with a shared secret.
import { expect } from 'chai';
import { fileURLToPath } from 'node:url';
import type { ConfigError } from '../../src/errors.ts';
import { type LaunchOptions, launch } from '../../src/node/launcher.ts';

const SCRIPT = fileURLToPath(new URL('../fixtures/spmd-attention.ts', import.meta.url));

interface Launched {
  exitCode: number;
  stdout: string;
  stderr: string;
}

async function runLaunch(options: Partial<LaunchOptions> & Pick<LaunchOptions, 'command'>): Promise<Launched> {
  const text = { stdout: '', stderr: '' };
  const collect = (stream: 'stdout' | 'stderr') => ({ write: (chunk: string) => (text[stream] += chunk) });
  const { exitCode } = await launch({
    nprocPerNode: 1,
    signal: new AbortController().signal,
    stdout: collect('stdout'),
    stderr: collect('stderr'),
    ...options,
  });
  return { exitCode, ...text };
}

interface Report {
  rank: number;
  cpRank: number;
  dpRank: number;
  rows: number;
  kvPayloadBytesSent: number;
  maxAbsError: number;
}

function reportsOf(stdout: string): Report[] {
  const lines = stdout.trim().split('\n');
  const reports = lines.map((line) => JSON.parse(line.replace(/^\[\d+\]: /, '')) as Report);
  return reports.toSorted((a, b) => a.rank - b.rank);
}

describe('kvring launch', function () {
  this.timeout(120_000);

  it('runs an SPMD script on every rank; each gets its shard of the right result', async () => {
    const { exitCode, stdout, stderr } = await runLaunch({ command: [SCRIPT], nprocPerNode: 3 });
    expect(exitCode, stderr).to.equal(0);
    const reports = reportsOf(stdout);
    expect(reports.map(({ cpRank }) => cpRank)).to.deep.equal([0, 1, 2]);
    for (const { maxAbsError, kvPayloadBytesSent } of reports) {
      expect(maxAbsError).to.be.within(1e-12, 5e-6);
      expect(kvPayloadBytesSent).to.equal(2 * 2 * 32 * 4 * 64);
    }
    expect(stdout).to.match(/^\[[012]\]: \{/);
  });

  it('cuts four ranks into two rings of two, with uneven shards', async () => {
    const { exitCode, stdout, stderr } = await runLaunch({ command: [SCRIPT, '2', '37'], nprocPerNode: 4 });
    expect(exitCode, stderr).to.equal(0);
    const reports = reportsOf(stdout);
    expect(reports.map(({ cpRank, dpRank }) => [cpRank, dpRank])).to.deep.equal([
      [0, 0],
      [1, 0],
      [0, 1],
      [1, 1],
    ]);
    expect(reports.map(({ rows }) => rows)).to.deep.equal([19, 18, 19, 18]);
    for (const { maxAbsError } of reports) expect(maxAbsError).to.be.within(1e-12, 5e-6);
  });

  it('says whom it turned away: a rank that asks for a number that is taken', async () => {
    const program = 'process.env.RANK = "0"; import(process.argv[1]).catch(() => process.exit(3))';
    const { exitCode, stderr } = await runLaunch({
      command: [process.execPath, ...process.execArgv, '-e', program, SCRIPT],
      nprocPerNode: 2,
    });
    expect(exitCode, stderr).not.to.equal(0);
    expect(stderr).to.match(/refused a client: rendezvous: rank 0 of 2 has already joined \[ERR_RANK\]/);
  });

  it('sets torchrun’s variables and passes the script’s own arguments on', async () => {
    const program =
      'process.stdout.write(["RANK","WORLD_SIZE","LOCAL_RANK","LOCAL_WORLD_SIZE","MASTER_ADDR"].map((n) => process.env[n]).join() + process.argv.slice(1).join() + (process.env.KVRING_TOKEN.length > 20))';
    const { stdout } = await runLaunch({
      command: [process.execPath, '-e', program, '--', '--own', 'x'],
      nprocPerNode: 2,
    });
    expect(stdout.split('\n').toSorted().join(' ').trim()).to.equal(
      '[0]: 0,2,0,2,127.0.0.1--own,xtrue [1]: 1,2,1,2,127.0.0.1--own,xtrue',
    );
  });

  it('ends the other ranks when one fails, names the first failure and exits with its code', async () => {
    const program = 'process.env.RANK === "1" ? process.exit(7) : setTimeout(() => {}, 60000)';
    const startMs = performance.now();
    const { exitCode, stderr } = await runLaunch({ command: [process.execPath, '-e', program], nprocPerNode: 3 });
    expect(exitCode).to.equal(7);
    expect(stderr).to.contain('rank 1 failed with exit code 7 first');
    expect(performance.now() - startMs).to.be.below(10_000);
  });

  it('ends every rank when it is interrupted', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    const { exitCode } = await runLaunch({
      command: [process.execPath, '-e', 'setTimeout(() => {}, 60000)'],
      nprocPerNode: 2,
      signal: controller.signal,
    });
    expect(exitCode).to.equal(130);
  });

  it('reports a command that does not exist', async () => {
    const { exitCode, stderr } = await runLaunch({ command: ['no-such-program'], nprocPerNode: 1 });
    expect(exitCode).to.equal(127);
    expect(stderr).to.contain('ENOENT');
  });

  it('refuses several machines without a shared secret, and clear text off this host', async () => {
    const failure = async (options: Partial<LaunchOptions>): Promise<ConfigError> =>
      runLaunch({ command: ['true'], ...options }).then(
        () => expect.fail('expected a refusal'),
        (error: ConfigError) => error,
      );
    expect((await failure({ nnodes: 2, rdzvEndpoint: '127.0.0.1:0' })).message).to.contain('KVRING_TOKEN');
    expect((await failure({ rdzvEndpoint: '0.0.0.0:0' })).message).to.contain('insecure');
    expect((await failure({ rdzvEndpoint: 'a:b:c' })).message).to.contain('host:port');
  });
});

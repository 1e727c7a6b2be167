// Two machines, as the README tells: two network namespaces that this test makes, joined by a veth pair. The second one
// needs the secret; clear text needs --insecure; with a certificate everything is TLS. Needs root and iproute2.
import { expect } from 'chai';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const SCRIPT = fileURLToPath(new URL('../fixtures/spmd-attention.ts', import.meta.url));
const SUFFIX = process.pid % 10000;
const MACHINES = [
  { namespace: `kvring-a-${SUFFIX}`, device: `kva${SUFFIX}`, address: '10.77.0.1' },
  { namespace: `kvring-b-${SUFFIX}`, device: `kvb${SUFFIX}`, address: '10.77.0.2' },
] as const;
const ENDPOINT = `${MACHINES[0].address}:29400`;
const TOKEN = 'a secret that both machines know';

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: 'pipe' });
}

function createMachines(): void {
  for (const { namespace } of MACHINES) ip('netns', 'add', namespace);
  const [a, b] = MACHINES;
  ip('link', 'add', a.device, 'netns', a.namespace, 'type', 'veth', 'peer', 'name', b.device, 'netns', b.namespace);
  for (const { namespace, device, address } of MACHINES) {
    ip('-n', namespace, 'addr', 'add', `${address}/24`, 'dev', device);
    ip('-n', namespace, 'link', 'set', device, 'up');
    ip('-n', namespace, 'link', 'set', 'lo', 'up');
  }
}

function destroyMachines(): void {
  for (const { namespace } of MACHINES) {
    try {
      ip('netns', 'del', namespace);
    } catch {
      // Was never made.
    }
  }
}

interface Ended {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

interface Running {
  child: ChildProcess;
  ended: Promise<Ended>;
}

function runOn(machine: 0 | 1, args: string[], env: Record<string, string>): Running {
  const { namespace } = MACHINES[machine];
  const command = ['netns', 'exec', namespace, process.execPath, ...process.execArgv, CLI, ...args];
  const child: ChildProcess = spawn('ip', command, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const text = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream]!.on('data', (chunk) => (text[stream] += String(chunk)));
  const ended = new Promise<Ended>((resolve) => child.once('close', (exitCode) => resolve({ exitCode, ...text })));
  return { child, ended };
}

function launchArgs(nodeRank: number, security: string[]): string[] {
  const where = ['--nnodes', '2', '--node-rank', String(nodeRank), '--rdzv-endpoint', ENDPOINT];
  return ['launch', '--nproc-per-node', '1', ...where, ...security, SCRIPT];
}

function canMakeMachines(): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    destroyMachines();
    createMachines();
    return true;
  } catch {
    return false;
  } finally {
    destroyMachines();
  }
}

describe('two machines', function () {
  this.timeout(180_000);
  before(function () {
    // Stated in the title of the skipped test: needs root, iproute2 and network namespaces.
    if (!canMakeMachines()) this.skip();
    createMachines();
  });
  after(destroyMachines);

  it('run one ring over clear text with --insecure and a shared secret (needs root and iproute2)', async () => {
    const env = { KVRING_TOKEN: TOKEN };
    const ended = await Promise.all(
      ([0, 1] as const).map((machine) => runOn(machine, launchArgs(machine, ['--insecure']), env).ended),
    );
    for (const [machine, { exitCode, stdout, stderr }] of ended.entries()) {
      expect(exitCode, stderr).to.equal(0);
      expect(stdout).to.match(new RegExp(`"rank":${machine},.*"maxAbsError":[0-9.e-]+`));
    }
  });

  it('run one ring over TLS with a certificate', async function () {
    const folder = mkdtempSync(join(tmpdir(), 'kvring-tls-'));
    const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
    try {
      const names = MACHINES.map(({ address }) => `IP:${address}`).join();
      const request = [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '1',
      ];
      execFileSync(
        'openssl',
        [...request, '-subj', '/CN=kvring', '-addext', `subjectAltName=${names}`, '-keyout', key, '-out', cert],
        { stdio: 'pipe' },
      );
      const security = ['--tls-cert', cert, '--tls-key', key, '--tls-ca', cert];
      const env = { KVRING_TOKEN: TOKEN };
      const ended = await Promise.all(
        ([0, 1] as const).map((machine) => runOn(machine, launchArgs(machine, security), env).ended),
      );
      for (const { exitCode, stdout, stderr } of ended) {
        expect(exitCode, stderr).to.equal(0);
        expect(stdout).to.contain('"maxAbsError"');
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('refuse clear text without --insecure, and a second machine without the secret', async () => {
    const env = { KVRING_TOKEN: TOKEN };
    const refused = await runOn(0, launchArgs(0, []), env).ended;
    expect(refused.exitCode).to.equal(2);
    expect(refused.stderr).to.contain('--insecure');
    const first = runOn(0, launchArgs(0, ['--insecure']), env);
    const second = await runOn(1, launchArgs(1, ['--insecure']), { KVRING_TOKEN: 'a guess' }).ended;
    expect(second.exitCode).not.to.equal(0);
    expect(second.stderr).to.contain('refused the token');
    expect(second.stderr).not.to.contain(TOKEN);
    first.child.kill('SIGTERM');
    await first.ended;
  });
});

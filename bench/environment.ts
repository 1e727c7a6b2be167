// Where and of what a result was measured: the host, the version, the commit.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot, packageVersion } from '../src/node/package-info.ts';

/** The machine that ran the bench. */
export interface HostFacts {
  os: string;
  arch: string;
  cpu: string;
  /** Logical cores. */
  cores: number;
  memoryGiB: number;
  node: string;
}

/** What a result file says about its origin. */
export interface Environment {
  version: string;
  /** The commit of the checkout, with `+` behind it when files differ from it; null outside a checkout. */
  commit: string | null;
  host: HostFacts;
}

/** Facts about this host and this copy of kvring. */
export function readEnvironment(): Environment {
  return { version: packageVersion(), commit: readCommit(fileURLToPath(packageRoot())), host: readHost() };
}

function readHost(): HostFacts {
  const processors = cpus();
  return {
    os: `${platform()} ${release()}`,
    arch: arch(),
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryGiB: Math.round((totalmem() / 2 ** 30) * 10) / 10,
    node: process.versions.node,
  };
}

function readCommit(root: string): string | null {
  // Only when the checkout is kvring's own: installed in node_modules, git would answer for the caller's project.
  if (!existsSync(join(root, '.git'))) return null;
  const git = (...args: string[]) =>
    execFileSync('git', ['-C', root, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') === '' ? '' : '+');
  } catch {
    return null;
  }
}

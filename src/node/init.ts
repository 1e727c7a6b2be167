// init(): what an SPMD script calls first. Reads the environment that `kvring launch` sets, joins the run, and opens the
// rank's adapter.
import type { ComputeWorld } from '../context-parallel/dot-product-attention.ts';
import { packageVersion } from './package-info.ts';
import { readRankEnvironment } from './rank-environment.ts';
import { startRankNode } from './rank-node.ts';

export interface InitOptions {
  /** Anything that every rank must have in common, as text: a rank with another one is refused. Default none. */
  agreement?: string;
  /** How long to wait for the other ranks, in ms; default 120 000. */
  joinTimeoutMs?: number;
}

/**
 * Joins the run as the rank that RANK names, and resolves when every rank has. The process is taken to be the rank's own.
 * Rejects with ConfigError outside `kvring launch`, ProtocolError when the coordinator refuses, DeviceError without an
 * adapter.
 */
export async function init({ agreement = '', joinTimeoutMs }: InitOptions = {}): Promise<ComputeWorld> {
  const node = await startRankNode({
    environment: readRankEnvironment(process.env),
    agreement: `kvring ${packageVersion()} ${agreement}`,
    joinTimeoutMs,
  });
  const { rank, worldSize, member, transport, gpu } = node;
  return {
    rank,
    worldSize,
    transport,
    gpu,
    device: gpu.device,
    timeoutMs: member.welcome.timeoutMs,
    get signal() {
      return member.signal;
    },
    gather: (key, value) => member.gather(key, value),
    reportFailure: (error, signal) => member.reportFailure(error, signal),
    enterStep: (step) => {
      member.step = step;
    },
    close: () => node.close(),
  };
}

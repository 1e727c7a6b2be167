// The program of one rank of `bench ring`: prepares cases and runs them as it is told.
import type { RingCall } from '../src/context-parallel/ring-plan.ts';
import { packageVersion } from '../src/node/package-info.ts';
import { serveRank } from '../src/node/serve-rank.ts';
import { RingWorkload, type RunRequest } from './ring-workload.ts';

/** `prepare` comes first, and again for every case. */
export type RingRequest =
  { kind: 'prepare'; call: RingCall } | { kind: 'verify'; timeoutMs: number } | ({ kind: 'run' } & RunRequest);

await serveRank(`kvring ${packageVersion()} bench`, (node) => {
  let workload: RingWorkload | undefined;
  return async (request, opSeq, signal) => {
    const wanted = request as RingRequest;
    switch (wanted.kind) {
      case 'prepare':
        workload?.destroy();
        workload = await RingWorkload.create(node, wanted.call);
        return workload.facts;
      case 'verify':
        return workload!.verify(wanted.timeoutMs, opSeq, signal);
      case 'run':
        return workload!.run(wanted, opSeq, signal);
    }
  };
});

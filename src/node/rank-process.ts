// The program of a rank that createEngine() starts.
import { type ForwardRequest, RankService } from '../context-parallel/rank-service.ts';
import { engineAgreement } from './package-info.ts';
import { serveRank } from './serve-rank.ts';

await serveRank(engineAgreement(), ({ gpu, transport, label, member }) => {
  const service = new RankService({ gpu, transport, label, onStep: (step) => (member.step = step) });
  return (request, opSeq, signal) => service.forward(request as ForwardRequest, opSeq, signal);
});

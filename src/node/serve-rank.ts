// What every rank program of kvring does: joins, serves calls until its owner closes the run or is gone, and ends. What
// goes wrong before it has joined is its last line on stderr, as JSON.
import { encodeError } from '../errors.ts';
import { readRankEnvironment } from './rank-environment.ts';
import { type RankNode, startRankNode } from './rank-node.ts';

/** Answers one call; `signal` aborts when the ring is aborted. */
export type CallHandler = (request: unknown, opSeq: number, signal: AbortSignal) => Promise<unknown>;

/** Runs this process as a rank, and ends it: with code 0 when the run is over, 1 when it could not join. */
export async function serveRank(agreement: string, createHandler: (node: RankNode) => CallHandler): Promise<never> {
  let end!: () => void;
  let begin!: (handler: CallHandler) => void;
  const ended = new Promise<void>((resolve) => (end = resolve));
  // A call may arrive in the same moment as the welcome.
  const handler = new Promise<CallHandler>((resolve) => (begin = resolve));
  try {
    const environment = readRankEnvironment(process.env);
    const onCall: CallHandler = async (request, opSeq, signal) => (await handler)(request, opSeq, signal);
    begin(createHandler(await startRankNode({ environment, agreement, events: { onCall, onEnd: end } })));
    await ended;
  } catch (error) {
    process.stderr.write(`${JSON.stringify(encodeError(error))}\n`);
    process.exit(1);
  }
  process.exit(0);
}

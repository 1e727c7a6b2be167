// Whether a client that says hello belongs to this run, and as which rank. Pure.
import { type ErrorCode, ProtocolError } from '../errors.ts';
import { CONTROL_PROTOCOL, type Hello, type MemberMessage } from './messages.ts';

export interface Expected {
  runId: string;
  worldSize: number;
  /** What the first rank said that all must have in common; undefined before it came. */
  agreement: string | undefined;
  /** Ranks that are there. */
  taken: { has(rank: number): boolean };
}

/** The hello of a rank that may come in, and its number. Throws ProtocolError whose code says what does not fit. */
export function checkHello(message: MemberMessage, expected: Expected): { hello: Hello; rank: number } {
  const { runId, worldSize, agreement, taken } = expected;
  if (message.type !== 'hello') throw refusal('ERR_MESSAGE', `the first message must be hello, got ${message.type}`);
  if (message.protocol !== CONTROL_PROTOCOL) {
    const remedy = 'install the same version of kvring everywhere';
    throw refusal(
      'ERR_VERSION',
      `control protocol ${CONTROL_PROTOCOL} is spoken here, got ${message.protocol}; ${remedy}`,
    );
  }
  if (message.runId !== runId) throw refusal('ERR_RUN_ID', `this is run ${runId}, got run ${message.runId}`);
  if (message.worldSize !== worldSize) {
    throw refusal('ERR_WORLD_SIZE', `this run has ${worldSize} ranks, got worldSize=${message.worldSize}`);
  }
  if (agreement !== undefined && message.agreement !== agreement) {
    throw refusal('ERR_AGREEMENT', `every rank must run the same, expected ${agreement}, got ${message.agreement}`);
  }
  const rank = message.rank >= 0 ? message.rank : lowestFreeRank(worldSize, taken);
  if (rank >= worldSize) {
    throw refusal('ERR_RANK', `rank must be free and in [0, ${worldSize}), got rank=${message.rank}`);
  }
  if (taken.has(rank)) throw refusal('ERR_RANK', `rank ${rank} of ${worldSize} has already joined`);
  return { hello: message, rank };
}

/** A refusal of something that a client said. */
export function refusal(code: ErrorCode, detail: string): ProtocolError {
  return new ProtocolError(code, `rendezvous: ${detail}`);
}

function lowestFreeRank(worldSize: number, taken: Expected['taken']): number {
  let rank = 0;
  while (rank < worldSize && taken.has(rank)) rank++;
  return rank;
}

// The control protocol: JSON text messages between a rank (member) and the coordinator, one WebSocket per rank, beside
// the data links. A message that does not have exactly the expected fields is refused; nothing here does IO.
//
//   member → coordinator                      coordinator → member
//   hello      I am rank r of this run        welcome   you are rank r; these are the others; epoch e
//                                             refused   no, because …; the channel closes
//   heartbeat  I am alive, at step s          call      do this (engine only)
//   reply      the result of a call           gathered  everybody's values
//   gather     my value for key k             abort     rank x failed; drop everything, go on in epoch e
//   failed     something broke here           close     the run is over
//   ready      I have entered epoch e
//   leave      I am done
import { ProtocolError, type WireError } from '../errors.ts';

export const CONTROL_PROTOCOL = 1;
/** Longest control message in characters: timelines of a call travel in replies. */
export const MAX_CONTROL_LENGTH = 4 * 1024 * 1024;

/** What a rank says to be let in. */
export interface Hello {
  type: 'hello';
  protocol: number;
  runId: string;
  /** −1 asks for the lowest free number. */
  rank: number;
  worldSize: number;
  /** Whatever every rank must have in common (versions, shapes, flags), as text; compared byte by byte. */
  agreement: string;
  /** Where this rank's successors dial it: ws:// or wss://; empty for a rank that cannot listen. */
  url: string;
  /** For people: the adapter and host. */
  label: string;
}

export type MemberMessage =
  | Hello
  | { type: 'heartbeat'; step: number }
  | { type: 'reply'; opSeq: number; value: unknown }
  | { type: 'gather'; key: string; value: unknown }
  | { type: 'failed'; epoch: number; suspect: number; step: number; error: WireError }
  | { type: 'ready'; epoch: number }
  | { type: 'leave' };

export type CoordinatorMessage =
  | {
      type: 'welcome';
      rank: number;
      worldSize: number;
      epoch: number;
      /** URL of each rank, and of the driver at index worldSize (empty where there is none). */
      urls: string[];
      labels: string[];
      heartbeatMs: number;
      timeoutMs: number;
    }
  | { type: 'refused'; error: WireError }
  | { type: 'call'; opSeq: number; epoch: number; request: unknown }
  | { type: 'gathered'; key: string; values: unknown[] }
  | { type: 'abort'; epoch: number; rootCauseRank: number; step: number; reason: string }
  | { type: 'close' };

type FieldType = 'string' | 'number' | 'object' | 'any';

const MEMBER_FIELDS: Record<MemberMessage['type'], Record<string, FieldType>> = {
  hello: {
    protocol: 'number',
    runId: 'string',
    rank: 'number',
    worldSize: 'number',
    agreement: 'string',
    url: 'string',
    label: 'string',
  },
  heartbeat: { step: 'number' },
  reply: { opSeq: 'number', value: 'any' },
  gather: { key: 'string', value: 'any' },
  failed: { epoch: 'number', suspect: 'number', step: 'number', error: 'object' },
  ready: { epoch: 'number' },
  leave: {},
};

const COORDINATOR_FIELDS: Record<CoordinatorMessage['type'], Record<string, FieldType>> = {
  welcome: {
    rank: 'number',
    worldSize: 'number',
    epoch: 'number',
    urls: 'object',
    labels: 'object',
    heartbeatMs: 'number',
    timeoutMs: 'number',
  },
  refused: { error: 'object' },
  call: { opSeq: 'number', epoch: 'number', request: 'any' },
  gathered: { key: 'string', values: 'object' },
  abort: { epoch: 'number', rootCauseRank: 'number', step: 'number', reason: 'string' },
  close: {},
};

/** Parses a message from a member. Throws ProtocolError ERR_MESSAGE. */
export function parseMemberMessage(text: string): MemberMessage {
  return parseMessage(text, MEMBER_FIELDS) as unknown as MemberMessage;
}

/** Parses a message from the coordinator. Throws ProtocolError ERR_MESSAGE. */
export function parseCoordinatorMessage(text: string): CoordinatorMessage {
  return parseMessage(text, COORDINATOR_FIELDS) as unknown as CoordinatorMessage;
}

function parseMessage(text: string, fieldsByType: Record<string, Record<string, FieldType>>): Record<string, unknown> {
  if (text.length > MAX_CONTROL_LENGTH) {
    throw refuse(`a message has at most ${MAX_CONTROL_LENGTH} characters, got ${text.length}`);
  }
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch {
    throw refuse(`a message is JSON, got ${JSON.stringify(text.slice(0, 40))}`);
  }
  if (typeof message !== 'object' || message === null || Array.isArray(message)) {
    throw refuse(`a message is a JSON object, got ${JSON.stringify(text.slice(0, 40))}`);
  }
  const record = message as Record<string, unknown>;
  const type = String(record.type);
  const fields = Object.hasOwn(fieldsByType, type) ? fieldsByType[type] : undefined;
  if (!fields) throw refuse(`unknown message type, got type=${type.slice(0, 40)}`);
  for (const [name, expected] of Object.entries(fields)) {
    const value = record[name];
    const fits =
      expected === 'any' ||
      (expected === 'object' ? typeof value === 'object' && value !== null : typeof value === expected);
    if (!fits) throw refuse(`${type}.${name} must be ${expected}, got ${typeof value}`);
    if (expected === 'number' && !Number.isSafeInteger(value)) {
      throw refuse(`${type}.${name} must be a whole number, got ${String(value)}`);
    }
  }
  for (const name of Object.keys(record)) {
    if (name !== 'type' && !Object.hasOwn(fields, name)) throw refuse(`${type} has no field ${name.slice(0, 40)}`);
  }
  return record;
}

function refuse(detail: string): ProtocolError {
  return new ProtocolError('ERR_MESSAGE', `control channel: ${detail}`);
}

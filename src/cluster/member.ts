// A rank's side of the control protocol: joins, keeps saying that it lives, reports what breaks, and learns from the
// coordinator that the ring was aborted. Drives no transport: whoever owns one resets it in `onAbort`.
import { ProtocolError, RingAbortError, TransportError, decodeError, encodeError, observed } from '../errors.ts';
import type { ControlChannel } from './control-channel.ts';
import {
  CONTROL_PROTOCOL,
  type CoordinatorMessage,
  type Hello,
  type MemberMessage,
  parseCoordinatorMessage,
} from './messages.ts';

export interface MemberEvents {
  /** The ring was aborted and goes on in `epoch`: drop every link. Called before any waiting promise rejects. */
  onAbort?: (error: RingAbortError, epoch: number) => void;
  /**
   * The engine asks for something; the resolved value is sent back. A rejection is reported as a failure of this rank.
   * `signal` aborts with the epoch of the call, which may end before the handler has begun.
   */
  onCall?: (request: unknown, opSeq: number, signal: AbortSignal) => Promise<unknown>;
  /** The run is over, or the coordinator is gone. */
  onEnd?: () => void;
}

export type Welcome = Extract<CoordinatorMessage, { type: 'welcome' }>;

/** Steps that follow one another faster than this are not each reported, in ms. */
const STEP_NEWS_MS = 50;

export class Member {
  readonly welcome: Welcome;
  readonly #channel: ControlChannel;
  readonly #events: MemberEvents;
  readonly #gathers = new Map<string, { resolve(values: unknown[]): void; reject(error: Error): void }>();
  readonly #heartbeat: ReturnType<typeof setInterval>;
  #epoch: number;
  #step = -1;
  #lastHeartbeatMs = 0;
  #aborted = new AbortController();
  #ended = false;

  private constructor(channel: ControlChannel, welcome: Welcome, events: MemberEvents) {
    this.#channel = channel;
    this.#events = events;
    this.welcome = welcome;
    this.#epoch = welcome.epoch;
    this.#heartbeat = setInterval(() => this.#sendHeartbeat(), welcome.heartbeatMs);
    this.#heartbeat.unref?.();
  }

  /**
   * Says hello and waits until every rank has joined.
   * Rejects with the coordinator's refusal (ProtocolError, its code says why) or TransportError when the channel closes.
   */
  static join(
    channel: ControlChannel,
    hello: Omit<Hello, 'type' | 'protocol'>,
    events: MemberEvents = {},
    signal?: AbortSignal,
  ): Promise<Member> {
    return new Promise<Member>((resolve, reject) => {
      let member: Member | undefined;
      channel.onMessage((text) => {
        try {
          const message = parseCoordinatorMessage(text);
          if (member) member.#handle(message);
          else if (message.type === 'refused') reject(decodeError(message.error));
          else if (message.type === 'welcome') resolve((member = new Member(channel, message, events)));
          else if (message.type === 'close') reject(coordinatorGone());
          else throw new ProtocolError('ERR_MESSAGE', `control channel: expected welcome, got ${message.type}`);
        } catch (error) {
          reject(error);
          channel.close();
        }
      });
      channel.onClose(() => {
        reject(coordinatorGone());
        if (member) member.#end();
      });
      signal?.addEventListener('abort', () => {
        reject(signal.reason);
        if (!member) channel.close();
      });
      channel.send(JSON.stringify({ type: 'hello', protocol: CONTROL_PROTOCOL, ...hello }));
    });
  }

  get rank(): number {
    return this.welcome.rank;
  }

  get worldSize(): number {
    return this.welcome.worldSize;
  }

  /** The ring step that this rank is in, for heartbeats and reports; −1 outside a ring. */
  get step(): number {
    return this.#step;
  }

  set step(step: number) {
    this.#step = step;
    // News of a slow ring is worth a message; a fast one must not send one per step.
    if (performance.now() - this.#lastHeartbeatMs > STEP_NEWS_MS) this.#sendHeartbeat();
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** Aborts, with a RingAbortError as its reason, when the present epoch ends. Read it anew for each operation. */
  get signal(): AbortSignal {
    return this.#aborted.signal;
  }

  /** Gives this rank's value for `key` and resolves with every rank's, by rank: a barrier that carries small values. */
  async gather<T>(key: string, value: T): Promise<T[]> {
    if (this.#ended) throw coordinatorGone();
    const values = new Promise<unknown[]>((resolve, reject) => this.#gathers.set(key, { resolve, reject }));
    this.#send({ type: 'gather', key, value });
    return (await values) as T[];
  }

  /**
   * Reports that an operation, started under `signal` (this member's {@link signal} then), failed here, and resolves
   * with the error that it failed with everywhere. Never rejects; without a coordinator the error itself comes back.
   */
  async reportFailure(error: unknown, signal: AbortSignal): Promise<Error> {
    const own = error instanceof Error ? error : new Error(String(error));
    if (signal.aborted) return signal.reason as Error;
    if (this.#ended) return own;
    const suspect = own instanceof TransportError || own instanceof ProtocolError ? (own.peerRank ?? -1) : -1;
    // The driver is no rank: trouble with it is this rank's to report.
    const blamed = suspect < this.worldSize ? suspect : -1;
    this.#send({ type: 'failed', epoch: this.#epoch, suspect: blamed, step: this.step, error: encodeError(own) });
    return new Promise<Error>((resolve) => {
      signal.addEventListener('abort', () => resolve(signal.reason as Error), { once: true });
    });
  }

  /** Says goodbye and closes the channel. Idempotent. */
  leave(): void {
    if (this.#ended) return;
    this.#send({ type: 'leave' });
    this.#end();
    this.#channel.close();
  }

  #handle(message: CoordinatorMessage): void {
    switch (message.type) {
      case 'call':
        if (message.epoch === this.#epoch) observed(this.#answer(message.opSeq, message.request));
        return;
      case 'gathered':
        this.#gathers.get(message.key)?.resolve(message.values);
        this.#gathers.delete(message.key);
        return;
      case 'abort':
        return this.#abort(new RingAbortError(message.rootCauseRank, message.step, message.reason), message.epoch);
      case 'refused':
      case 'close':
        this.#end();
        return this.#channel.close();
      case 'welcome':
        throw new ProtocolError('ERR_MESSAGE', 'control channel: welcomed twice');
    }
  }

  async #answer(opSeq: number, request: unknown): Promise<void> {
    const { signal } = this;
    try {
      const value = (await this.#events.onCall?.(request, opSeq, signal)) ?? null;
      this.#send({ type: 'reply', opSeq, value });
    } catch (error) {
      await this.reportFailure(error, signal);
    }
  }

  #abort(error: RingAbortError, epoch: number): void {
    this.#epoch = epoch;
    this.#step = -1;
    this.#events.onAbort?.(error, epoch);
    this.#failWaiters(error);
    this.#send({ type: 'ready', epoch });
  }

  #failWaiters(error: Error): void {
    const aborted = this.#aborted;
    this.#aborted = new AbortController();
    aborted.abort(error);
    for (const { reject } of this.#gathers.values()) reject(error);
    this.#gathers.clear();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#heartbeat);
    this.#failWaiters(coordinatorGone());
    this.#events.onEnd?.();
  }

  #sendHeartbeat(): void {
    this.#lastHeartbeatMs = performance.now();
    this.#send({ type: 'heartbeat', step: this.#step });
  }

  #send(message: MemberMessage): void {
    this.#channel.send(JSON.stringify(message));
  }
}

function coordinatorGone(): TransportError {
  return new TransportError('ERR_PEER_LOST', 'the coordinator closed the control connection');
}

// Who is in the ring: lets ranks in, watches that they live, tells everybody when one does not, and carries the engine's
// calls. A state machine over control channels; whoever accepts a connection has already checked the token.
import { ProtocolError, RingAbortError, TransportError, decodeError, encodeError, observed } from '../errors.ts';
import { checkHello, refusal } from './admission.ts';
import type { ControlChannel } from './control-channel.ts';
import { type CoordinatorMessage, type Hello, type MemberMessage, parseMemberMessage } from './messages.ts';

export interface CoordinatorOptions {
  worldSize: number;
  /** Ranks of another run are refused. */
  runId: string;
  /** Where ranks dial the driver for their inputs, asked when all have joined; empty (default) without a driver. */
  driverUrl?: () => string;
  /** How often a rank says that it lives; default 1000 ms. */
  heartbeatMs?: number;
  /** The deadline of a ring step, and the longest silence of a rank; default 60 000 ms. */
  timeoutMs?: number;
  /** How long to wait for all ranks to join; default 120 000 ms. */
  joinTimeoutMs?: number;
  /** A client was turned away. */
  onRefused?: (error: ProtocolError) => void;
  /** A call was aborted. `lost` says that the rank is gone, so that this ring cannot go on. */
  onAbort?: (error: RingAbortError, epoch: number, lost: boolean) => void;
}

export interface CallOptions {
  start?: (opSeq: number) => void;
  signal?: AbortSignal | undefined;
}

/** How long a client may take to say who it is, in ms. */
const HELLO_TIMEOUT_MS = 10_000;

/** How long a report of trouble waits for better evidence of who is to blame, in ms. */
const EVIDENCE_GRACE_MS = 150;

interface MemberRecord {
  channel: ControlChannel;
  hello: Hello;
  lastHeard: number;
  step: number;
  epoch: number;
  left: boolean;
}

interface PendingCall {
  opSeq: number;
  values: unknown[];
  missing: Set<number>;
  resolve(values: unknown[]): void;
  reject(error: Error): void;
}

export class Coordinator {
  readonly worldSize: number;
  /** Resolves when every rank is in; rejects when that takes too long or a rank is lost before. */
  readonly joined: Promise<void>;
  readonly #options: Required<Omit<CoordinatorOptions, 'onRefused' | 'onAbort'>> & CoordinatorOptions;
  readonly #members = new Map<number, MemberRecord>();
  readonly #gathers = new Map<string, Map<number, unknown>>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  #agreement: string | undefined;
  #state: 'joining' | 'running' | 'failed' | 'closed' = 'joining';
  #failure: Error | undefined;
  #epoch = 1;
  #opSeq = 0;
  #call: PendingCall | undefined;
  #waitingForReady: (() => void)[] = [];
  #settleJoined!: { resolve(): void; reject(error: Error): void };

  constructor(options: CoordinatorOptions) {
    this.#options = { driverUrl: () => '', heartbeatMs: 1000, timeoutMs: 60_000, joinTimeoutMs: 120_000, ...options };
    this.worldSize = options.worldSize;
    this.joined = observed(new Promise<void>((resolve, reject) => (this.#settleJoined = { resolve, reject })));
    this.#after(this.#options.joinTimeoutMs, () => this.#endJoining());
    this.#watch();
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** What each rank calls itself, by rank; known once {@link joined} has resolved. */
  get labels(): string[] {
    return this.#byRank((member) => member?.hello.label ?? '');
  }

  /** Where each rank listens, by rank; known once {@link joined} has resolved. */
  get urls(): string[] {
    return this.#byRank((member) => member?.hello.url ?? '');
  }

  /** Takes an authenticated connection; its first message must be a hello. */
  accept(channel: ControlChannel): void {
    let rank = -1;
    channel.onMessage((text) => {
      try {
        const message = parseMemberMessage(text);
        if (rank < 0) rank = this.#admit(message, channel);
        else this.#handle(rank, message);
      } catch (error) {
        const known = error instanceof ProtocolError ? error : new ProtocolError('ERR_MESSAGE', String(error));
        this.#options.onRefused?.(known);
        send(channel, { type: 'refused', error: encodeError(known) });
        channel.close();
      }
    });
    channel.onClose(() => {
      if (rank >= 0) this.#lose(rank);
    });
    this.#after(HELLO_TIMEOUT_MS, () => {
      if (rank < 0) channel.close();
    });
  }

  /**
   * Asks every rank to do `request` and resolves with their replies, by rank. One call at a time.
   * `start` is told the operation's number, which names its blocks on the data links, before any rank is asked.
   * When `signal` aborts, the ranks drop their links and are ready for the next call.
   */
  async call(request: unknown, { start, signal }: CallOptions = {}): Promise<unknown[]> {
    await this.joined;
    await this.#allReady();
    if (this.#failure) throw this.#failure;
    if (this.#state === 'closed') throw closedError();
    signal?.throwIfAborted();
    const opSeq = ++this.#opSeq;
    const replies = new Promise<unknown[]>((resolve, reject) => {
      const missing = new Set(this.#members.keys());
      this.#call = { opSeq, values: Array.from({ length: this.worldSize }), missing, resolve, reject };
    });
    observed(replies);
    start?.(opSeq);
    this.#broadcast({ type: 'call', opSeq, epoch: this.#epoch, request });
    const abort = (): void => this.#abort(-1, -1, 'the caller aborted the call', false);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await replies;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** The driver reports trouble with a rank's data link; the rank is blamed unless there is better evidence. */
  report(suspect: number, error: Error): void {
    const { worldSize, epoch } = this;
    if (this.#call)
      this.#investigate(worldSize, { type: 'failed', epoch, suspect, step: -1, error: encodeError(error) });
  }

  /** Declares a rank dead on outside evidence (its process has exited). */
  declareLost(rank: number, reason: string): void {
    if (this.#state === 'joining') this.#failJoining(new RingAbortError(rank, -1, reason));
    else if (!this.#members.get(rank)?.left) this.#abort(rank, this.#members.get(rank)?.step ?? -1, reason, true);
  }

  /** Sends everybody home. Idempotent; leaves no timer behind. */
  close(): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#broadcast({ type: 'close' });
    for (const { channel } of this.#members.values()) channel.close();
    const error = closedError();
    this.#settleJoined.reject(error);
    this.#rejectPending(error);
  }

  #admit(message: MemberMessage, channel: ControlChannel): number {
    const { runId, worldSize } = this.#options;
    const agreement = this.#agreement;
    const { hello, rank } = checkHello(message, { runId, worldSize, agreement, taken: this.#members });
    this.#agreement = hello.agreement;
    this.#members.set(rank, { channel, hello, lastHeard: now(), step: -1, epoch: this.#epoch, left: false });
    if (this.#members.size === worldSize) this.#start();
    return rank;
  }

  #start(): void {
    this.#state = 'running';
    const { driverUrl, heartbeatMs, timeoutMs } = this.#options;
    const urls = [...this.urls, driverUrl()];
    const labels = this.labels;
    for (const [rank, member] of this.#members) {
      member.lastHeard = now();
      const { worldSize } = this;
      send(member.channel, {
        type: 'welcome',
        rank,
        worldSize,
        epoch: this.#epoch,
        urls,
        labels,
        heartbeatMs,
        timeoutMs,
      });
    }
    this.#settleJoined.resolve();
  }

  #handle(rank: number, message: MemberMessage): void {
    const member = this.#members.get(rank)!;
    member.lastHeard = now();
    switch (message.type) {
      case 'heartbeat':
        member.step = message.step;
        return;
      case 'reply':
        return this.#takeReply(rank, message.opSeq, message.value);
      case 'gather':
        return this.#takeGather(rank, message.key, message.value);
      case 'failed':
        if (message.epoch === this.#epoch) this.#investigate(rank, message);
        return;
      case 'ready':
        member.epoch = message.epoch;
        if (this.#everyoneReady()) for (const resume of this.#waitingForReady.splice(0)) resume();
        return;
      case 'leave':
        member.left = true;
        if (this.#call || this.#gathers.size > 0)
          this.#abort(rank, member.step, 'the rank left in the middle of a call', true);
        return;
      case 'hello':
        throw refusal('ERR_MESSAGE', `rank ${rank} has already said hello`);
    }
  }

  #takeReply(rank: number, opSeq: number, value: unknown): void {
    const call = this.#call;
    if (!call || call.opSeq !== opSeq || !call.missing.delete(rank)) return;
    call.values[rank] = value;
    if (call.missing.size > 0) return;
    this.#call = undefined;
    call.resolve(call.values);
  }

  #takeGather(rank: number, key: string, value: unknown): void {
    const values = this.#gathers.get(key) ?? new Map<number, unknown>();
    this.#gathers.set(key, values);
    values.set(rank, value);
    const gone = [...this.#members].find(([, member]) => member.left);
    if (gone) return this.#abort(gone[0], gone[1].step, 'the rank has left', true);
    if (values.size < this.worldSize) return;
    this.#gathers.delete(key);
    this.#broadcast({ type: 'gathered', key, values: this.#byRank((_, index) => values.get(index)) });
  }

  /** A rank reports trouble. A dead or silent rank is to blame before the one that the reporter suspects. */
  #investigate(reporter: number, { suspect, step, error, epoch }: Extract<MemberMessage, { type: 'failed' }>): void {
    const report = decodeError(error);
    const isOwnFault = suspect < 0 || suspect === reporter;
    const name = reporter < this.worldSize ? `rank ${reporter}` : 'the driver';
    const decide = (): void => {
      if (this.#epoch !== epoch || this.#state !== 'running') return;
      const silent = this.#silentRank();
      if (silent >= 0)
        return this.#abort(silent, step, `${this.#silence(silent)} (${name} reports: ${report.message})`, true);
      const reason = isOwnFault ? report.message : `${name} reports: ${report.message}`;
      this.#abort(!isOwnFault ? suspect : reporter < this.worldSize ? reporter : -1, step, reason, false);
    };
    // Silence is the evidence that the grace would wait for.
    if (isOwnFault || this.#silentRank() >= 0) decide();
    else this.#after(EVIDENCE_GRACE_MS, decide);
  }

  /** The rank that has been silent longest, if that is more than two heartbeats and a half; else −1. */
  #silentRank(): number {
    let [silent, longest] = [-1, 2.5 * this.#options.heartbeatMs];
    for (const [rank, { lastHeard, left }] of this.#members) {
      if (!left && now() - lastHeard > longest) [silent, longest] = [rank, now() - lastHeard];
    }
    return silent;
  }

  #silence(rank: number): string {
    return `no heartbeat for ${Math.round(now() - this.#members.get(rank)!.lastHeard)} ms`;
  }

  /** Looks once a heartbeat for ranks that have said nothing for a whole step deadline. */
  #watch(): void {
    const { heartbeatMs, timeoutMs } = this.#options;
    this.#after(heartbeatMs, () => {
      const rank = this.#silentRank();
      const isLost = rank >= 0 && now() - this.#members.get(rank)!.lastHeard > timeoutMs;
      if (this.#state === 'running' && isLost)
        this.#abort(rank, this.#members.get(rank)!.step, this.#silence(rank), true);
      this.#watch();
    });
  }

  #lose(rank: number): void {
    const member = this.#members.get(rank)!;
    if (this.#state === 'closed' || member.left) return;
    const reason = 'its control connection closed (the process ended or the network failed)';
    if (this.#state === 'joining') {
      this.#members.delete(rank);
      this.#failJoining(new RingAbortError(rank, -1, reason));
    } else this.#abort(rank, member.step, reason, true);
  }

  #abort(rootCauseRank: number, step: number, reason: string, lost: boolean): void {
    if (this.#state !== 'running') return;
    // A rank that dies says no step; the others stand within one of it.
    const knownStep = step >= 0 ? step : Math.max(...[...this.#members.values()].map((member) => member.step));
    const error = new RingAbortError(rootCauseRank, knownStep, reason);
    this.#epoch++;
    if (lost) {
      this.#state = 'failed';
      this.#failure = error;
    }
    this.#broadcast({ type: 'abort', epoch: this.#epoch, rootCauseRank, step: knownStep, reason });
    this.#rejectPending(error);
    this.#options.onAbort?.(error, this.#epoch, lost);
  }

  #rejectPending(error: Error): void {
    this.#gathers.clear();
    const call = this.#call;
    this.#call = undefined;
    call?.reject(error);
    for (const resume of this.#waitingForReady.splice(0)) resume();
  }

  #endJoining(): void {
    if (this.#state !== 'joining') return;
    const missing = this.#byRank((member, rank) => (member ? -1 : rank)).filter((rank) => rank >= 0);
    this.#failJoining(
      new TransportError(
        'ERR_TIMEOUT',
        `rendezvous: ${this.worldSize} ranks must join within ${this.#options.joinTimeoutMs} ms, missing ranks: ${missing.join(', ')}`,
      ),
    );
  }

  #failJoining(error: Error): void {
    this.#state = 'failed';
    this.#failure = error;
    for (const { channel } of this.#members.values()) {
      send(channel, { type: 'refused', error: encodeError(error) });
      channel.close();
    }
    this.#settleJoined.reject(error);
  }

  #everyoneReady(): boolean {
    return [...this.#members.values()].every(({ epoch }) => epoch === this.#epoch);
  }

  async #allReady(): Promise<void> {
    while (!this.#failure && !this.#everyoneReady()) {
      await new Promise<void>((resume) => this.#waitingForReady.push(resume));
    }
  }

  #broadcast(message: CoordinatorMessage): void {
    for (const { channel } of this.#members.values()) send(channel, message);
  }

  #byRank<T>(pick: (member: MemberRecord | undefined, rank: number) => T): T[] {
    return Array.from({ length: this.worldSize }, (_, rank) => pick(this.#members.get(rank), rank));
  }

  #after(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    timer.unref?.();
    this.#timers.add(timer);
  }
}

function send(channel: ControlChannel, message: CoordinatorMessage): void {
  channel.send(JSON.stringify(message));
}

function closedError(): TransportError {
  return new TransportError('ERR_PEER_LOST', 'the coordinator was closed');
}

function now(): number {
  return performance.now();
}

// The control protocol, over in-memory channels: who is let in and who is refused, and with which code; calls and
// gathers; who is blamed when a rank dies, falls silent or reports trouble; what happens to what was under way.
import { expect } from 'chai';
import { type ControlChannel, createChannelPair } from '../../src/cluster/control-channel.ts';
import { Coordinator, type CoordinatorOptions } from '../../src/cluster/coordinator.ts';
import { Member, type MemberEvents } from '../../src/cluster/member.ts';
import { parseCoordinatorMessage, parseMemberMessage } from '../../src/cluster/messages.ts';
import { type ErrorCode, ProtocolError, RingAbortError, TransportError } from '../../src/errors.ts';

interface Run {
  coordinator: Coordinator;
  members: Member[];
  channels: ControlChannel[];
  aborts: { error: RingAbortError; epoch: number; lost: boolean }[];
}

const HELLO = { runId: 'run', worldSize: 2, agreement: 'a', url: 'ws://x', label: 'adapter' };

async function startRun(
  worldSize: number,
  options: Partial<CoordinatorOptions> = {},
  events: MemberEvents = {},
): Promise<Run> {
  const aborts: Run['aborts'] = [];
  const onAbort: CoordinatorOptions['onAbort'] = (error, epoch, lost) => aborts.push({ error, epoch, lost });
  const coordinator = new Coordinator({ worldSize, runId: 'run', onAbort, ...options });
  const channels: ControlChannel[] = [];
  const joining = Array.from({ length: worldSize }, (_, rank) => {
    const [far, near] = createChannelPair();
    coordinator.accept(far);
    channels.push(near);
    return Member.join(near, { ...HELLO, worldSize, rank }, events);
  });
  return { coordinator, members: await Promise.all(joining), channels, aborts };
}

async function failureOf(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => expect.fail('expected a rejection'),
    (error: Error) => error,
  );
}

async function expectRefusal(hello: Partial<Parameters<typeof Member.join>[1]>, code: ErrorCode): Promise<void> {
  const coordinator = new Coordinator({ worldSize: 2, runId: 'run' });
  const [firstFar, first] = createChannelPair();
  coordinator.accept(firstFar);
  Member.join(first, { ...HELLO, rank: 0 }).catch(() => undefined);
  const [far, near] = createChannelPair();
  coordinator.accept(far);
  const error = await failureOf(Member.join(near, { ...HELLO, rank: 1, ...hello }));
  expect(error).to.be.instanceOf(ProtocolError);
  expect((error as ProtocolError).code).to.equal(code);
  coordinator.close();
}

describe('Coordinator and Member', () => {
  it('lets every rank in and tells each its number, the epoch and the urls', async () => {
    const { coordinator, members } = await startRun(3, { driverUrl: () => 'ws://driver' });
    expect(members.map(({ rank }) => rank)).to.deep.equal([0, 1, 2]);
    expect(members[2].welcome.urls).to.deep.equal(['ws://x', 'ws://x', 'ws://x', 'ws://driver']);
    expect(members[0].epoch).to.equal(coordinator.epoch);
    coordinator.close();
  });

  it('gives the lowest free number to a rank that asks for any', async () => {
    const coordinator = new Coordinator({ worldSize: 2, runId: 'run' });
    const joins = [1, -1].map((rank) => {
      const [far, near] = createChannelPair();
      coordinator.accept(far);
      return Member.join(near, { ...HELLO, rank });
    });
    expect((await Promise.all(joins)).map(({ rank }) => rank)).to.deep.equal([1, 0]);
    coordinator.close();
  });

  it('refuses another run, world size, agreement, a taken and an impossible rank, each with its code', async () => {
    await expectRefusal({ runId: 'other' }, 'ERR_RUN_ID');
    await expectRefusal({ worldSize: 3 }, 'ERR_WORLD_SIZE');
    await expectRefusal({ agreement: 'b' }, 'ERR_AGREEMENT');
    await expectRefusal({ rank: 0 }, 'ERR_RANK');
    await expectRefusal({ rank: 2 }, 'ERR_RANK');
  });

  it('refuses a client that does not begin with hello, or speaks another protocol', async () => {
    for (const text of [
      '{"type":"heartbeat","step":0}',
      'garbage',
      '[]',
      '{"type":"nonsense"}',
      '{"type":"leave","more":1}',
    ]) {
      const coordinator = new Coordinator({ worldSize: 1, runId: 'run' });
      const [far, near] = createChannelPair();
      coordinator.accept(far);
      const reply = new Promise<string>((resolve) => near.onMessage(resolve));
      near.send(text);
      const message = parseCoordinatorMessage(await reply);
      expect(message.type === 'refused' && message.error.code, text).to.equal('ERR_MESSAGE');
      coordinator.close();
    }
    const hello = { type: 'hello', protocol: 99, ...HELLO, rank: 0 };
    const coordinator = new Coordinator({ worldSize: 1, runId: 'run' });
    const [far, near] = createChannelPair();
    coordinator.accept(far);
    const reply = new Promise<string>((resolve) => near.onMessage(resolve));
    near.send(JSON.stringify(hello));
    const message = parseCoordinatorMessage(await reply);
    expect(message.type === 'refused' && message.error.code).to.equal('ERR_VERSION');
    coordinator.close();
  });

  it('refuses messages whose fields are missing, of another type, or not whole numbers', () => {
    for (const text of [
      '{"type":"ready"}',
      '{"type":"ready","epoch":"1"}',
      '{"type":"ready","epoch":1.5}',
      '{"type":"failed","epoch":1,"suspect":0,"step":0,"error":null}',
    ]) {
      expect(() => parseMemberMessage(text), text).to.throw(ProtocolError);
    }
    expect(parseMemberMessage('{"type":"ready","epoch":2}')).to.deep.equal({ type: 'ready', epoch: 2 });
  });

  it('says which ranks are missing when they do not come in time', async () => {
    const coordinator = new Coordinator({ worldSize: 3, runId: 'run', joinTimeoutMs: 30 });
    const [far, near] = createChannelPair();
    coordinator.accept(far);
    const join = Member.join(near, { ...HELLO, worldSize: 3, rank: 1 });
    const error = await failureOf(coordinator.joined);
    expect(error.message).to.match(/missing ranks: 0, 2/);
    expect((await failureOf(join)).message).to.match(/missing ranks: 0, 2/);
    coordinator.close();
  });

  it('carries calls to every rank and their replies back in rank order', async () => {
    const { coordinator } = await startRun(3, {}, { onCall: async (request, opSeq) => [request, opSeq] });
    expect(await coordinator.call('x')).to.deep.equal([
      ['x', 1],
      ['x', 1],
      ['x', 1],
    ]);
    expect(await coordinator.call('y')).to.deep.equal([
      ['y', 2],
      ['y', 2],
      ['y', 2],
    ]);
    coordinator.close();
  });

  it('gathers a value of every rank on every rank', async () => {
    const { coordinator, members } = await startRun(3);
    const gathered = await Promise.all(members.map((member) => member.gather('k', member.rank * 10)));
    expect(gathered).to.deep.equal([
      [0, 10, 20],
      [0, 10, 20],
      [0, 10, 20],
    ]);
    coordinator.close();
  });

  it('blames a rank whose channel closes, everywhere, and calls it lost', async () => {
    const never = new Promise<never>(() => undefined);
    const { coordinator, members, channels, aborts } = await startRun(3, {}, { onCall: () => never });
    const call = failureOf(coordinator.call('x'));
    const gather = failureOf(members[0].gather('k', 0));
    await Promise.resolve();
    channels[1].close();
    for (const error of [await call, await gather]) {
      expect(error).to.be.instanceOf(RingAbortError);
      expect((error as RingAbortError).rootCauseRank).to.equal(1);
    }
    expect(aborts.map(({ lost }) => lost)).to.deep.equal([true]);
    expect(await failureOf(coordinator.call('y'))).to.equal(aborts[0].error);
    coordinator.close();
  });

  it('names the step that the ranks were in when one of them died', async () => {
    const never = new Promise<never>(() => undefined);
    const { coordinator, members, channels } = await startRun(3, {}, { onCall: () => never });
    const call = failureOf(coordinator.call('x'));
    members[0].step = 2;
    await new Promise((resolve) => setTimeout(resolve, 5));
    channels[1].close();
    expect(((await call) as RingAbortError).step).to.equal(2);
    coordinator.close();
  });

  it('lets nobody call once it is closed', async () => {
    const { coordinator } = await startRun(2, {}, { onCall: async () => 0 });
    coordinator.close();
    expect(await failureOf(coordinator.call('x'))).to.be.instanceOf(TransportError);
  });

  it('blames the rank that a report suspects, and goes on in a new epoch when that rank still lives', async () => {
    const calls: (() => void)[] = [];
    const { coordinator, members, aborts } = await startRun(
      3,
      {},
      {
        onCall: (request) =>
          request === 'hang' ? new Promise((resolve) => calls.push(() => resolve(0))) : Promise.resolve(request),
      },
    );
    const call = failureOf(coordinator.call('hang'));
    await Promise.resolve();
    const { signal } = members[0];
    const error = new TransportError('ERR_PEER_LOST', 'link lost', { rank: 0, peerRank: 2 });
    const reported = await members[0].reportFailure(error, signal);
    expect((reported as RingAbortError).rootCauseRank).to.equal(2);
    expect(((await call) as RingAbortError).reason).to.match(/rank 0 reports: link lost/);
    expect(aborts[0].lost).to.equal(false);
    expect(await coordinator.call('again')).to.deep.equal(['again', 'again', 'again']);
    expect(members.map(({ epoch }) => epoch)).to.deep.equal([2, 2, 2]);
    expect(signal.aborted && !members[0].signal.aborted).to.equal(true);
    coordinator.close();
  });

  it('blames a rank for its own error', async () => {
    const { coordinator } = await startRun(
      2,
      {},
      {
        onCall: async (_request) => {
          throw new Error('out of memory');
        },
      },
    );
    const error = (await failureOf(coordinator.call('x'))) as RingAbortError;
    expect(error.reason).to.equal('out of memory');
    expect(error.rootCauseRank).to.be.oneOf([0, 1]);
    coordinator.close();
  });

  it('blames the silent rank rather than the one that a neighbour suspects', async () => {
    const coordinator = new Coordinator({ worldSize: 3, runId: 'run', heartbeatMs: 20, timeoutMs: 10_000 });
    const members: Member[] = [];
    const joins = [0, 1].map((rank) => {
      const [far, near] = createChannelPair();
      coordinator.accept(far);
      return Member.join(near, { ...HELLO, worldSize: 3, rank });
    });
    // Rank 2 joins by hand and never says another word, as a stopped process would.
    const [far, near] = createChannelPair();
    coordinator.accept(far);
    near.send(JSON.stringify({ type: 'hello', protocol: 1, ...HELLO, worldSize: 3, rank: 2 }));
    members.push(...(await Promise.all(joins)));
    await new Promise((resolve) => setTimeout(resolve, 100));
    const error = new TransportError('ERR_TIMEOUT', 'nothing came', { rank: 0, peerRank: 1 });
    const reported = await members[0].reportFailure(error, members[0].signal);
    expect((reported as RingAbortError).rootCauseRank).to.equal(2);
    coordinator.close();
  });

  it('notices by itself a rank that is silent for the whole deadline', async () => {
    const aborted = new Promise<RingAbortError>((resolve) => {
      const coordinator = new Coordinator({
        worldSize: 1,
        runId: 'run',
        heartbeatMs: 10,
        timeoutMs: 50,
        onAbort: (error) => {
          coordinator.close();
          resolve(error);
        },
      });
      const [far, near] = createChannelPair();
      coordinator.accept(far);
      near.send(JSON.stringify({ type: 'hello', protocol: 1, ...HELLO, worldSize: 1, rank: 0 }));
    });
    expect((await aborted).rootCauseRank).to.equal(0);
  });

  it('aborts a call for the caller, and stays usable', async () => {
    let isHanging = true;
    const { coordinator } = await startRun(
      2,
      {},
      {
        onCall: () => (isHanging ? new Promise<never>(() => undefined) : Promise.resolve('done')),
      },
    );
    const controller = new AbortController();
    const call = failureOf(coordinator.call('x', { signal: controller.signal }));
    await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort();
    const error = (await call) as RingAbortError;
    expect([error.rootCauseRank, error.reason]).to.deep.equal([-1, 'the caller aborted the call']);
    isHanging = false;
    expect(await coordinator.call('y')).to.deep.equal(['done', 'done']);
    coordinator.close();
  });

  it('lets a rank that says goodbye go without an alarm, and blames it for what then cannot complete', async () => {
    const { coordinator, members, aborts } = await startRun(2);
    members[1].leave();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(aborts).to.deep.equal([]);
    const error = (await failureOf(members[0].gather('k', 1))) as RingAbortError;
    expect(error.rootCauseRank).to.equal(1);
    coordinator.close();
  });

  it('ends members when it closes; closing twice does nothing', async () => {
    let ended = 0;
    const { coordinator, members } = await startRun(2, {}, { onEnd: () => ended++ });
    coordinator.close();
    coordinator.close();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(ended).to.equal(2);
    expect((await failureOf(members[0].gather('k', 1))).message).to.match(/coordinator closed/);
  });
});

// Transports over real sockets: the transport suite, the faults of a network, peers that lie, and the link of a browser.
import { expect } from 'chai';
import type { WebSocket } from 'ws';
import { observed } from '../../src/errors.ts';
import type { ProtocolError, TransportError } from '../../src/errors.ts';
import { dialWebSocket } from '../../src/node/websocket-client.ts';
import { encodeHeader, HEADER_BYTES } from '../../src/transport/frame.ts';
import type { FrameHeader } from '../../src/transport/frame.ts';
import type { Link } from '../../src/transport/link.ts';
import type { BlockDescriptor, TransferOptions, Transport } from '../../src/transport/transport.ts';
import { webSocketLink } from '../../src/transport/websocket.ts';
import type { WebSocketLike } from '../../src/transport/websocket.ts';
import { startFaultProxy } from '../helpers/fault-proxy.ts';
import type { FaultProxy, Faults } from '../helpers/fault-proxy.ts';
import { startFaultProxyProcess } from '../helpers/fault-proxy-process.ts';
import {
  blockOf,
  delay,
  expectCode,
  expectDelivery,
  patternBytes,
  receiveBlock,
  rejectionOf,
  sendBlock,
} from '../helpers/transport-blocks.ts';
import { makeSocketNetwork, TEST_RUN_HASH, TEST_TOKEN } from '../helpers/transport-network.ts';
import type { NetworkOptions, SocketNetwork } from '../helpers/transport-network.ts';
import { transportConformance } from './conformance.ts';

const CHUNK = 256 * 1024;
const HELLO: FrameHeader = {
  type: 'hello',
  checksum: false,
  epoch: 0,
  runHash: TEST_RUN_HASH,
  srcRank: 1,
  dstRank: 0,
  worldSize: 2,
  block: { opSeq: 0, step: 0, tensor: 0, byteLength: CHUNK, shapeHash: 0 },
  byteOffset: 0,
};

transportConformance('WebSockets', makeSocketNetwork);

describe('transport over WebSockets on a bad network', () => {
  let network: SocketNetwork;
  let proxy: FaultProxy | undefined;

  /** Two ranks; what rank 1 receives from rank 0 goes through a proxy. */
  const open = async (faults: Partial<Faults>, options: NetworkOptions = {}, start = startFaultProxy) => {
    network = await makeSocketNetwork(2, { chunkBytes: CHUNK, ...options }, (rank, url) =>
      rank === 0 && proxy !== undefined ? `ws://127.0.0.1:${proxy.port}` : url,
    );
    proxy = await start(network.servers[0].port, faults);
    return network.transports;
  };
  afterEach(async () => {
    await network.close();
    await proxy?.close();
    proxy = undefined;
  });

  it('delivers through a late and slow network, without buffering what it cannot send', async () => {
    const [a, b] = await open({ latencyMs: 2, bytesPerSecond: 40e6 });
    const block = blockOf(64 * CHUNK);
    const received = receiveBlock(b, 0, block);
    const writer = a.send(1, block);
    let through = 0;
    const bytes = patternBytes(block.byteLength);
    for (let i = 0; i < 64; i++) {
      void writer.write(bytes.subarray(i * CHUNK, (i + 1) * CHUNK)).then(() => through++);
    }
    await delay(60);
    // What the kernel of either end buffers is beyond us, and about 10 MB on Linux.
    expect(through, 'chunks of 16 MiB that left in 60 ms at 40 MB/s').to.be.lessThan(60);
    expect(Buffer.compare(await received, bytes)).to.equal(0);
  });

  it('rejects with ERR_CHECKSUM on both ends when a byte of a payload changes on the way', async () => {
    const [a, b] = await open({ corruptByteAt: 100_000 }, { checksum: true });
    const block = blockOf(64 * CHUNK);
    const sent = observed(sendBlock(a, 1, block, patternBytes(block.byteLength)));
    const errors = await Promise.all([
      expectCode(receiveBlock(b, 0, block), 'ERR_CHECKSUM'),
      expectCode(sent, 'ERR_CHECKSUM'),
    ]);
    expect(errors.map((error) => (error as ProtocolError).peerRank)).to.deep.equal([0, 1]);
  });

  it('rejects with a ProtocolError when a byte of a header changes, even with the checksum off', async () => {
    const [a, b] = await open({});
    await expectDelivery(a, b, blockOf(10));
    const firstFrameAt = HANDSHAKE_ANSWER.length + 2;
    for (const at of [0, 3, 20, 40, 60]) {
      await network.close();
      await proxy?.close();
      const [c, d] = await open({ corruptByteAt: firstFrameAt + at });
      void observed(sendBlock(c, 1, blockOf(10), patternBytes(10)));
      const error = await rejectionOf(receiveBlock(d, 0, blockOf(10)));
      expect(error.name, `byte ${at}: ${error.message}`).to.equal('ProtocolError');
    }
  });

  /** Starts a receive; `started` resolves with its first chunk. */
  const startReceive = (transport: Transport, block: BlockDescriptor, options: TransferOptions = {}) => {
    let received: Promise<void> | undefined;
    const started = new Promise<void>((resolve) => {
      received = transport.receive(0, block, () => resolve(), options);
    });
    return { received: received ?? started, started };
  };

  it('rejects with ERR_PEER_LOST on both ends when the connection is reset', async () => {
    const [a, b] = await open({ bytesPerSecond: 40e6 });
    const block = blockOf(64 * CHUNK);
    const { received, started } = startReceive(b, block);
    const sent = observed(sendBlock(a, 1, block, patternBytes(block.byteLength)));
    await started;
    proxy?.reset();
    const [error] = await Promise.all([expectCode(received, 'ERR_PEER_LOST'), expectCode(sent, 'ERR_PEER_LOST')]);
    expect(error).to.include({ rank: 1, peerRank: 0 });
  });

  it('rejects with ERR_TIMEOUT on both ends when the network falls silent in the middle of a block', async () => {
    const [a, b] = await open({ bytesPerSecond: 8e6 });
    const block = blockOf(128 * CHUNK);
    const { received, started } = startReceive(b, block, { timeoutMs: 1000 });
    const writer = a.send(1, block, { timeoutMs: 1000 });
    for (let i = 0; i < 128; i++) void writer.write(new Uint8Array(CHUNK));
    await started;
    proxy?.set({ isStalled: true });
    const stalled = performance.now();
    const [error] = await Promise.all([expectCode(received, 'ERR_TIMEOUT'), expectCode(writer.done, 'ERR_TIMEOUT')]);
    expect(performance.now() - stalled).to.be.within(500, 5000);
    expect((error as TransportError).peerRank).to.equal(0);
    expect(error.message).to.match(/done=[1-9]\d* of 33554432 bytes/);
  });

  it('does not mistake a busy process for a silent peer', async () => {
    const [a, b] = await open({}, {}, startFaultProxyProcess);
    const block = blockOf(4 * CHUNK);
    const received = receiveBlock(b, 0, block, { timeoutMs: 200 });
    const sent = observed(sendBlock(a, 1, block, patternBytes(block.byteLength)));
    await delay(5);
    for (let round = 0; round < 3; round++) {
      const until = performance.now() + 300;
      while (performance.now() < until);
      await delay(0);
    }
    await Promise.all([received, sent]);
  });

  it('rejects with ERR_CONNECT when nobody listens', async () => {
    const [, b] = await open({});
    await network.servers[0].close();
    await proxy?.close();
    const error = await expectCode(receiveBlock(b, 0, blockOf(1)), 'ERR_CONNECT');
    expect(error).to.include({ name: 'TransportError' });
  });
});

/** What the server answers to the handshake, which comes before the first WebSocket frame; the hash is any other. */
const HANDSHAKE_ANSWER = [
  'HTTP/1.1 101 Switching Protocols',
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=',
  'Sec-WebSocket-Protocol: kvring.1',
  '\r\n',
].join('\r\n');

describe('transport over WebSockets with a bad peer', () => {
  let network: SocketNetwork;
  const open = async (options: NetworkOptions = {}) => {
    network = await makeSocketNetwork(2, { chunkBytes: CHUNK, ...options });
    return network.transports;
  };
  const dial = async (): Promise<Link> =>
    webSocketLink(await dialWebSocket(network.servers[0].url, { token: TEST_TOKEN, path: '/edge' }));
  /** What the other side says before it closes. */
  const lastWords = (link: Link): Promise<string> =>
    new Promise((resolve) => {
      let text = '';
      link.onFrame((pieces) => (text = Buffer.concat(pieces).subarray(HEADER_BYTES).toString()));
      link.onClose(() => resolve(text));
    });
  afterEach(() => network.close());

  it('goes on serving others when a client sends garbage', async () => {
    const [a, b] = await open();
    await expectDelivery(a, b, blockOf(CHUNK));
    const link = await dial();
    const closed = lastWords(link);
    void link.send(patternBytes(1000)).catch(() => undefined);
    expect(await closed, 'a stranger is told nothing').to.equal('');
    await expectDelivery(a, b, blockOf(CHUNK, { step: 1 }));
  });

  it('drops a client that says nothing, after helloTimeoutMs', async () => {
    await open({ helloTimeoutMs: 50 });
    expect(await lastWords(await dial())).to.equal('');
  });

  const refusals: [string, Partial<FrameHeader>, string][] = [
    ['another run', { runHash: 1 }, 'ERR_RUN_ID'],
    ['another number of ranks', { worldSize: 3 }, 'ERR_WORLD_SIZE'],
    ['a rank that does not exist', { srcRank: 9 }, 'ERR_RANK'],
    ['the rank of the server itself', { srcRank: 0 }, 'ERR_RANK'],
    ['a receiver that takes no bytes', { block: blockOf(0) }, 'ERR_FRAME'],
    ['a destination that is somebody else', { dstRank: 1 }, 'ERR_RANK'],
  ];
  for (const [what, change, code] of refusals) {
    it(`refuses a HELLO of ${what} with ${code}, and says so`, async () => {
      await open();
      const link = await dial();
      const words = lastWords(link);
      await link.send(encodeHeader({ ...HELLO, ...change }));
      expect(JSON.parse(await words)).to.include({ name: 'ProtocolError', code });
    });
  }

  it('refuses a second link of a rank with ERR_RANK and keeps the first', async () => {
    const [a, b] = await open();
    await expectDelivery(a, b, blockOf(CHUNK));
    const link = await dial();
    const words = lastWords(link);
    await link.send(encodeHeader(HELLO));
    expect(JSON.parse(await words)).to.include({ code: 'ERR_RANK' });
    await expectDelivery(a, b, blockOf(CHUNK, { step: 1 }));
  });

  it('ends the edge of a peer that says HELLO twice, with ERR_FRAME', async () => {
    const [a] = await open();
    const link = await dial();
    await link.send(encodeHeader(HELLO));
    const words = lastWords(link);
    const writer = a.send(1, blockOf(1));
    await link.send(encodeHeader(HELLO));
    await expectCode(writer.done, 'ERR_FRAME');
    expect(JSON.parse(await words)).to.include({ code: 'ERR_FRAME' });
  });

  it('ends the edge of a peer that grants without end, with ERR_FRAME', async () => {
    await open();
    const link = await dial();
    const words = lastWords(link);
    await link.send(encodeHeader(HELLO));
    const credit = encodeHeader({ ...HELLO, type: 'credit', block: blockOf(1) });
    for (let i = 0; i <= 4096; i++) void link.send(credit).catch(() => undefined);
    expect(JSON.parse(await words)).to.include({ code: 'ERR_FRAME' });
  });

  it('ends the link of a client whose message is larger than a frame can be', async () => {
    const [a, b] = await open();
    const link = await dial();
    const words = lastWords(link);
    void link.send(new Uint8Array(8 * 1024 * 1024)).catch(() => undefined);
    expect(await words).to.equal('');
    await expectDelivery(a, b, blockOf(CHUNK));
  });
});

describe('link over a WHATWG WebSocket', () => {
  it('carries messages whole and waits while too much is buffered', async () => {
    const network = await makeSocketNetwork(2, { chunkBytes: CHUNK });
    const socket = await dialWebSocket(network.servers[0].url, { token: TEST_TOKEN, path: '/edge' });
    const link = webSocketLink(whatwgOnly(socket));
    const pieces: number[] = [];
    const closed = new Promise<void>((resolve) => link.onClose(() => resolve()));
    const delivered = new Promise<Uint8Array>((resolve) => {
      const bytes = new Uint8Array(3 * CHUNK);
      link.onFrame(([message]) => {
        bytes.set(message.subarray(HEADER_BYTES), pieces.length * CHUNK);
        if (pieces.push(message.length) === 3) resolve(bytes);
      });
    });
    await link.send(encodeHeader(HELLO));
    await link.send(encodeHeader({ ...HELLO, type: 'credit', block: blockOf(3 * CHUNK) }));
    await sendBlock(network.transports[0], 1, blockOf(3 * CHUNK), patternBytes(3 * CHUNK));
    expect(Buffer.compare(await delivered, patternBytes(3 * CHUNK))).to.equal(0);
    expect(pieces).to.deep.equal([1, 2, 3].map(() => CHUNK + HEADER_BYTES));
    link.close();
    await closed;
    await expectCode(link.send(encodeHeader(HELLO)), 'ERR_PEER_LOST');
    await network.close();
  });
});

/** The WebSocket with nothing but what a browser's has. */
function whatwgOnly(socket: WebSocket): WebSocketLike {
  return {
    get binaryType() {
      return socket.binaryType;
    },
    set binaryType(type: string) {
      socket.binaryType = type as 'arraybuffer';
    },
    get readyState() {
      return socket.readyState;
    },
    get bufferedAmount() {
      return socket.bufferedAmount;
    },
    send: (data) => socket.send(data),
    close: (code, reason) => socket.close(code, reason),
    addEventListener: socket.addEventListener.bind<WebSocketLike['addEventListener']>(socket),
  };
}

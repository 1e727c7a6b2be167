// The gate of the listening side: token, origin, path, protocol, where it may listen, and what a refused client is told.
import { expect } from 'chai';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { WebSocket } from 'ws';
import { dialWebSocket } from '../../src/node/websocket-client.ts';
import { SUBPROTOCOL, TOKEN_PREFIX, encodeToken } from '../../src/node/websocket-protocol.ts';
import { isLoopback, listen } from '../../src/node/websocket-server.ts';
import type { ListenOptions, Listener } from '../../src/node/websocket-server.ts';
import { TEST_CERTIFICATE, TEST_KEY } from '../helpers/transport-certificate.ts';
import { delay, expectCode, rejectionOf } from '../helpers/transport-blocks.ts';

const TOKEN = 'a token, with spaces & ünïcode';

/** A client that has opened a WebSocket and may now send any bytes. */
async function upgradeByHand(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  const request = [
    'GET /edge HTTP/1.1',
    'Host: 127.0.0.1',
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    `Sec-WebSocket-Protocol: ${SUBPROTOCOL}, ${TOKEN_PREFIX}${encodeToken(TOKEN)}`,
  ];
  socket.write(`${request.join('\r\n')}\r\n\r\n`);
  const answer = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
  expect(answer.toString()).to.match(/^HTTP\/1\.1 101 /);
  return socket;
}

describe('WebSocket server', () => {
  let server: Listener;
  let admitted: WebSocket[];
  const open = async (options: Partial<ListenOptions> = {}): Promise<void> => {
    admitted = [];
    server = await listen({ token: TOKEN, routes: { '/edge': (socket) => admitted.push(socket) }, ...options });
  };
  afterEach(() => server.close());

  /** The status with which a handshake is refused, or 101. */
  const statusOf = (path: string, protocols: string[], headers: Record<string, string> = {}): Promise<number> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(server.url + path, protocols, { headers });
      socket.on('error', reject);
      socket.on('open', () => {
        resolve(101);
        socket.terminate();
      });
      socket.on('unexpected-response', (_request, response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
    });
  const good = [SUBPROTOCOL, TOKEN_PREFIX + encodeToken(TOKEN)];

  it('admits a client that has the token, and does not echo it', async () => {
    await open();
    const socket = await dialWebSocket(server.url, { token: TOKEN, path: '/edge' });
    expect(socket.protocol).to.equal('kvring.1');
    expect(socket.extensions, 'no compression').to.equal('');
    socket.terminate();
  });

  const tokens: [string, string[]][] = [
    ['none', [SUBPROTOCOL]],
    ['an empty one', [SUBPROTOCOL, TOKEN_PREFIX]],
    ['another', [SUBPROTOCOL, TOKEN_PREFIX + encodeToken('another')]],
    ['a prefix of it', [SUBPROTOCOL, TOKEN_PREFIX + encodeToken(TOKEN.slice(0, -1))]],
    ['one that goes on', [SUBPROTOCOL, TOKEN_PREFIX + encodeToken(`${TOKEN}!`)]],
    ['a wrong one before the right one', [SUBPROTOCOL, `${TOKEN_PREFIX}AAAA`, TOKEN_PREFIX + encodeToken(TOKEN)]],
  ];
  for (const [what, protocols] of tokens) {
    it(`answers 401 to a token that is ${what}`, async () => {
      await open();
      expect(await statusOf('/edge', protocols)).to.equal(401);
      expect(admitted).to.have.length(0);
    });
  }

  it('does not take the token from the URL', async () => {
    await open();
    expect(await statusOf(`/edge?token=${encodeToken(TOKEN)}`, [SUBPROTOCOL])).to.equal(401);
  });

  it('answers 404 to paths that have no route, whatever an object inherits', async () => {
    await open();
    for (const path of ['/', '/edge/', '/EDGE', '/constructor', '/__proto__', '/toString']) {
      expect(await statusOf(path, good), path).to.equal(404);
    }
    expect(await statusOf('/edge?x=1', good)).to.equal(101);
  });

  it('answers 400 to a client that speaks another version', async () => {
    await open();
    expect(await statusOf('/edge', ['kvring.2', good[1]])).to.equal(400);
  });

  it('answers 403 to an origin that is not allowed, whole strings compared', async () => {
    await open({ allowedOrigins: ['https://example.org'] });
    const own = server.url.replace('ws:', 'http:');
    for (const origin of ['https://example.org', own]) {
      expect(await statusOf('/edge', good, { origin }), origin).to.equal(101);
    }
    for (const origin of ['http://example.org', 'https://example.org.evil.com', 'null', '', `${own}0`]) {
      expect(await statusOf('/edge', good, { origin }), origin).to.equal(403);
    }
  });

  it('serves HTTP beside, 404 unless somebody answers', async () => {
    await open();
    const url = server.url.replace('ws:', 'http:');
    expect((await fetch(url)).status).to.equal(404);
    await server.close();
    await open({ onRequest: (_request, response) => void response.end('hello') });
    expect(await (await fetch(server.url.replace('ws:', 'http:'))).text()).to.equal('hello');
  });

  it('speaks TLS, and a client trusts it only by its certificate', async () => {
    await open({ tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } });
    expect(server.url).to.match(/^wss:/);
    const socket = await dialWebSocket(server.url, { token: TOKEN, path: '/edge', ca: TEST_CERTIFICATE });
    socket.terminate();
    const error = await expectCode(dialWebSocket(server.url, { token: TOKEN, path: '/edge' }), 'ERR_CONNECT');
    expect(error.message).to.match(/self.signed/);
  });

  it('goes on when clients send garbage or go away', async () => {
    await open();
    const garbage = await upgradeByHand(server.port);
    garbage.write(Buffer.from('ffffffffffffffff', 'hex'));
    await new Promise((resolve) => garbage.on('close', resolve));
    (await upgradeByHand(server.port)).resetAndDestroy();
    await delay(10);
    expect(await statusOf('/edge', good)).to.equal(101);
  });

  it('closes twice, with clients connected, and frees the port', async () => {
    await open();
    const socket = await dialWebSocket(server.url, { token: TOKEN, path: '/edge' });
    const closed = new Promise((resolve) => socket.on('close', resolve));
    await Promise.all([server.close(), server.close(), closed]);
    const { port } = server;
    await open({ port });
    expect(server.port).to.equal(port);
  });
});

describe('listen', () => {
  const routes = {};

  it('refuses clear text on an address that others can reach with ERR_OPTION, and names the remedies', async () => {
    for (const host of ['0.0.0.0', '::', '192.168.1.5', 'example.org', '127.0.0.1.example.org']) {
      const error = await expectCode(listen({ host, token: TOKEN, routes }), 'ERR_OPTION');
      expect(error.message).to.contain(`host=${host}`).and.contain('tls').and.contain('--insecure');
    }
  });

  it('listens there when it is told to', async () => {
    const server = await listen({ host: '0.0.0.0', insecure: true, token: TOKEN, routes });
    expect(server.url).to.match(/^ws:\/\/0\.0\.0\.0:\d+$/);
    await server.close();
  });

  it('knows which addresses are loopback', () => {
    for (const host of ['127.0.0.1', '127.8.9.10', 'localhost', '::1', '[::1]'])
      expect(isLoopback(host), host).to.equal(true);
    for (const host of ['0.0.0.0', '::', '10.0.0.1', 'localhost.evil.com', '128.0.0.1']) {
      expect(isLoopback(host), host).to.equal(false);
    }
  });

  it('refuses an empty token', async () => {
    await expectCode(listen({ token: '', routes }), 'ERR_OPTION');
  });

  it('rejects with ERR_CONNECT when the port is taken', async () => {
    const server = await listen({ token: TOKEN, routes });
    await expectCode(listen({ port: server.port, token: TOKEN, routes }), 'ERR_CONNECT');
    await server.close();
  });
});

describe('dialWebSocket', () => {
  let server: Listener;
  before(async () => void (server = await listen({ token: TOKEN, routes: { '/edge': () => undefined } })));
  after(() => server.close());

  it('says ERR_TOKEN, and does not quote the token', async () => {
    const error = await expectCode(dialWebSocket(server.url, { token: 'wrong', path: '/edge' }), 'ERR_TOKEN');
    expect(error.name).to.equal('ProtocolError');
    expect(error.message).to.not.contain('wrong').and.not.contain(encodeToken('wrong'));
  });

  it('says ERR_CONNECT for a path that is not there, a port that is closed, a name that does not exist', async () => {
    await expectCode(dialWebSocket(server.url, { token: TOKEN, path: '/nothing' }), 'ERR_CONNECT');
    await expectCode(dialWebSocket('ws://127.0.0.1:1/edge', { token: TOKEN }), 'ERR_CONNECT');
    await expectCode(dialWebSocket('ws://no-such-host.invalid/edge', { token: TOKEN }), 'ERR_CONNECT');
  });

  describe('to a server that never answers', () => {
    const silent = createServer(() => undefined);
    let url: string;
    before((done) => void silent.listen(0, '127.0.0.1', done));
    before(() => (url = `ws://127.0.0.1:${(silent.address() as AddressInfo).port}`));
    after(() => void silent.close());

    it('says ERR_TIMEOUT after timeoutMs', async () => {
      const error = await expectCode(dialWebSocket(url, { token: TOKEN, timeoutMs: 50 }), 'ERR_TIMEOUT');
      expect(error.message).to.contain('50 ms');
    });

    it('rejects with the reason of its signal, fired late or before', async () => {
      const controller = new AbortController();
      const reason = new Error('enough');
      const dialled = dialWebSocket(url, { token: TOKEN, signal: controller.signal });
      setTimeout(() => controller.abort(reason), 20);
      expect(await rejectionOf(dialled)).to.equal(reason);
      expect(await rejectionOf(dialWebSocket(url, { token: TOKEN, signal: controller.signal }))).to.equal(reason);
    });
  });
});

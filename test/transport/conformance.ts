// What every transport does, whatever carries its links: blocks of every size and order, what two ranks must agree on,
// failures that name both ends, epochs, closing.
import { expect } from 'chai';
import { getEventListeners } from 'node:events';
import type { ProtocolError, TransportError } from '../../src/errors.ts';
import type { BlockDescriptor } from '../../src/transport/transport.ts';
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
import type { MakeNetwork, Network, NetworkOptions } from '../helpers/transport-network.ts';

const CHUNK = 1024;

export function transportConformance(name: string, makeNetwork: MakeNetwork): void {
  describe(`transport over ${name}`, () => {
    let network: Network;
    const open = async (worldSize: number, options: NetworkOptions = {}) => {
      network = await makeNetwork(worldSize, { chunkBytes: CHUNK, ...options });
      return network.transports;
    };
    afterEach(() => network.close());

    describe('delivery', () => {
      for (const byteLength of [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 64 * CHUNK + 17]) {
        for (const checksum of [false, true]) {
          it(`delivers a block of ${byteLength} bytes, checksum ${checksum}`, async () => {
            const [a, b] = await open(2, { checksum });
            await expectDelivery(a, b, blockOf(byteLength));
            expect(b.counters.payloadBytesReceived).to.equal(byteLength);
            expect(a.counters.payloadBytesSent).to.equal(byteLength);
            // HELLO and CREDIT one way; the chunks, of which an empty block has one, the other way.
            expect(b.counters.messagesSent).to.equal(2);
            expect(a.counters.messagesSent).to.equal(Math.max(1, Math.ceil(byteLength / CHUNK)));
          });
        }
      }

      it('gives the sink chunks in order, none longer than chunkBytes', async () => {
        const [a, b] = await open(2);
        const block = blockOf(5 * CHUNK + 1);
        const offsets: [number, number][] = [];
        const received = b.receive(0, block, (chunk, byteOffset) => offsets.push([byteOffset, chunk.length]));
        await sendBlock(a, 1, block, patternBytes(block.byteLength));
        await received;
        expect(offsets).to.deep.equal([0, 1, 2, 3, 4, 5].map((i) => [i * CHUNK, i < 5 ? CHUNK : 1]));
      });

      it('cuts a write of any length into chunks, and joins none', async () => {
        const [a, b] = await open(2);
        const block = blockOf(3 * CHUNK + 10);
        const bytes = patternBytes(block.byteLength);
        const received = receiveBlock(b, 0, block);
        const writer = a.send(1, block);
        await Promise.all([
          writer.write(bytes.subarray(0, 7)),
          writer.write(bytes.subarray(7, 7)),
          writer.write(bytes.subarray(7)),
        ]);
        await writer.done;
        expect(Buffer.compare(await received, bytes)).to.equal(0);
        expect(a.counters.messagesSent).to.equal(1 + 4);
      });

      it('lets the sender come first', async () => {
        const [a, b] = await open(2);
        const block = blockOf(3 * CHUNK);
        const sent = sendBlock(a, 1, block, patternBytes(block.byteLength));
        await delay(20);
        expect(a.counters.messagesSent, 'nothing leaves without a credit').to.equal(0);
        expect(Buffer.compare(await receiveBlock(b, 0, block), patternBytes(block.byteLength))).to.equal(0);
        await sent;
      });

      it('delivers two posted receives in order', async () => {
        const [a, b] = await open(2);
        const blocks = [blockOf(2 * CHUNK, { step: 0 }), blockOf(2 * CHUNK, { step: 1 })];
        const order: number[] = [];
        const received = blocks.map((block, i) => receiveBlock(b, 0, block).finally(() => order.push(i)));
        for (const [i, block] of blocks.entries()) void sendBlock(a, 1, block, patternBytes(block.byteLength, i));
        for (const [i, bytes] of (await Promise.all(received)).entries()) {
          expect(Buffer.compare(bytes, patternBytes(blocks[i].byteLength, i))).to.equal(0);
        }
        expect(order).to.deep.equal([0, 1]);
      });

      it('moves blocks both ways, between all ranks and with the driver, at once', async () => {
        const transports = await open(3);
        const pairs = transports.flatMap((a) => transports.filter((b) => b !== a).map((b) => [a, b] as const));
        expect(pairs).to.have.length(12);
        await Promise.all(pairs.map(([a, b], i) => expectDelivery(a, b, blockOf(10 * CHUNK + i), i)));
      });

      it('forwards a block round a ring while it still arrives', async () => {
        const [a, b, c] = await open(3);
        const block = blockOf(20 * CHUNK);
        const last = receiveBlock(c, 1, block);
        const onward = b.send(2, block);
        const middle = b.receive(0, block, (chunk) => void onward.write(chunk));
        await sendBlock(a, 1, block, patternBytes(block.byteLength));
        await Promise.all([middle, onward.done]);
        expect(Buffer.compare(await last, patternBytes(block.byteLength))).to.equal(0);
      });

      it('lets the writer reuse its memory once write has resolved', async () => {
        const [a, b] = await open(2);
        const block = blockOf(8 * CHUNK);
        const chunks: Uint8Array[] = [];
        const received = b.receive(0, block, (chunk) => void chunks.push(chunk));
        const writer = a.send(1, block);
        const scratch = new Uint8Array(CHUNK);
        for (let i = 0; i < 8; i++) {
          scratch.fill(i + 1);
          await writer.write(scratch);
        }
        await received;
        expect(chunks.map((chunk) => chunk[CHUNK - 1])).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8]);
      });
    });

    describe('agreement', () => {
      const mismatches: [string, Partial<BlockDescriptor>][] = [
        ['opSeq', { opSeq: 2 }],
        ['step', { step: 1 }],
        ['tensor', { tensor: 1 }],
        ['byteLength', { byteLength: 2 * CHUNK + 1 }],
        ['shapeHash', { shapeHash: 1 }],
      ];
      for (const [field, change] of mismatches) {
        it(`rejects both ends with ERR_UNEXPECTED_BLOCK when ${field} differs`, async () => {
          const [a, b] = await open(2);
          const block = blockOf(2 * CHUNK);
          const received = receiveBlock(b, 0, { ...block, ...change });
          const sent = sendBlock(a, 1, block, patternBytes(block.byteLength));
          const errors = await Promise.all([
            expectCode(sent, 'ERR_UNEXPECTED_BLOCK'),
            expectCode(received, 'ERR_UNEXPECTED_BLOCK'),
          ]);
          expect(errors.map((error) => (error as ProtocolError).peerRank)).to.deep.equal([1, 0]);
          expect(errors[0].message).to.contain('rank 1').and.contain('opSeq=1');
        });
      }

      it('rejects later transfers of an edge that has failed, and only of that one', async () => {
        const [a, b, c] = await open(3);
        const failed = receiveBlock(b, 0, blockOf(1));
        await Promise.all([expectCode(failed, 'ERR_UNEXPECTED_BLOCK'), rejectionOf(a.send(1, blockOf(2)).done)]);
        await expectCode(receiveBlock(b, 0, blockOf(1)), 'ERR_UNEXPECTED_BLOCK');
        await expectCode(a.send(1, blockOf(1)).done, 'ERR_UNEXPECTED_BLOCK');
        await expectDelivery(b, a, blockOf(CHUNK));
        await expectDelivery(a, c, blockOf(CHUNK));
      });

      it('rejects a write past the end of the block with ERR_OPTION', async () => {
        const [a] = await open(2);
        const writer = a.send(1, blockOf(4));
        await expectCode(writer.write(new Uint8Array(5)), 'ERR_OPTION');
      });

      it('rejects descriptors and peers out of range with ERR_OPTION', async () => {
        const [a] = await open(2);
        for (const bad of [{ step: 65536 }, { step: -1 }, { tensor: 256 }, { opSeq: 0.5 }, { shapeHash: 2 ** 32 }]) {
          await expectCode(receiveBlock(a, 1, blockOf(1, bad)), 'ERR_OPTION');
          expect(() => a.send(1, blockOf(1, bad)))
            .to.throw()
            .with.property('code', 'ERR_OPTION');
        }
        for (const peer of [0, 3, -1]) {
          await expectCode(receiveBlock(a, peer, blockOf(1)), 'ERR_OPTION');
          expect(() => a.send(peer, blockOf(1)))
            .to.throw()
            .with.property('code', 'ERR_OPTION');
        }
      });
    });

    describe('failure', () => {
      it('times out a receive to which nothing is sent', async () => {
        const [, b] = await open(2);
        const error = await expectCode(receiveBlock(b, 0, blockOf(77), { timeoutMs: 50 }), 'ERR_TIMEOUT');
        expect(error).to.include({ rank: 1, peerRank: 0 });
        expect(error.message).to.match(/rank 1.*rank 0.*50 ms.*opSeq=1, step=0.*done=0 of 77 bytes/);
      });

      it('times out a send for which no receive is posted', async () => {
        const [a] = await open(2);
        const writer = a.send(1, blockOf(CHUNK), { timeoutMs: 50 });
        const written = writer.write(new Uint8Array(CHUNK));
        const error = await expectCode(writer.done, 'ERR_TIMEOUT');
        expect(error).to.include({ rank: 0, peerRank: 1 });
        expect(await rejectionOf(written)).to.equal(error);
      });

      it('counts the time of a receive from the last chunk, and only at the head of its edge', async () => {
        const [a, b] = await open(2);
        const blocks = [blockOf(4, { step: 0 }), blockOf(4, { step: 1 })];
        const received = blocks.map((block) => receiveBlock(b, 0, block, { timeoutMs: 150 }));
        for (const block of blocks) {
          const writer = a.send(1, block, { timeoutMs: 150 });
          for (let i = 0; i < 4; i++) {
            await delay(60);
            await writer.write(Uint8Array.of(i));
          }
        }
        for (const bytes of await Promise.all(received)) expect([...bytes]).to.deep.equal([0, 1, 2, 3]);
      });

      it('rejects a receive with the reason of its signal, and the sender hears of it', async () => {
        const [a, b] = await open(2);
        const controller = new AbortController();
        const received = receiveBlock(b, 0, blockOf(2 * CHUNK), { signal: controller.signal });
        const writer = a.send(1, blockOf(2 * CHUNK));
        await writer.write(new Uint8Array(CHUNK));
        const reason = new Error('enough');
        controller.abort(reason);
        expect(await rejectionOf(received)).to.equal(reason);
        const error = await expectCode(writer.done, 'ERR_PEER_LOST');
        expect(error.message).to.contain('rank 1').and.contain('enough');
      });

      it('rejects a send with the reason of its signal, and the receiver hears of it', async () => {
        const [a, b] = await open(2);
        const controller = new AbortController();
        const received = receiveBlock(b, 0, blockOf(2 * CHUNK));
        const writer = a.send(1, blockOf(2 * CHUNK), { signal: controller.signal });
        await writer.write(new Uint8Array(CHUNK));
        const reason = new Error('enough');
        controller.abort(reason);
        expect(await rejectionOf(writer.done)).to.equal(reason);
        await expectCode(received, 'ERR_PEER_LOST');
      });

      it('puts one listener on a signal, however many transfers it ends', async () => {
        const [a, b] = await open(2);
        const controller = new AbortController();
        const { signal } = controller;
        const options = { signal };
        const blocks = Array.from({ length: 20 }, (_, step) => blockOf(1, { step }));
        const received = blocks.map((block) => receiveBlock(b, 0, block, options));
        expect(getEventListeners(signal, 'abort')).to.have.length(1);
        await Promise.all(blocks.slice(0, 5).map((block) => a.send(1, block).write(Uint8Array.of(1))));
        await Promise.all(received.slice(0, 5));
        controller.abort(new Error('enough'));
        for (const promise of received.slice(5)) expect((await rejectionOf(promise)).message).to.equal('enough');
        expect(getEventListeners(signal, 'abort')).to.have.length(0);
      });

      it('rejects at once, and harms nothing, when the signal has fired before', async () => {
        const [a, b] = await open(2);
        const signal = AbortSignal.abort(new Error('before'));
        expect((await rejectionOf(receiveBlock(b, 0, blockOf(1), { signal }))).message).to.equal('before');
        expect((await rejectionOf(a.send(1, blockOf(1), { signal }).done)).message).to.equal('before');
        await expectDelivery(a, b, blockOf(CHUNK));
      });

      it('rejects both ends when a sink throws, the receiver with that error', async () => {
        const [a, b] = await open(2);
        const received = b.receive(0, blockOf(CHUNK), () => {
          throw new Error('sink is full');
        });
        const writer = a.send(1, blockOf(2 * CHUNK, { step: 1 }));
        const sent = sendBlock(a, 1, blockOf(CHUNK), new Uint8Array(CHUNK));
        await rejectionOf(Promise.all([writer.done, sent]));
        await rejectionOf(received);
      });

      it('rejects what is under way with ERR_PEER_LOST when the peer closes', async () => {
        const [a, b] = await open(2);
        const received = receiveBlock(b, 0, blockOf(2 * CHUNK));
        await a.send(1, blockOf(2 * CHUNK)).write(new Uint8Array(CHUNK));
        await a.close();
        const error = (await expectCode(received, 'ERR_PEER_LOST')) as TransportError;
        expect(error).to.include({ rank: 1, peerRank: 0 });
      });

      it('reports a peer that closes while nothing is under way', async () => {
        const lost: [number, number, string][] = [];
        const [a, b] = await open(2, {
          onPeerLost: (rank, peerRank, error) => lost.push([rank, peerRank, (error as TransportError).code]),
        });
        await expectDelivery(a, b, blockOf(CHUNK));
        await a.close();
        await delay(50);
        expect(lost).to.deep.equal([[1, 0, 'ERR_PEER_LOST']]);
        await expectCode(receiveBlock(b, 0, blockOf(1)), 'ERR_PEER_LOST');
      });
    });

    describe('epochs', () => {
      it('starts afresh after reset, with nothing left over', async () => {
        const [a, b] = await open(2);
        const reason = new Error('next epoch');
        await expectDelivery(a, b, blockOf(CHUNK));
        const received = receiveBlock(b, 0, blockOf(3 * CHUNK));
        const writer = a.send(1, blockOf(3 * CHUNK));
        await writer.write(new Uint8Array(CHUNK));
        a.reset(1, reason);
        b.reset(1, reason);
        expect(await rejectionOf(writer.done)).to.equal(reason);
        expect(await rejectionOf(received)).to.equal(reason);
        await Promise.all([expectDelivery(a, b, blockOf(2 * CHUNK), 9), expectDelivery(b, a, blockOf(CHUNK), 8)]);
      });

      it('lets a receiver be first in the new epoch', async () => {
        const [a, b] = await open(2);
        await expectDelivery(a, b, blockOf(CHUNK));
        const reason = new Error('next epoch');
        b.reset(1, reason);
        const received = receiveBlock(b, 0, blockOf(CHUNK, { opSeq: 7 }));
        await delay(20);
        a.reset(1, reason);
        await sendBlock(a, 1, blockOf(CHUNK, { opSeq: 7 }), patternBytes(CHUNK));
        expect(Buffer.compare(await received, patternBytes(CHUNK))).to.equal(0);
      });

      it('refuses a receiver that is still in the old epoch, and serves it in the new one', async () => {
        const [a, b] = await open(2);
        const reason = new Error('next epoch');
        a.reset(1, reason);
        const sent = sendBlock(a, 1, blockOf(CHUNK), patternBytes(CHUNK, 3));
        const error = await expectCode(receiveBlock(b, 0, blockOf(CHUNK)), 'ERR_EPOCH');
        expect((error as ProtocolError).peerRank).to.equal(0);
        b.reset(1, reason);
        expect(Buffer.compare(await receiveBlock(b, 0, blockOf(CHUNK)), patternBytes(CHUNK, 3))).to.equal(0);
        await sent;
      });

      it('keeps a dial of the old epoch out of the new one', async () => {
        const [a, b] = await open(2);
        const old = receiveBlock(b, 0, blockOf(CHUNK));
        b.reset(1, new Error('next epoch'));
        a.reset(1, new Error('next epoch'));
        await rejectionOf(old);
        await expectDelivery(a, b, blockOf(4 * CHUNK));
      });

      it('takes only a later epoch', async () => {
        const [a] = await open(2);
        a.reset(5, new Error('next epoch'));
        expect(a.epoch).to.equal(5);
        expect(() => a.reset(5, new Error('again')))
          .to.throw()
          .with.property('code', 'ERR_OPTION');
      });
    });

    describe('closing', () => {
      it('rejects everything under way with ERR_CLOSED, twice without harm', async () => {
        const [a, b] = await open(2);
        const received = receiveBlock(b, 0, blockOf(CHUNK));
        const writer = a.send(1, blockOf(2 * CHUNK));
        await Promise.all([a.close(), a.close(), b.close()]);
        await b.close();
        await expectCode(writer.done, 'ERR_CLOSED');
        await rejectionOf(received);
        await expectCode(receiveBlock(b, 0, blockOf(1)), 'ERR_CLOSED');
        expect(() => a.send(1, blockOf(1)))
          .to.throw()
          .with.property('code', 'ERR_CLOSED');
      });

      it('leaves no timer and no handle behind', async () => {
        // Mocha arms its own timer once the test waits for the first time.
        await delay(1);
        const before = countResources();
        const [a, b] = await open(2);
        await expectDelivery(a, b, blockOf(3 * CHUNK));
        const received = receiveBlock(b, 0, blockOf(CHUNK), { timeoutMs: 60_000 });
        const writer = a.send(1, blockOf(CHUNK, { step: 1 }), { timeoutMs: 60_000 });
        await network.close();
        await Promise.all([rejectionOf(received), rejectionOf(writer.done)]);
        await delay(20);
        expect(countResources()).to.deep.equal(before);
      });
    });
  });
}

/** Handles and timers of the process, by kind. */
function countResources(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

// The memory network: the transport suite, and what only it has.
import { expect } from 'chai';
import { ConfigError } from '../../src/errors.ts';
import { createMemoryNetwork } from '../../src/transport/memory.ts';
import { blockOf, expectCode, receiveBlock } from '../helpers/transport-blocks.ts';
import { makeMemoryNetwork } from '../helpers/transport-network.ts';
import { transportConformance } from './conformance.ts';

transportConformance('memory', makeMemoryNetwork);

describe('memory network', () => {
  it('numbers its ends, with the driver last only where it is wanted', async () => {
    expect(createMemoryNetwork(3).map(({ rank }) => rank)).to.deep.equal([0, 1, 2]);
    expect(createMemoryNetwork(3, { driver: true }).map(({ rank }) => rank)).to.deep.equal([0, 1, 2, 3]);
  });

  it('rejects options out of range with ERR_OPTION', () => {
    const bad = [{ epoch: -1 }, { runHash: 2 ** 32 }, { chunkBytes: 0 }, { chunkBytes: 2 ** 31 }, { maxInFlight: 0 }];
    for (const options of bad) {
      expect(() => createMemoryNetwork(2, options), JSON.stringify(options))
        .to.throw(ConfigError)
        .with.property('code', 'ERR_OPTION');
    }
    expect(() => createMemoryNetwork(65535)).to.throw(ConfigError);
  });

  it('hands over the memory that was written when copy is false', async () => {
    const [a, b] = createMemoryNetwork(2, { copy: false });
    const bytes = Uint8Array.of(1, 2, 3, 4);
    const chunks: Uint8Array[] = [];
    const received = b.receive(0, blockOf(4), (chunk) => void chunks.push(chunk));
    await a.send(1, blockOf(4)).write(bytes);
    await received;
    expect(chunks[0].buffer).to.equal(bytes.buffer);
  });

  it('rejects a receive from an end that does not exist with ERR_CONNECT', async () => {
    const [a] = createMemoryNetwork(2);
    const error = await expectCode(receiveBlock(a, 2, blockOf(1)), 'ERR_CONNECT');
    expect(error).to.include({ rank: 0, peerRank: 2 });
  });
});

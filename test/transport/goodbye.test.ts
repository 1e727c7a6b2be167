// The last frame's payload: every error survives it in a form that fits, and no bytes of a peer do harm.
import { expect } from 'chai';
import fc from 'fast-check';
import { ConfigError, ProtocolError, RingAbortError } from '../../src/errors.ts';
import { MAX_GOODBYE_BYTES } from '../../src/transport/frame.ts';
import { decodeGoodbye, encodeGoodbye } from '../../src/transport/goodbye.ts';

describe('goodbye', () => {
  it('restores a ProtocolError with its code, and says who refused whom', () => {
    const error = decodeGoodbye(encodeGoodbye(new ProtocolError('ERR_EPOCH', 'too late')), 1, 2);
    expect(error).to.be.instanceOf(ProtocolError).and.include({ code: 'ERR_EPOCH', peerRank: 2 });
    expect(error.message).to.equal('rank 2 refused rank 1: too late');
  });

  it('turns any other reason into ERR_PEER_LOST that quotes it', () => {
    for (const reason of [new Error('x y'), new ConfigError('ERR_CLOSED', 'x y'), new RingAbortError(3, 1, 'x y')]) {
      const error = decodeGoodbye(encodeGoodbye(reason), 1, 2);
      expect(error).to.include({ name: 'TransportError', code: 'ERR_PEER_LOST', rank: 1, peerRank: 2 });
      expect(error.message).to.contain('rank 2').and.contain('x y');
    }
  });

  it('cuts a message that would not fit, whatever its characters', () => {
    for (const letter of ['a', '"', '\u0000', '€', '😀']) {
      const payload = encodeGoodbye(new ProtocolError('ERR_FRAME', letter.repeat(5000)));
      expect(payload.length).to.be.within(100, MAX_GOODBYE_BYTES);
      expect(decodeGoodbye(payload, 0, 1).code).to.equal('ERR_FRAME');
    }
  });

  it('takes any bytes for an answer', () => {
    const hostile = ['', 'null', '[]', '3', '{"name":"ProtocolError"}', '{"name":"ProtocolError","code":"toString"}'];
    for (const text of hostile) {
      expect(decodeGoodbye(new TextEncoder().encode(text), 0, 1).code, text).to.equal('ERR_PEER_LOST');
    }
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void decodeGoodbye(bytes, 0, 1)));
  });
});

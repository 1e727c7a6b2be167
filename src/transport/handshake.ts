// The first frame of a link that was dialled by somebody else: waits for a HELLO, a bounded time, and believes nothing
// before it has been checked.
import { ProtocolError, TransportError } from '../errors.ts';
import { decodeFrame } from './frame.ts';
import type { FrameHeader } from './frame.ts';
import type { Link } from './link.ts';

export interface HelloHandlers {
  /** Called within the delivery of the HELLO, so that no later frame of the link is missed. */
  onHello(header: FrameHeader): void;
  /** The link has been dropped: it was garbage, silent, or gone. */
  onRefuse(error: Error): void;
}

/** Waits for the HELLO of `link`. Returns a function that gives up, drops the link and calls onRefuse with its argument. */
export function receiveHello(link: Link, timeoutMs: number, handlers: HelloHandlers): (reason: Error) => void {
  let settled = false;
  const timer = setTimeout(() => refuse(timeoutError(timeoutMs)), timeoutMs);
  const finish = (): void => {
    settled = true;
    clearTimeout(timer);
  };
  const refuse = (error: Error): void => {
    if (settled) return;
    finish();
    link.terminate();
    handlers.onRefuse(error);
  };
  link.onClose((error) => refuse(error ?? new TransportError('ERR_PEER_LOST', 'accept: the link closed before HELLO')));
  link.onFrame((pieces) => {
    if (settled) return;
    let header: FrameHeader;
    try {
      ({ header } = decodeFrame(pieces, { maxPayloadBytes: 0 }));
      if (header.type !== 'hello') {
        throw new ProtocolError('ERR_FRAME', `accept: the first frame must be HELLO, got ${header.type}`);
      }
    } catch (error) {
      refuse(error as Error);
      return;
    }
    finish();
    handlers.onHello(header);
  });
  return refuse;
}

function timeoutError(timeoutMs: number): TransportError {
  return new TransportError('ERR_TIMEOUT', `accept: HELLO must come within ${timeoutMs} ms, got nothing`);
}

// A control channel over a WebSocket of `ws`.
import type { WebSocket } from 'ws';
import type { ControlChannel } from '../cluster/control-channel.ts';

/** Wraps an open socket. Messages that come before there is a listener wait for it; binary ones close the channel. */
export function webSocketChannel(socket: WebSocket): ControlChannel {
  const early: string[] = [];
  let listener: ((text: string) => void) | undefined;
  let isClosed = false;
  const closeListeners: (() => void)[] = [];
  socket.on('message', (data, isBinary) => {
    if (isBinary) return socket.close(1003, 'text only');
    const text = (data as Buffer).toString('utf8');
    if (listener) listener(text);
    else early.push(text);
  });
  // An error is always followed by close, which says all that a channel can say.
  socket.on('error', () => undefined);
  socket.on('close', () => {
    isClosed = true;
    for (const notify of closeListeners.splice(0)) notify();
  });
  return {
    send(text) {
      if (socket.readyState === socket.OPEN) socket.send(text);
    },
    onMessage(next) {
      listener = next;
      for (const text of early.splice(0)) next(text);
    },
    onClose(notify) {
      if (isClosed) queueMicrotask(notify);
      else closeListeners.push(notify);
    },
    close() {
      socket.close();
    },
  };
}

// A TCP proxy that misbehaves on demand: slow, late, silent, cut off, or lying about one byte. It reads only what it may
// pass on, so that whoever sends through it feels the backpressure of a slow network.
import { createServer, connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

export interface Faults {
  /** Most bytes a second in each direction of each connection; 0 = no limit. */
  bytesPerSecond: number;
  /** Delay of every piece, in ms. */
  latencyMs: number;
  /** Passes nothing on and closes nothing, like a network that went away. */
  isStalled: boolean;
  /** Flips a bit of the byte at this offset of what the server sends, counted per connection; −1 = none. */
  corruptByteAt: number;
}

export interface FaultProxy {
  readonly port: number;
  /** Changes what is given, at once, for connections that exist too. */
  set(faults: Partial<Faults>): void;
  /** Cuts every connection with a TCP reset. */
  reset(): void;
  close(): Promise<void>;
}

const NO_FAULTS: Faults = { bytesPerSecond: 0, latencyMs: 0, isStalled: false, corruptByteAt: -1 };
/** Pieces are at most this long, so that a limit is smooth and buffers stay small, in bytes. */
const PIECE_BYTES = 64 * 1024;
/** What may be on its way inside the proxy, in bytes per direction. */
const WINDOW_BYTES = 256 * 1024;
/** How far a limited direction may catch up after a pause, in ms: timers are no finer. */
const BURST_MS = 4;
/** How often a stalled direction looks again, in ms. */
const STALL_POLL_MS = 5;

/** Starts a proxy on a free loopback port before `port`. */
export async function startFaultProxy(port: number, initial: Partial<Faults> = {}): Promise<FaultProxy> {
  const faults: Faults = { ...NO_FAULTS, ...initial };
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, highWaterMark: PIECE_BYTES }, (client) => {
    const target = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    for (const socket of [client, target]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        target.destroy();
      });
    }
    void pass(client, target, faults, () => -1);
    void pass(target, client, faults, () => faults.corruptByteAt);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    set: (changes) => void Object.assign(faults, changes),
    reset: () => sockets.forEach((socket) => socket.resetAndDestroy()),
    close: async () => {
      sockets.forEach((socket) => socket.destroy());
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** Copies one direction, piece by piece, each waiting until the faults of its moment let it pass. */
async function pass(from: Socket, to: Socket, faults: Faults, corruptAt: () => number): Promise<void> {
  let streamOffset = 0;
  let freeAt = performance.now();
  let inFlight = 0;
  let last = Promise.resolve();
  const forward = async (piece: Buffer, arrivedAt: number): Promise<void> => {
    while (faults.isStalled && !to.destroyed) await waitUntil(performance.now() + STALL_POLL_MS);
    if (faults.latencyMs > 0) await waitUntil(arrivedAt + faults.latencyMs);
    if (faults.bytesPerSecond > 0) {
      freeAt = Math.max(freeAt, performance.now() - BURST_MS) + (piece.length / faults.bytesPerSecond) * 1000;
      await waitUntil(freeAt);
    }
    const at = corruptAt() - streamOffset;
    if (at >= 0 && at < piece.length) piece[at] ^= 0x10;
    streamOffset += piece.length;
    await new Promise<void>((resolve) => to.write(piece, () => resolve()));
    inFlight -= piece.length;
  };
  try {
    for await (const data of from as AsyncIterable<Buffer>) {
      for (let start = 0; start < data.length; start += PIECE_BYTES) {
        const piece = data.subarray(start, start + PIECE_BYTES);
        const arrivedAt = performance.now();
        inFlight += piece.length;
        last = last.then(() => forward(piece, arrivedAt));
        if (inFlight > WINDOW_BYTES) await last;
      }
    }
    await last;
    to.end();
  } catch {
    to.destroy();
  }
}

async function waitUntil(time: number): Promise<void> {
  const delayMs = time - performance.now();
  if (delayMs > 0.5) await new Promise((resolve) => setTimeout(resolve, delayMs));
}

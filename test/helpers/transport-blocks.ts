// Blocks with contents that differ everywhere, and how tests send, receive and expect failures of them.
import { expect } from 'chai';
import { observed } from '../../src/errors.ts';
import type { ErrorCode, KvringError } from '../../src/errors.ts';
import { writeBlock } from '../../src/transport/transport.ts';
import type { BlockDescriptor, TransferOptions, Transport } from '../../src/transport/transport.ts';

export function blockOf(byteLength: number, fields: Partial<BlockDescriptor> = {}): BlockDescriptor {
  return { opSeq: 1, step: 0, tensor: 0, shapeHash: 0xabad1dea, ...fields, byteLength };
}

/** Bytes that repeat only every 251 × 256 places, so that a chunk in the wrong place shows. */
export function patternBytes(byteLength: number, seed = 0): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = (i % 251) ^ ((i >>> 8) + seed);
  return bytes;
}

/** Sends a block that lies in memory. */
export function sendBlock(transport: Transport, to: number, block: BlockDescriptor, bytes: Uint8Array): Promise<void> {
  return writeBlock(transport.send(to, block), bytes, transport.chunkBytes);
}

/** Receives a block into memory of its own. A test may look at the result late. */
export function receiveBlock(
  transport: Transport,
  from: number,
  block: BlockDescriptor,
  options?: TransferOptions,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(block.byteLength);
  const received = transport.receive(from, block, (chunk, byteOffset) => bytes.set(chunk, byteOffset), options);
  return observed(received.then(() => bytes));
}

/** Sends a block from one transport to another and checks what arrives. */
export async function expectDelivery(
  sender: Transport,
  receiver: Transport,
  block: BlockDescriptor,
  seed = 0,
): Promise<void> {
  const bytes = patternBytes(block.byteLength, seed);
  const received = receiveBlock(receiver, sender.rank, block);
  await sendBlock(sender, receiver.rank, block, bytes);
  expect(Buffer.compare(await received, bytes), 'received bytes differ').to.equal(0);
}

/** The error with which `promise` rejects; fails when it resolves. */
export async function rejectionOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('expected a rejection, but the promise resolved');
}

/** Asserts that `promise` rejects with a kvring error of this code, and returns the error. */
export async function expectCode(promise: Promise<unknown>, code: ErrorCode): Promise<KvringError> {
  const error = (await rejectionOf(promise)) as KvringError;
  expect(error.code, error.stack).to.equal(code);
  return error;
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

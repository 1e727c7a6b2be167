// What two ends must agree on about a block, and how an error names it.
import { ConfigError } from '../errors.ts';
import type { BlockDescriptor } from './transport.ts';

/** Whether both descriptors name the same block. */
export function isSameBlock(a: BlockDescriptor, b: BlockDescriptor): boolean {
  return (
    a.opSeq === b.opSeq &&
    a.step === b.step &&
    a.tensor === b.tensor &&
    a.byteLength === b.byteLength &&
    a.shapeHash === b.shapeHash
  );
}

/** `opSeq=1, step=2, tensor=0, byteLength=4096, shapeHash=9f3c01aa`, for error messages. */
export function describeBlock(block: BlockDescriptor): string {
  const { opSeq, step, tensor, byteLength } = block;
  const shapeHash = block.shapeHash.toString(16).padStart(8, '0');
  return `opSeq=${opSeq}, step=${step}, tensor=${tensor}, byteLength=${byteLength}, shapeHash=${shapeHash}`;
}

const FIELD_LIMITS = [
  ['opSeq', 0xffffffff],
  ['step', 0xffff],
  ['tensor', 0xff],
  ['shapeHash', 0xffffffff],
  ['byteLength', Number.MAX_SAFE_INTEGER],
] as const;

/** Throws ConfigError when a field of `block` does not fit its place in a frame. */
export function checkBlock(where: string, block: BlockDescriptor): void {
  for (const [field, limit] of FIELD_LIMITS) {
    const value = block[field];
    if (!Number.isInteger(value) || value < 0 || value > limit) {
      throw new ConfigError(
        'ERR_OPTION',
        `${where}: ${field} must be an integer in [0, ${limit}], got ${field}=${value}`,
      );
    }
  }
}

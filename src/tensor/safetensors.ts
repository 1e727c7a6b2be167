// The safetensors file format, read and written strictly: a file that is cut short, or whose header does not describe
// every byte exactly once, is refused with the tensor and the numbers that are wrong. Pure; knows no file system.
//
//   bytes 0..7   u64 little-endian: the length of the header
//   header       JSON { name: { dtype, shape, data_offsets: [begin, end] }, …, __metadata__?: { key: text } }
//   buffer       the data of the tensors, row-major and little-endian; offsets count from its start
import { ConfigError } from '../errors.ts';
import { findDuplicateKey } from './json-keys.ts';
import { BYTES_PER_ELEMENT, type DType, type HostTensor, numElements, type TensorData, tensorBytes } from './tensor.ts';

/** The content of a safetensors file. */
export interface SafetensorsContent {
  /** By name, in the order of the header. A size of a shape may be 0; [] is a scalar. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

interface TensorEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: number[];
  readonly begin: number;
  readonly end: number;
}

const DTYPE_NAMES: Readonly<Record<DType, string>> = { f32: 'F32', f16: 'F16', bf16: 'BF16', i32: 'I32' };
const METADATA_KEY = '__metadata__';
const LENGTH_BYTES = 8;

/** The limit of the reference implementation: a header is text, and a longer one is an attack or an accident. */
export const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads a whole file. Tensors are views of `bytes` where their alignment allows it, else copies.
 *
 * @throws ConfigError ERR_FILE when the bytes break the format, ERR_DTYPE for a dtype other than F32, F16, BF16, I32
 */
export function decodeSafetensors(bytes: Uint8Array): SafetensorsContent {
  const { header, buffer } = splitHeader(bytes);
  const { [METADATA_KEY]: metadata, ...entries } = parseHeader(header);
  const tensors = Object.entries(entries).map(([name, entry]) => parseEntry(name, entry));
  checkCoverage(tensors, buffer.length);
  return {
    metadata: parseMetadata(metadata),
    tensors: new Map(
      tensors.map(({ name, dtype, shape, begin, end }) => [
        name,
        { dtype, shape, data: viewElements(dtype, buffer.subarray(begin, end)) },
      ]),
    ),
  };
}

/**
 * Writes tensors, in the order given and without gaps. The header is padded with spaces to 8 bytes, so that every tensor
 * whose predecessors fill whole elements is aligned.
 */
export function encodeSafetensors(
  tensors: Readonly<Record<string, HostTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [[METADATA_KEY, metadata]] : [];
  let offset = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    if (name === METADATA_KEY) throw new ConfigError('ERR_FILE', `safetensors: a tensor cannot be called ${name}`);
    const byteLength = numElements(tensor.shape) * BYTES_PER_ELEMENT[tensor.dtype];
    if (tensor.data.byteLength !== byteLength) {
      const shape = `shape=[${tensor.shape.join(', ')}]`;
      throw new ConfigError(
        'ERR_SHAPE',
        `safetensors: tensor '${name}' must have ${byteLength} bytes for its shape, got ${shape}, byteLength=${tensor.data.byteLength}`,
      );
    }
    const data_offsets = [offset, offset + byteLength];
    entries.push([name, { dtype: DTYPE_NAMES[tensor.dtype], shape: tensor.shape, data_offsets }]);
    offset += byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const headerLength = Math.ceil(json.length / LENGTH_BYTES) * LENGTH_BYTES;
  const bytes = new Uint8Array(LENGTH_BYTES + headerLength + offset).fill(
    0x20,
    LENGTH_BYTES,
    LENGTH_BYTES + headerLength,
  );
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength), true);
  bytes.set(json, LENGTH_BYTES);
  let position = LENGTH_BYTES + headerLength;
  for (const tensor of Object.values(tensors)) {
    bytes.set(tensorBytes(tensor), position);
    position += tensor.data.byteLength;
  }
  return bytes;
}

function fileError(rule: string, options?: ErrorOptions): ConfigError {
  return new ConfigError('ERR_FILE', `safetensors: ${rule}`, options);
}

function splitHeader(bytes: Uint8Array): { header: Uint8Array; buffer: Uint8Array } {
  if (bytes.length < LENGTH_BYTES) {
    throw fileError(`a file has at least ${LENGTH_BYTES} bytes, got byteLength=${bytes.length}`);
  }
  const headerLength = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  const available = bytes.length - LENGTH_BYTES;
  if (headerLength > BigInt(Math.min(available, MAX_HEADER_BYTES))) {
    throw fileError(
      `the header must lie within the file and ${MAX_HEADER_BYTES} bytes, got headerLength=${headerLength}, ` +
        `bytes after the length=${available}; the file is cut short or is no safetensors file`,
    );
  }
  const bufferStart = LENGTH_BYTES + Number(headerLength);
  return { header: bytes.subarray(LENGTH_BYTES, bufferStart), buffer: bytes.subarray(bufferStart) };
}

function parseHeader(header: Uint8Array): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
    value = JSON.parse(text);
  } catch (cause) {
    throw fileError(`the header must be JSON in UTF-8, got ${String(cause)}`, { cause });
  }
  if (!isObject(value) || text[0] !== '{') {
    throw fileError(`the header must be a JSON object that starts at its first byte, got ${text.slice(0, 40)}`);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw fileError(`every name may stand in the header once, got '${duplicate}' twice`);
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseMetadata(metadata: unknown = {}): Record<string, string> {
  if (!isObject(metadata) || !Object.values(metadata).every((text) => typeof text === 'string')) {
    throw fileError(`${METADATA_KEY} must map names to text, got ${JSON.stringify(metadata).slice(0, 80)}`);
  }
  return metadata as Record<string, string>;
}

function parseEntry(name: string, entry: unknown): TensorEntry {
  const where = `tensor '${name}'`;
  if (!isObject(entry))
    throw fileError(`${where} must be { dtype, shape, data_offsets }, got ${JSON.stringify(entry)}`);
  const { dtype: dtypeName, shape, data_offsets: offsets, ...rest } = entry;
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) throw fileError(`${where} has a field that the format does not know, got '${unknown}'`);
  const dtype = (Object.keys(DTYPE_NAMES) as DType[]).find((key) => DTYPE_NAMES[key] === dtypeName);
  if (dtype === undefined) {
    throw new ConfigError(
      'ERR_DTYPE',
      `safetensors: ${where} must be F32, F16, BF16 or I32, got dtype=${String(dtypeName)}`,
    );
  }
  if (!isSizes(shape))
    throw fileError(`${where}: every size must be a whole number, got shape=${JSON.stringify(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw fileError(`${where}: data_offsets must be [begin, end], got data_offsets=${JSON.stringify(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const byteLength = numElements(shape) * BYTES_PER_ELEMENT[dtype];
  if (end - begin !== byteLength) {
    throw fileError(
      `${where}: shape [${shape.join(', ')}] of ${DTYPE_NAMES[dtype]} takes ${byteLength} bytes, got data_offsets=[${begin}, ${end}]`,
    );
  }
  return { name, dtype, shape, begin, end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Throws unless the tensors, put in the order of their offsets, cover the buffer: no hole, no overlap, no rest. */
function checkCoverage(tensors: readonly TensorEntry[], bufferLength: number): void {
  const ordered = tensors.toSorted((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const { name, begin, end } of ordered) {
    if (end > bufferLength) {
      throw fileError(
        `tensor '${name}' must lie within the buffer, got data_offsets=[${begin}, ${end}], buffer length=${bufferLength}; ` +
          'the file is cut short or its header lies',
      );
    }
    if (begin !== covered) {
      const problem = begin < covered ? 'overlaps the tensor before it' : 'leaves a hole before it';
      throw fileError(`tensor '${name}' ${problem}, got data_offsets=[${begin}, ${end}], expected begin=${covered}`);
    }
    covered = end;
  }
  if (covered !== bufferLength) {
    throw fileError(`tensors must cover the whole buffer, got covered bytes=${covered}, buffer length=${bufferLength}`);
  }
}

function viewElements(dtype: DType, bytes: Uint8Array): TensorData {
  const { buffer, byteOffset, length } = bytes.byteOffset % BYTES_PER_ELEMENT[dtype] === 0 ? bytes : bytes.slice();
  const ElementArray = dtype === 'f32' ? Float32Array : dtype === 'i32' ? Int32Array : Uint16Array;
  return new ElementArray(buffer as ArrayBuffer, byteOffset, length / BYTES_PER_ELEMENT[dtype]);
}

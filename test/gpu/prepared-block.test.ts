// The structs of shaders/schedule.wgsl and what the driver writes into them: the same fields in the same order.
import { expect } from 'chai';
import { fillOptions } from '../../src/attention/options.ts';
import { encodeHeads, MAX_HEADS } from '../../src/gpu/heads-buffer.ts';
import {
  type BlockRequest,
  encodeParams,
  encodeSchedule,
  PARAMS_FIELDS,
  RANGE_FIELDS,
  TILE_FIELDS,
} from '../../src/gpu/prepared-block.ts';
import { DeviceError } from '../../src/errors.ts';
import { readShaders } from '../../src/node/shader-source.ts';

/** The fields of a struct as [camelCase name, type]. */
function parseStruct(source: string, name: string): [string, string][] {
  const body = new RegExp(`^struct ${name} \\{([^}]*)\\}`, 'm').exec(source)![1];
  return [...body.matchAll(/^\s*(\w+): (\w+),/gm)].map(([, field, type]) => [
    field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    type,
  ]);
}

const SHAPE = { batch: 2, seqLenQ: 7, seqLenKv: 9, numHeads: 8, numKvHeads: 2, headDimQk: 16, headDimV: 10 };

/** A field of the encoded Params. */
function readParam(name: (typeof PARAMS_FIELDS)[number][0], changes: Partial<BlockRequest> = {}): number {
  const schedule = { tiles: [], ranges: [] };
  const heads = {} as GPUBuffer;
  const request = { schedule, shape: SHAPE, options: fillOptions({}, 16), rowsQ: 5, rowsKv: 6, heads, ...changes };
  const view = new DataView(encodeParams(request));
  const index = PARAMS_FIELDS.findIndex(([field]) => field === name);
  if (PARAMS_FIELDS[index][1] === 'f32') return view.getFloat32(4 * index, true);
  return PARAMS_FIELDS[index][1] === 'i32' ? view.getInt32(4 * index, true) : view.getUint32(4 * index, true);
}

describe('prepared block', () => {
  let source = '';
  before(async () => {
    source = (await readShaders()).get('schedule.wgsl')!;
  });

  it('encodes Tile and Range field for field', () => {
    const type = (field: string): string => (field === 'offset' ? 'i32' : 'u32');
    expect(parseStruct(source, 'Tile')).to.deep.equal(TILE_FIELDS.map((field) => [field, type(field)]));
    expect(parseStruct(source, 'Range')).to.deep.equal(RANGE_FIELDS.map((field) => [field, 'u32']));
    expect(source).to.include(`const TILE_WORDS: u32 = ${TILE_FIELDS.length};`);
    expect(source).to.include(`const RANGE_WORDS: u32 = ${RANGE_FIELDS.length};`);
  });

  it('encodes Params field for field', () => {
    expect(parseStruct(source, 'Params')).to.deep.equal(PARAMS_FIELDS.map((field) => [...field]));
  });

  it('lays tiles, then ranges out one after another, negative offsets included', () => {
    const tile = {
      sequence: 1,
      row: 2,
      rowCount: 3,
      position: 4,
      positionStride: 5,
      offset: -6,
      firstRange: 7,
      rangeCount: 8,
    };
    const range = { row: 9, position: 10, positionStride: 11, count: 12, fullBegin: 13, fullEnd: 14 };
    const words = encodeSchedule({ tiles: [tile, tile], ranges: [range] });
    expect([...words]).to.deep.equal([1, 2, 3, 4, 5, -6, 7, 8, 1, 2, 3, 4, 5, -6, 7, 8, 9, 10, 11, 12, 13, 14]);
    expect(readParam('firstRangeWord', { schedule: { tiles: [tile, tile], ranges: [range] } })).to.equal(16);
  });

  it('folds log2(e), or the soft cap, into the scale of scores', () => {
    expect(readParam('groupSize')).to.equal(4);
    expect(readParam('scoreScale')).to.equal(Math.fround(0.25 * Math.LOG2E));
    const options = fillOptions({ softcap: 5 }, 16);
    expect(readParam('scoreScale', { options })).to.equal(Math.fround(0.25 / 5));
    expect(readParam('scoreFactor', { options })).to.equal(Math.fround(5 * Math.LOG2E));
  });

  it('strides a bias by its local rows and all keys, and by 0 where it is broadcast', () => {
    const strides = (bias: BlockRequest['bias']): number[] => [
      readParam('biasBatchStride', { bias: bias! }),
      readParam('biasHeadStride', { bias: bias! }),
      readParam('biasRowStride', { bias: bias! }),
    ];
    expect(strides({ batch: 2, heads: 8 })).to.deep.equal([8 * 5 * 9, 5 * 9, 9]);
    expect(strides({ batch: 2, heads: 1 })).to.deep.equal([5 * 9, 0, 9]);
    expect(strides({ batch: 1, heads: 8 })).to.deep.equal([0, 5 * 9, 9]);
    expect(strides(null)).to.deep.equal([0, 0, 0]);
  });

  it('gives windows and causal masks as one interval', () => {
    const options = fillOptions({ maskType: 'causal', window: [3, 7] }, 16);
    expect(readParam('windowLeft', { options })).to.equal(3);
    expect(readParam('windowRight', { options })).to.equal(0);
  });
});

describe('heads buffer', () => {
  it('holds slopes, then sinks, in log2 units, with a finite stand-in for no sink', () => {
    const values = encodeHeads({ alibiSlopes: [0.5, 0.25], sink: [2, -Infinity] });
    expect([...values.subarray(0, 3)]).to.deep.equal([0.5 * Math.LOG2E, 0.25 * Math.LOG2E, 0].map(Math.fround));
    const sinks = values.subarray(MAX_HEADS, MAX_HEADS + 3);
    expect([...sinks]).to.deep.equal([2 * Math.LOG2E, -1e30, 0].map(Math.fround));
  });

  it('rejects more heads than it holds with ERR_LIMIT', () => {
    expect(() => encodeHeads({ sink: new Float32Array(MAX_HEADS + 1) }))
      .to.throw(DeviceError, '1024')
      .with.property('code', 'ERR_LIMIT');
  });
});

// The structs of shaders/schedule.wgsl and what the driver writes into them: the same fields in the same order.
import { expect } from 'chai';
import {
  encodeParams,
  encodeStructs,
  KV_RANGE_FIELDS,
  PARAMS_FIELDS,
  QUERY_TILE_FIELDS,
} from '../../src/gpu/prepared-block.ts';
import { readShaders } from '../../src/node/shader-source.ts';

/** The fields of a struct as [camelCase name, type]. */
function parseStruct(source: string, name: string): [string, string][] {
  const body = new RegExp(`^struct ${name} \\{([^}]*)\\}`, 'm').exec(source)![1];
  return [...body.matchAll(/^\s*(\w+): (\w+),/gm)].map(([, field, type]) => [
    field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    type,
  ]);
}

describe('prepared block', () => {
  let source = '';
  before(async () => {
    source = (await readShaders()).get('schedule.wgsl')!;
  });

  it('encodes QueryTile and KvRange field for field', () => {
    expect(parseStruct(source, 'QueryTile')).to.deep.equal(QUERY_TILE_FIELDS.map((field) => [field, 'u32']));
    expect(parseStruct(source, 'KvRange')).to.deep.equal(KV_RANGE_FIELDS.map((field) => [field, 'u32']));
  });

  it('encodes Params field for field', () => {
    expect(parseStruct(source, 'Params')).to.deep.equal(PARAMS_FIELDS.map((field) => [...field]));
  });

  it('lays structs out one after another', () => {
    const ranges = [
      { row: 1, position: 2, positionStride: 3, fullCount: 4, count: 5 },
      { row: 6, position: 7, positionStride: 8, fullCount: 9, count: 2 ** 32 - 1 },
    ];
    expect([...encodeStructs(ranges, KV_RANGE_FIELDS)]).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 2 ** 32 - 1]);
  });

  it('folds log2(e) into the scale and divides the heads', () => {
    const request = {
      schedule: { tiles: [], ranges: [] },
      batch: 1,
      numHeads: 8,
      numKvHeads: 2,
      rowsQ: 5,
      rowsKv: 6,
      softmaxScale: 0.5,
    };
    const view = new DataView(encodeParams(request, { headDimQk: 16, headDimV: 10 }));
    const offsetOf = (name: string): number => 4 * PARAMS_FIELDS.findIndex(([field]) => field === name);
    expect(view.getUint32(offsetOf('groupSize'), true)).to.equal(4);
    expect(view.getFloat32(offsetOf('softmaxScaleLog2'), true)).to.equal(Math.fround(0.5 * Math.LOG2E));
  });
});

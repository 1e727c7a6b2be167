// Layouts: every token has exactly one owner for any number of ranks and any length, and rows find their way there and
// back.
import { expect } from 'chai';
import fc from 'fast-check';
import {
  chunk,
  gatherShard,
  type Layout,
  LAYOUTS,
  scatterShard,
  shardLength,
  shardOf,
  shardPositions,
  shardsOf,
} from '../../src/attention/layout.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const anyLayout = fc.constantFrom(...LAYOUTS);
const anySeqLen = fc.integer({ min: 1, max: 200 });
const anyWorldSize = fc.integer({ min: 1, max: 20 });

/** The owner of every token, as in the drawing of the layouts. */
function drawOwners(layout: Layout, seqLen: number, worldSize: number): string {
  const owners = Array.from({ length: seqLen }, () => '?');
  for (const [rank, shard] of shardsOf(layout, seqLen, worldSize).entries()) {
    for (const position of shardPositions(shard)) owners[position] += String(rank);
  }
  return owners.map((owner) => owner.slice(1)).join(' ');
}

describe('layouts', () => {
  it('are those of the drawing', () => {
    expect(drawOwners('contiguous', 8, 2)).to.equal('0 0 0 0 1 1 1 1');
    expect(drawOwners('zigzag', 8, 2)).to.equal('0 0 1 1 1 1 0 0');
    expect(drawOwners('striped', 8, 2)).to.equal('0 1 0 1 0 1 0 1');
  });

  it('give the first chunks one token more when the length does not divide', () => {
    expect(drawOwners('contiguous', 7, 3)).to.equal('0 0 0 1 1 2 2');
    expect(drawOwners('zigzag', 7, 2)).to.equal('0 0 1 1 1 1 0');
    expect(drawOwners('striped', 7, 3)).to.equal('0 1 2 0 1 2 0');
  });

  it('leave ranks empty when there are fewer tokens than chunks', () => {
    expect(drawOwners('contiguous', 2, 3)).to.equal('0 1');
    expect(drawOwners('zigzag', 2, 3)).to.equal('0 1');
    expect(shardOf('striped', 2, 3, 2)).to.deep.equal([]);
  });

  it('own every token exactly once', () => {
    fc.assert(
      fc.property(anyLayout, anySeqLen, anyWorldSize, (layout, seqLen, worldSize) => {
        const positions = shardsOf(layout, seqLen, worldSize).flatMap((shard) => [...shardPositions(shard)]);
        expect(positions.toSorted((a, b) => a - b)).to.deep.equal(Array.from({ length: seqLen }, (_, token) => token));
      }),
    );
  });

  it('have no empty segment, and as many positions as rows', () => {
    fc.assert(
      fc.property(anyLayout, anySeqLen, anyWorldSize, (layout, seqLen, worldSize) => {
        for (const shard of shardsOf(layout, seqLen, worldSize)) {
          expect(shard.every(({ length }) => length > 0)).to.equal(true);
          expect(shardPositions(shard)).to.have.length(shardLength(shard));
        }
      }),
    );
  });

  it('differ by one token at most between ranks: contiguous and striped; by two: zigzag', () => {
    fc.assert(
      fc.property(anyLayout, anySeqLen, anyWorldSize, (layout, seqLen, worldSize) => {
        const lengths = shardsOf(layout, seqLen, worldSize).map(shardLength);
        expect(Math.max(...lengths) - Math.min(...lengths)).to.be.at.most(layout === 'zigzag' ? 2 : 1);
      }),
    );
  });

  it('join the two chunks of the middle zigzag rank into one segment', () => {
    expect(shardOf('zigzag', 12, 3, 2)).to.deep.equal([{ start: 4, length: 4, stride: 1 }]);
    expect(shardOf('zigzag', 12, 3, 0)).to.have.length(2);
  });

  it('are all the whole sequence on one rank', () => {
    for (const layout of LAYOUTS) expect(shardOf(layout, 5, 1, 0)).to.deep.equal([{ start: 0, length: 5, stride: 1 }]);
  });

  it('refuse a name that is none of them', () => {
    expectConfigError(() => shardOf('diagonal' as Layout, 8, 2, 0), 'ERR_OPTION', /layout=diagonal/);
  });
});

describe('chunk', () => {
  it('has ⌊S/M⌋ + (i < S mod M) tokens and follows the chunk before it', () => {
    fc.assert(
      fc.property(anySeqLen, fc.integer({ min: 1, max: 40 }), (seqLen, numChunks) => {
        let start = 0;
        for (let index = 0; index < numChunks; index++) {
          const length = Math.floor(seqLen / numChunks) + (index < seqLen % numChunks ? 1 : 0);
          expect(chunk(seqLen, numChunks, index)).to.deep.equal({ start, length, stride: 1 });
          start += length;
        }
        expect(start).to.equal(seqLen);
      }),
    );
  });
});

describe('gatherShard and scatterShard', () => {
  it('take the rows at the positions of the shard, for every outer index', () => {
    const whole = Float32Array.from({ length: 2 * 4 * 3 }, (_, index) => index);
    const gathered = gatherShard(whole, shardOf('zigzag', 4, 2, 0), 2, 4, 3);
    expect([...gathered]).to.deep.equal([0, 1, 2, 9, 10, 11, 12, 13, 14, 21, 22, 23]);
  });

  it('are inverse: the shards of all ranks put the whole tensor together again', () => {
    const sizes = fc.tuple(
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 30 }),
      fc.integer({ min: 1, max: 4 }),
    );
    fc.assert(
      fc.property(anyLayout, anyWorldSize, sizes, (layout, worldSize, [outer, seqLen, inner]) => {
        const whole = Float32Array.from({ length: outer * seqLen * inner }, (_, index) => index + 1);
        const target = new Float32Array(whole.length);
        for (const shard of shardsOf(layout, seqLen, worldSize)) {
          scatterShard(target, gatherShard(whole, shard, outer, seqLen, inner), shard, outer, seqLen, inner);
        }
        expect(target).to.deep.equal(whole);
      }),
    );
  });
});

// Sequences: where each lies and what a rank holds of it, against the definition token by token.
import { expect } from 'chai';
import fc from 'fast-check';
import { LAYOUTS, shardOf } from '../../src/attention/layout.ts';
import { cutShard, listPadding, listSequences, pairShards } from '../../src/attention/sequences.ts';
import { rowsOf, uncoveredRows } from '../helpers/schedule-pairs.ts';

const SHAPE = { batch: 2, seqLenQ: 5, seqLenKv: 9, numHeads: 1, numKvHeads: 1, headDimQk: 1, headDimV: 1 };

const anyShard = fc
  .record({
    layout: fc.constantFrom(...LAYOUTS),
    seqLen: fc.integer({ min: 1, max: 40 }),
    worldSize: fc.integer({ min: 1, max: 6 }),
    rank: fc.nat(5),
  })
  .map(({ layout, seqLen, worldSize, rank }) => shardOf(layout, seqLen, worldSize, rank % worldSize));

describe('listSequences', () => {
  it('has one sequence of full length per batch entry, aligned by the mask type', () => {
    const whole = { startQ: 0, lenQ: 5, startKv: 0, lenKv: 9 };
    expect(listSequences(SHAPE, 'causal', null)).to.deep.equal([
      { batch: 0, ...whole, offset: 0 },
      { batch: 1, ...whole, offset: 0 },
    ]);
    expect(listSequences(SHAPE, 'causal_bottom_right', null).map(({ offset }) => offset)).to.deep.equal([4, 4]);
  });

  it('has a batch entry each with its lengths, or all in entry 0 when packed, aligned each by its own lengths', () => {
    const lengths = { startsQ: [0, 0], lensQ: [5, 3], startsKv: [0, 0], lensKv: [4, 9] };
    expect(listSequences(SHAPE, 'padding_causal_bottom_right', { packed: false, ...lengths })).to.deep.equal([
      { batch: 0, startQ: 0, lenQ: 5, startKv: 0, lenKv: 4, offset: -1 },
      { batch: 1, startQ: 0, lenQ: 3, startKv: 0, lenKv: 9, offset: 6 },
    ]);
    const packed = { packed: true, startsQ: [0, 3], lensQ: [2, 2], startsKv: [0, 4], lensKv: [4, 5] };
    expect(listSequences({ ...SHAPE, batch: 1 }, 'causal_bottom_right', packed)).to.deep.equal([
      { batch: 0, startQ: 0, lenQ: 2, startKv: 0, lenKv: 4, offset: 2 },
      { batch: 0, startQ: 3, lenQ: 2, startKv: 4, lenKv: 5, offset: 3 },
    ]);
  });
});

describe('cutShard', () => {
  it('lists every local row of a span once, in order, at its position in the span', () => {
    fc.assert(
      fc.property(anyShard, fc.nat(40), fc.nat(20), (shard, start, length) => {
        const rows = cutShard(shard, start, length).flatMap((piece) => {
          expect(piece.length).to.be.above(0);
          return Array.from({ length: piece.length }, (_, index) => {
            return { row: piece.row + index, position: piece.start + piece.stride * index };
          });
        });
        expect(rows).to.deep.equal(rowsOf(shard, start, length));
      }),
      { numRuns: 400 },
    );
  });
});

describe('pairShards', () => {
  it('gives each sequence its rows of both shards and its offset, also where a rank holds none of it', () => {
    const sequences = [
      { batch: 0, startQ: 0, lenQ: 3, startKv: 0, lenKv: 2, offset: -1 },
      { batch: 0, startQ: 3, lenQ: 4, startKv: 2, lenKv: 6, offset: 2 },
    ];
    const [query, kv] = [shardOf('contiguous', 8, 2, 1), shardOf('striped', 8, 2, 0)];
    expect(pairShards(query, kv, sequences)).to.deep.equal([
      { sequence: 0, offset: -1, query: [], kv: [{ row: 0, start: 0, length: 1, stride: 2 }] },
      {
        sequence: 1,
        offset: 2,
        query: [{ row: 0, start: 1, length: 3, stride: 1 }],
        kv: [{ row: 1, start: 0, length: 3, stride: 2 }],
      },
    ]);
  });
});

describe('listPadding', () => {
  it('lists the local rows of each batch entry that no span covers, once and in order', () => {
    const anySpans = fc.array(fc.tuple(fc.nat(4), fc.nat(8)), { maxLength: 4 });
    fc.assert(
      fc.property(anyShard, fc.array(anySpans, { minLength: 1, maxLength: 3 }), (shard, gaps) => {
        const spans = gaps.map((entry) => {
          let end = 0;
          return entry.map(([gap, length]) => {
            const start = end + gap;
            end = start + length;
            return [start, length] as const;
          });
        });
        const listed = listPadding(shard, spans.length, (batch) => spans[batch]).flatMap(({ batch, row, length }) =>
          Array.from({ length }, (_, index) => [batch, row + index]),
        );
        const expected = spans.flatMap((entry, batch) => uncoveredRows(shard, entry).map((row) => [batch, row]));
        expect(listed).to.deep.equal(expected);
      }),
      { numRuns: 300 },
    );
  });
});

// Both variants of the dq and dk/dv kernels, with attention-delta before them, against the f64 reference: masks, windows,
// lengths around a tile, head dims, group sizes, packed sequences and shards. Features are in the -features test.
import { expect } from 'chai';
import { LAYOUTS, shardsOf } from '../../src/attention/layout.ts';
import { MASK_TYPES, isPadding, type Window } from '../../src/attention/mask.ts';
import type { SequenceLengths } from '../../src/attention/sequences.ts';
import { BACKWARD_VARIANTS } from '../../src/gpu/backward-kernel-choice.ts';
import { FlashAttentionBackward } from '../../src/gpu/flash-attention-backward.ts';
import { POISON } from '../helpers/gpu-attention.ts';
import { createShape } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { checkGradients, runGradients } from '../helpers/gpu-gradients.ts';
import { createGradientInputs } from '../helpers/gradient-case.ts';
import { cancellationFloor } from '../helpers/tolerance.ts';

/** A pipeline of a software adapter compiles for seconds. */
const TIMEOUT_MS = 120_000;

/** Each way to specialise a variant: the width of loads and rows per lane of the one, columns and rows of the other. */
const HEAD_DIMS = {
  workgroup: [
    [33, 17],
    [72, 96],
    [192, 128],
    [256, 256],
  ],
  subgroup: [
    [8, 10],
    [33, 17],
    [64, 64],
    [96, 72],
    [192, 128],
    [256, 256],
  ],
} as const;

/** Valid lengths of two batch entries of 75 queries and 90 keys. */
const PADDED: SequenceLengths = { packed: false, startsQ: [0, 0], lensQ: [75, 40], startsKv: [0, 0], lensKv: [60, 90] };

/** Three sequences, the second without queries, with padding behind each: 80 rows of q and 90 of k and v. */
const PACKED: SequenceLengths = {
  packed: true,
  startsQ: [0, 40, 45],
  lensQ: [37, 0, 30],
  startsKv: [2, 35, 60],
  lensKv: [30, 20, 25],
};

const WINDOWS: [Window, 'no_mask' | 'causal' | 'causal_bottom_right'][] = [
  [[17, 0], 'causal'],
  [[5, 9], 'no_mask'],
  [[-1, 3], 'no_mask'],
  [[0, -1], 'causal_bottom_right'],
];

for (const variant of BACKWARD_VARIANTS) {
  describe(`flash-attention-backward, ${variant} variant`, function () {
    this.timeout(TIMEOUT_MS);
    const gpu = useGpu();
    const headDimQk = 16;

    for (const maskType of MASK_TYPES) {
      it(`matches the reference: ${maskType}, batch 2, Sq 75, Skv 90`, async () => {
        const shape = createShape({ batch: 2, seqLenQ: 75, seqLenKv: 90, headDimQk });
        const lengths = isPadding(maskType) ? { lengths: PADDED } : {};
        await checkGradients(gpu(), { shape, variant, options: { maskType }, ...lengths });
      });
    }

    for (const [window, maskType] of WINDOWS) {
      it(`matches the reference: window ${window.join(', ')}, ${maskType}, S 140`, async () => {
        const shape = createShape({ seqLenQ: 140, headDimQk });
        await checkGradients(gpu(), { shape, variant, options: { maskType, window } });
      });
    }

    for (const offset of [-1, 0, 1]) {
      it(`matches the reference: causal, S = a tile's rows ${offset < 0 ? '−' : '+'} ${Math.abs(offset)}`, async () => {
        const { queryTileRows, keyTileRows } = await FlashAttentionBackward.create(gpu(), {
          headDimQk,
          headDimV: headDimQk,
          variant,
        });
        for (const seqLenQ of new Set([queryTileRows + offset, keyTileRows + offset])) {
          await checkGradients(gpu(), {
            shape: createShape({ seqLenQ, headDimQk }),
            variant,
            options: { maskType: 'causal' },
          });
        }
      });
    }

    it('matches the reference: one query, and one key', async () => {
      await checkGradients(gpu(), { shape: createShape({ seqLenQ: 1, seqLenKv: 70, headDimQk }), variant });
      // With one key P is 1 and dS is 0, but for the rounding of dP and delta.
      const floor = cancellationFloor({ headDimV: headDimQk, factor: 1 / Math.sqrt(headDimQk), rows: 70 });
      const shape = createShape({ seqLenQ: 70, seqLenKv: 1, headDimQk });
      await checkGradients(gpu(), { shape, variant }, undefined, floor);
    });

    for (const numKvHeads of [4, 2, 1]) {
      it(`sums dk and dv over the group: 4 heads on ${numKvHeads} KV heads, batch 2, Sq ≠ Skv`, async () => {
        const shape = createShape({ batch: 2, seqLenQ: 70, seqLenKv: 45, numHeads: 4, numKvHeads, headDimQk });
        await checkGradients(gpu(), { shape, variant, options: { maskType: 'causal' } });
      });
    }

    for (const [dimQk, dimV] of HEAD_DIMS[variant]) {
      it(`matches the reference: D ${dimQk}/${dimV}, causal, S 70`, async () => {
        const shape = createShape({ seqLenQ: 70, headDimQk: dimQk, headDimV: dimV });
        await checkGradients(gpu(), { shape, variant, options: { maskType: 'causal' } });
      });
    }

    for (const layout of LAYOUTS) {
      it(`accumulates over the blocks of 3 ${layout} shards as over one block, causal, S 101`, async () => {
        const shape = createShape({ seqLenQ: 101, numHeads: 2, numKvHeads: 1, headDimQk });
        const shards = shardsOf(layout, 101, 3);
        await checkGradients(gpu(), { shape, variant, options: { maskType: 'causal' }, queries: shards, kv: shards });
      });
    }

    it('gives padding between packed sequences gradients of 0', async () => {
      const shape = createShape({ seqLenQ: 80, seqLenKv: 90, headDimQk });
      const options = { maskType: 'causal_bottom_right' } as const;
      const { dq, dk, dv } = await checkGradients(gpu(), { shape, variant, options, lengths: PACKED });
      const rowSize = shape.numHeads * headDimQk;
      expect([...dq.subarray(37 * rowSize, 45 * rowSize)].every((value) => value === 0)).to.equal(true);
      for (const gradient of [dk, dv]) {
        expect([...gradient.subarray(0, 2 * rowSize)].every((value) => value === 0)).to.equal(true);
      }
    });

    it('leaves padding untouched that is not listed', async () => {
      const shape = createShape({ seqLenQ: 80, seqLenKv: 90, headDimQk });
      const testCase = { shape, variant, lengths: PACKED, listsPadding: false };
      const { dq, dk, dv } = await runGradients(gpu(), testCase, createGradientInputs(testCase));
      const rowSize = shape.numHeads * headDimQk;
      const poisonedRows = (gradient: Float32Array): number[] =>
        Array.from({ length: gradient.length / rowSize }, (_, row) => row).filter((row) =>
          gradient.subarray(row * rowSize, (row + 1) * rowSize).every((value) => value === POISON),
        );
      const outside = (rows: number, starts: readonly number[], lens: readonly number[]): number[] =>
        Array.from({ length: rows }, (_, row) => row).filter(
          (row) => !starts.some((start, index) => row >= start && row < start + lens[index]),
        );
      expect(poisonedRows(dq)).to.deep.equal(outside(80, PACKED.startsQ, PACKED.lensQ));
      expect(poisonedRows(dk)).to.deep.equal(outside(90, PACKED.startsKv, PACKED.lensKv));
      expect(poisonedRows(dv)).to.deep.equal(outside(90, PACKED.startsKv, PACKED.lensKv));
    });

    it('gives a row without a key the gradient 0, and nothing to the keys', async () => {
      // Sq > Skv: the first 30 queries end before the first key.
      const shape = createShape({ seqLenQ: 80, seqLenKv: 50, headDimQk });
      const options = { maskType: 'causal_bottom_right' } as const;
      const { dq } = await checkGradients(gpu(), { shape, variant, options });
      const rowSize = shape.numHeads * headDimQk;
      expect([...dq.subarray(0, 30 * rowSize)].every((value) => value === 0)).to.equal(true);
      // Row 30 keeps one key: its dS is 0 but for rounding.
      expect([...dq.subarray(31 * rowSize)].some((value) => value === 0)).to.equal(false);
    });

    it('stays exact when every score is far from 0', async () => {
      const testCase = { shape: createShape({ seqLenQ: 40, headDimQk }), variant };
      const inputs = createGradientInputs(testCase);
      // Equal keys: P is 1/S, however large the scores are, and dq is 0 but for rounding.
      (inputs.k.data as Float32Array).fill(200);
      const { dq, dk, dv } = await runGradients(gpu(), testCase, inputs);
      expect([...dq, ...dk, ...dv].every((value) => Number.isFinite(value))).to.equal(true);
      for (let d = 0; d < headDimQk; d++) {
        let mean = 0;
        for (let i = 0; i < 40; i++) mean += (inputs.dout.data as Float32Array)[i * 2 * headDimQk + d] / 40;
        // lse is a f32 near 1e3: half an ulp of it is a relative error of 3e-5 in P.
        expect(dv[d]).to.be.closeTo(mean, 1e-4);
      }
    });

    it('gives the same bits when it runs again', async () => {
      const shape = createShape({ seqLenQ: 130, numHeads: 4, numKvHeads: 2, headDimQk });
      const testCase = { shape, variant, options: { maskType: 'causal' } } as const;
      const inputs = createGradientInputs(testCase);
      const first = await runGradients(gpu(), testCase, inputs);
      const second = await runGradients(gpu(), testCase, inputs);
      for (const name of ['dq', 'dk', 'dv'] as const) {
        expect(Buffer.from(second[name].buffer).equals(Buffer.from(first[name].buffer)), name).to.equal(true);
      }
    });
  });
}

// The grid options of `kvring bench`: lists and ranges in, one case per combination out, all checked before any is run.
import type { Command } from 'commander';
import { expandGrid, parseIntegers } from '../../bench/grid.ts';
import type { BenchCase } from '../../bench/suite.ts';
import { validateShape } from '../attention/shape.ts';
import { CP_COMM_TYPE_WORDS, DIRECTION_WORDS, DTYPE_WORDS, LAYOUT_WORDS, MASK_TYPE_WORDS } from './options.ts';
import { parseWordList, valueOption, type Vocabulary } from './values.ts';

/** What {@link addGridOptions} gives: the values of every axis. */
export interface GridFlags {
  batch: number[];
  seqLen: number[];
  numHeads: number[];
  /** Absent: as many as query heads. */
  numKvHeads?: number[];
  headDim: number[];
  dtype: BenchCase['dtype'][];
  maskType: BenchCase['maskType'][];
  direction: BenchCase['direction'][];
  ranks: number[];
  cpCommType: BenchCase['cpCommType'][];
  layout: BenchCase['layout'][];
}

/** Adds the grid options. `ranks` is the default number of ranks. */
export function addGridOptions(command: Command, ranks: number): Command {
  const integers = (flags: string, description: string) => valueOption(flags, description, parseIntegers);
  const words = <T extends string>(flags: string, vocabulary: Vocabulary<T>) =>
    valueOption(flags, vocabulary.supported.join(', '), (name, text) => parseWordList(name, text, vocabulary));
  return command
    .addOption(integers('--batch <list>', 'batch size').default([1], '1'))
    .addOption(
      integers('--seq-len <list>', 'tokens of the whole sequence: 1024,2048 or 1024-8192*2').default([1024], '1024'),
    )
    .addOption(integers('--num-heads <list>', 'query heads').default([8], '8'))
    .addOption(integers('--num-kv-heads <list>', 'KV heads (default: as many as query heads)'))
    .addOption(integers('--head-dim <list>', 'head dim of q, k and v').default([64], '64'))
    .addOption(words('--dtype <list>', DTYPE_WORDS).default(['f32'], 'f32'))
    .addOption(words('--mask-type <list>', MASK_TYPE_WORDS).default(['no_mask'], 'no_mask'))
    .addOption(words('--direction <list>', DIRECTION_WORDS).default(['forward'], 'forward'))
    .addOption(integers('--ranks <list>', 'ranks of the ring').default([ranks], String(ranks)))
    .addOption(words('--cp-comm-type <list>', CP_COMM_TYPE_WORDS).default(['p2p'], 'p2p'))
    .addOption(words('--layout <list>', LAYOUT_WORDS).default(['zigzag'], 'zigzag'));
}

/**
 * Every case of the grid, ranks slowest and direction fastest.
 *
 * @throws ConfigError ERR_SHAPE when the sizes of a case do not fit together
 */
export function spanGrid(flags: GridFlags): BenchCase[] {
  const { batch, seqLen, numHeads, numKvHeads, headDim, dtype, maskType, direction, ranks, cpCommType, layout } = flags;
  // 0 stands for as many KV heads as query heads until the query heads are known.
  const heads = { numHeads, numKvHeads: numKvHeads ?? [0] };
  const axes = { ranks, cpCommType, layout, batch, seqLen, ...heads, headDim, dtype, maskType, direction };
  const cases = expandGrid<BenchCase>(axes).map((point) => ({
    ...point,
    numKvHeads: point.numKvHeads || point.numHeads,
  }));
  cases.forEach(checkCase);
  return cases;
}

function checkCase({ batch, seqLen, numHeads, numKvHeads, headDim }: BenchCase): void {
  const sizes = { batch, seqLenQ: seqLen, seqLenKv: seqLen, numHeads, numKvHeads };
  validateShape({ ...sizes, headDimQk: headDim, headDimV: headDim });
}

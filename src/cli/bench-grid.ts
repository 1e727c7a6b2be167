// The grid options of `kvring bench`: lists and ranges in, one case per combination out, all checked before any is run.
import type { Command } from 'commander';
import { describeCase } from '../../bench/case.ts';
import { expandGrid, parseIntegers } from '../../bench/grid.ts';
import { type BenchCase, DIRECTIONS } from '../../bench/suite.ts';
import { isPadding, MASK_TYPES, type MaskType, type Window } from '../attention/mask.ts';
import { CP_COMM_TYPE_WORDS, DTYPE_WORDS, LAYOUT_WORDS } from './options.ts';
import { parseWindowList, parseWordList, valueOption, type Vocabulary } from './values.ts';

const MASK_TYPE_WORDS: Vocabulary<MaskType> = {
  supported: MASK_TYPES.filter((maskType) => !isPadding(maskType)),
  unsupported: MASK_TYPES.filter(isPadding),
  reason: 'a padding type needs the length of every sequence, which a grid does not have',
};
const FULL: Window = [-1, -1];

/** What {@link addGridOptions} gives: the values of every axis. */
export interface GridFlags {
  batch: number[];
  seqLen: number[];
  /** Absent: as many keys as queries. */
  seqLenKv?: number[];
  numHeads: number[];
  /** Absent: as many as query heads. */
  numKvHeads?: number[];
  headDim: number[];
  dtype: BenchCase['dtype'][];
  maskType: MaskType[];
  window: Window[];
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
    .addOption(integers('--seq-len-kv <list>', 'keys, when not as many as queries: --seq-len 1 for decoding'))
    .addOption(integers('--num-heads <list>', 'query heads').default([8], '8'))
    .addOption(integers('--num-kv-heads <list>', 'KV heads (default: as many as query heads)'))
    .addOption(integers('--head-dim <list>', 'head dim of q, k and v').default([64], '64'))
    .addOption(words('--dtype <list>', DTYPE_WORDS).default(['f32'], 'f32'))
    .addOption(words('--mask-type <list>', MASK_TYPE_WORDS).default(['no_mask'], 'no_mask'))
    .addOption(
      valueOption('--window <list>', 'left,right; -1 is unlimited; several separated by ;', parseWindowList).default(
        [FULL],
        '-1,-1',
      ),
    )
    .addOption(words('--direction <list>', { supported: DIRECTIONS }).default(['forward'], 'forward'))
    .addOption(integers('--ranks <list>', 'ranks of the ring').default([ranks], String(ranks)))
    .addOption(words('--cp-comm-type <list>', CP_COMM_TYPE_WORDS).default(['p2p'], 'p2p'))
    .addOption(words('--layout <list>', LAYOUT_WORDS).default(['zigzag'], 'zigzag'));
}

/**
 * Every case of the grid, ranks slowest and direction fastest.
 *
 * @throws ConfigError ERR_SHAPE when the sizes of a case do not fit together, ERR_OPTION for a window out of range
 */
export function spanGrid(flags: GridFlags): BenchCase[] {
  const { batch, seqLen, seqLenKv, numHeads, numKvHeads, headDim, ranks, cpCommType, layout } = flags;
  const { dtype, maskType, window, direction } = flags;
  // 0 stands for as many keys as queries, and as many KV heads as query heads, until these are known.
  const sizes = { seqLen, seqLenKv: seqLenKv ?? [0], numHeads, numKvHeads: numKvHeads ?? [0] };
  const axes = { ranks, cpCommType, layout, batch, ...sizes, headDim, dtype, maskType, window, direction };
  const cases = expandGrid<BenchCase>(axes).map((point) => ({
    ...point,
    seqLenKv: point.seqLenKv || point.seqLen,
    numKvHeads: point.numKvHeads || point.numHeads,
  }));
  cases.forEach(describeCase);
  return cases;
}

// Where the partial results of splits of the keys lie, and what they are: out [splits, H, SPLIT_ROWS, Dv], not yet
// divided by the denominator, and a state [splits, H, SPLIT_ROWS] of four f32: max and sum of RowState, the largest
// score, unused. An lse alone would round scores of 1e4 to thousandths. The tiles of their schedule are splits: a tile
// of the step with a part of its ranges.
// requires: schedule.wgsl, online-softmax.wgsl

override SPLIT_ROWS: u32 = 8; // query rows of a tile, at most

const STATE_SIZE: u32 = 4;

// Row of the partial results; `row` counts within the tile.
fn split_row_index(split: u32, head: u32, row: u32) -> u32 {
  return (split * params.num_heads + head) * SPLIT_ROWS + row;
}

// A kernel that writes partial results binds the states as its `lse`.
fn write_split_state(index: u32, state: RowState, largest: f32) {
  lse[index * STATE_SIZE] = state.max;
  lse[index * STATE_SIZE + 1] = state.sum;
  lse[index * STATE_SIZE + 2] = largest;
}

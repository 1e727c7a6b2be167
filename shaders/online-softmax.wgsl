// The start and the end of a query row in the online softmax: the sink, lse, and the largest score.
// requires: schedule.wgsl, mask.wgsl

override TRACKS_MAX: bool = false; // also write the largest score of each row, behind the B * H * rows_q values of lse

// A kernel that requires this module binds `lse: array<f32>`.

// The weights that a row has seen, relative to a maximum in log2 units: denominator = sum * exp2(max).
struct RowState {
  max: f32,
  sum: f32,
}

// A sink counts as a key that the row saw first. Padding has none, and a sink of -inf is none.
fn start_row(tile: Tile, head: u32) -> RowState {
  let sink = sink_of(head);
  let counts = params.counts_sink == 1 && tile.position_stride > 0 && sink > INITIAL_MAX;
  return RowState(select(INITIAL_MAX, sink, counts), select(0.0, 1.0, counts));
}

// `largest` is that of the scores alone, INITIAL_MAX without any.
fn write_lse(index: u32, state: RowState, largest: f32) {
  var value = MASKED_LSE;
  if (state.sum > 0.0) {
    value = (state.max + log2(state.sum)) * LN_2;
  }
  lse[index] = value;
  if (TRACKS_MAX) {
    let num_rows = params.batch * params.num_heads * params.rows_q;
    lse[num_rows + index] = select(MASKED_LSE, largest * LN_2, largest > INITIAL_MAX);
  }
}

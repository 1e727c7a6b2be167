// Merges the result of one ring step into the running result, for the rows of the step's tiles and no others. The
// formula and its derivation are those of src/attention/merge.ts; a masked side is the identity, and exp2 never sees a
// positive argument. One workgroup is one tile of one head; COLUMNS neighbours share a row, and each recomputes its
// weights.
//   out, block_out [B, rows_q, H, Dv]   lse, block_lse [B, H, rows_q], twice that with max logit
// requires: schedule.wgsl

override WORKGROUP_SIZE: u32 = 32;
override COLUMNS: u32 = 1; // divides WORKGROUP_SIZE; 1 needs no barrier
override TRACKS_MAX: bool = false; // also the largest scores, behind lse

@group(0) @binding(0) var<storage, read> block_out: array<f32>;
@group(0) @binding(1) var<storage, read> block_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

struct Merged {
  weight: f32,
  block_weight: f32,
  lse: f32,
}

// log(1 + x) for 0 <= x <= 1, where 1 + x alone would lose a small x to rounding.
fn log1p_unit(x: f32) -> f32 {
  let sum = 1.0 + x;
  return select(log2(sum) * LN_2, x, sum == 1.0);
}

fn merge_lse(old: f32, block: f32) -> Merged {
  if (block <= MASKED_LSE / 2) {
    return Merged(1.0, 0.0, old);
  }
  if (old <= MASKED_LSE / 2) {
    return Merged(0.0, 1.0, block);
  }
  let ratio = exp2(-abs(old - block) * LOG2_E);
  let larger = 1.0 / (1.0 + ratio);
  let smaller = ratio * larger;
  let merged = max(old, block) + log1p_unit(ratio);
  return Merged(select(smaller, larger, old >= block), select(larger, smaller, old >= block), merged);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let tile = load_tile(workgroup.x);
  let batch = batch_of(tile);
  let head = workgroup.y;
  let head_dim = params.head_dim_v;
  let column = invocation % COLUMNS;
  for (var base = 0u; base < tile.row_count; base += WORKGROUP_SIZE / COLUMNS) {
    // An invocation past the last row repeats that row up to the barrier, and writes nothing.
    let row = base + invocation / COLUMNS;
    let index = row_index(batch, head, tile.row + min(row, tile.row_count - 1));
    let merged = merge_lse(lse[index], block_lse[index]);
    if (COLUMNS > 1) {
      storageBarrier(); // every column has read lse before the first one writes it
    }
    if (row < tile.row_count) {
      let first = query_offset(batch, tile.row + row, head, head_dim);
      for (var i = first + column; i < first + head_dim; i += COLUMNS) {
        out[i] = merged.weight * out[i] + merged.block_weight * block_out[i];
      }
      if (column == 0) {
        lse[index] = merged.lse;
        if (TRACKS_MAX) {
          let largest = params.batch * params.num_heads * params.rows_q + index;
          lse[largest] = max(lse[largest], block_lse[largest]);
        }
      }
    }
  }
}

// Query rows times the query heads that share a KV head, four at a time: the lanes of a vector. All of them meet the
// same rows of k and v.
// requires: schedule.wgsl

const ROWS: u32 = 4; // of a workgroup

// Rows past the last one repeat it and are not written.
struct Rows {
  tile: Tile,
  batch: u32,
  kv_head: u32,
  row: vec4u, // within the tile
  position: vec4u,
  head: vec4u,
  num_rows: u32,
}

fn place_rows(workgroup: vec3u) -> Rows {
  let tile = load_tile(workgroup.x);
  let first = workgroup.z * ROWS;
  let end = tile.row_count * params.group_size;
  let packed = min(first + vec4u(0, 1, 2, 3), vec4u(end - 1));
  let row = packed / params.group_size;
  let head = workgroup.y * params.group_size + packed % params.group_size;
  let position = tile.position + tile.position_stride * row;
  return Rows(tile, batch_of(tile), workgroup.y, row, position, head, min(ROWS, max(end, first) - first));
}

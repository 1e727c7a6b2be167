// Which attention weights dropout drops: Threefry-2x32 with 13 rounds, as src/attention/dropout.ts explains it. The mask
// depends on seed, sequence, head and positions alone, so that every tiling and every number of ranks drops the same.
// requires: schedule.wgsl

const THREEFRY_PARITY: u32 = 0x1bd11bda;

fn rotate_left(x: u32, bits: u32) -> u32 {
  return (x << bits) | (x >> (32 - bits));
}

fn threefry_round(x: vec2u, bits: u32) -> vec2u {
  let sum = x.x + x.y;
  return vec2u(sum, rotate_left(x.y, bits) ^ sum);
}

fn threefry(key: vec2u, counter: vec2u) -> vec2u {
  let parity = THREEFRY_PARITY ^ key.x ^ key.y;
  var x = counter + key;
  x = threefry_round(threefry_round(threefry_round(threefry_round(x, 13), 15), 26), 6);
  x += vec2u(key.y, parity + 1);
  x = threefry_round(threefry_round(threefry_round(threefry_round(x, 17), 29), 16), 24);
  x += vec2u(parity, key.x + 2);
  x = threefry_round(threefry_round(threefry_round(threefry_round(x, 13), 15), 26), 6);
  x += vec2u(key.x, key.y + 3);
  return threefry_round(x, 17);
}

// The key of all weights of one head of one sequence.
fn dropout_key(sequence: u32, head: u32) -> vec2u {
  return threefry(vec2u(params.seed_low, params.seed_high), vec2u(sequence, head));
}

// What the weight of query i and key j is multiplied with: 0, or 1 / (1 - dropout).
fn dropout_factor(key: vec2u, i: u32, j: u32) -> f32 {
  return select(0.0, params.dropout_scale, threefry(key, vec2u(i, j)).x >= params.dropout_threshold);
}

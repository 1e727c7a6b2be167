// Rounds f32 to f16 or bf16, two elements to a word, the lower half first: to nearest, ties to even, with subnormals;
// what is too large becomes infinity, and NaN stays NaN. In integers, so that the bits are those of
// src/tensor/float16.ts on every adapter: pack2x16float may flush, and may round otherwise.
//   source [2 · words] bits of f32, target [words]
// requires: element.wgsl

override WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;

// Bits of f32 numbers.
const INFINITY_32: u32 = 0x7f800000;
const TWO_TO_16: u32 = 0x47800000;
const TWO_TO_MINUS_14: u32 = 0x38800000; // the smallest normal f16
const BIAS_DIFFERENCE: u32 = 0x38000000; // (127 - 15) << 23: what the exponent of an f32 is more than that of an f16

// bits / 2^count, to nearest, ties to even; count from 1 to 31.
fn shift_rounding(bits: u32, count: u32) -> u32 {
  return (bits + (1u << (count - 1)) - 1 + ((bits >> count) & 1)) >> count;
}

fn encode_f16(bits: u32) -> u32 {
  let sign = (bits >> 16) & 0x8000;
  let magnitude = bits & 0x7fffffff;
  if (magnitude > INFINITY_32) {
    return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff);
  }
  if (magnitude >= TWO_TO_16) {
    return sign | 0x7c00;
  }
  if (magnitude >= TWO_TO_MINUS_14) {
    // A carry out of the mantissa lands in the exponent, as it should, up to infinity.
    return sign | shift_rounding(magnitude - BIAS_DIFFERENCE, 13);
  }
  // A subnormal counts units of 2^-24, and the mantissa below, with its hidden bit, units of 2^(exponent - 150).
  let shift = min(126 - (magnitude >> 23), 31u);
  return sign | shift_rounding((magnitude & 0x7fffff) | 0x800000, shift);
}

fn encode_bf16(bits: u32) -> u32 {
  if ((bits & 0x7fffffff) > INFINITY_32) {
    return (bits >> 16) | 0x40;
  }
  return shift_rounding(bits, 16);
}

fn encode(bits: u32) -> u32 {
  if (ELEMENT_FORMAT == 2) {
    return encode_bf16(bits);
  }
  return encode_f16(bits);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) invocation: vec3u, @builtin(num_workgroups) num_workgroups: vec3u) {
  let num_words = arrayLength(&target_words);
  for (var i = invocation.x; i < num_words; i += num_workgroups.x * WORKGROUP_SIZE) {
    target_words[i] = encode(source[2 * i]) | (encode(source[2 * i + 1]) << 16);
  }
}

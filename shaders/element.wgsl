// How elements of q, k, v and dout are stored: f32, or f16 or bf16 two to a word, the lower half first. Both 16-bit formats
// need no feature of the adapter, and are exact in f32.

const ELEMENT_FORMAT: u32 = 0; // 0 f32, 1 f16, 2 bf16
const ELEMENTS_PER_WORD: u32 = select(2u, 1u, ELEMENT_FORMAT == 0);

// Element `index` of a tensor, from the word `tensor[index / ELEMENTS_PER_WORD]`.
fn decode_element(word: u32, index: u32) -> f32 {
  if (ELEMENT_FORMAT == 0) {
    return bitcast<f32>(word);
  }
  let half = (word >> (16 * (index % 2))) & 0xffff;
  if (ELEMENT_FORMAT == 1) {
    return unpack2x16float(half).x;
  }
  return bitcast<f32>(half << 16);
}

// Where shader text comes from: whoever builds a device hands it over, because only the host (Node, a page) knows how
// to read files.

/** The text of every file of shaders/ by its name, for example `merge-block.wgsl`. */
export type ShaderLibrary = ReadonlyMap<string, string>;

/** Every file of shaders/: for hosts that cannot list a folder. A test compares it with the folder. */
export const SHADER_FILES = [
  'attention-delta.wgsl',
  'bias-gradient.wgsl',
  'convert-elements.wgsl',
  'dropout.wgsl',
  'element.wgsl',
  'flash-attention-backward-dkv-subgroup.wgsl',
  'flash-attention-backward-dkv.wgsl',
  'flash-attention-backward-dq-subgroup.wgsl',
  'flash-attention-backward-dq.wgsl',
  'flash-attention-forward-subgroup.wgsl',
  'flash-attention-forward.wgsl',
  'mask.wgsl',
  'merge-block.wgsl',
  'merge-splits.wgsl',
  'online-softmax.wgsl',
  'packed-rows.wgsl',
  'schedule.wgsl',
  'score-gradient.wgsl',
  'score.wgsl',
  'sink-gradient.wgsl',
  'split-kv-attention.wgsl',
  'split-rows.wgsl',
  'tile-accumulation.wgsl',
  'tile-products.wgsl',
] as const;

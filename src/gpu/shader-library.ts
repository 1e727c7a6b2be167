// Where shader text comes from: whoever builds a device hands it over, because only the host (Node, a page) knows how
// to read files.

/** The text of every file of shaders/ by its name, for example `merge-block.wgsl`. */
export type ShaderLibrary = ReadonlyMap<string, string>;

/** Every file of shaders/: for hosts that cannot list a folder. A test compares it with the folder. */
export const SHADER_FILES = [
  'flash-attention-forward-subgroup.wgsl',
  'flash-attention-forward.wgsl',
  'mask.wgsl',
  'merge-block.wgsl',
  'schedule.wgsl',
] as const;

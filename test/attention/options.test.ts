// Options of a call: their defaults, and both sides of every limit.
import { expect } from 'chai';
import { UNLIMITED } from '../../src/attention/mask.ts';
import { type AttentionOptions, fillOptions, OPTION_NAMES } from '../../src/attention/options.ts';
import { expectConfigError } from '../helpers/expect-config-error.ts';

const DEFAULTS: AttentionOptions = {
  maskType: 'no_mask',
  window: [-1, -1],
  softmaxScale: 0.125,
  softcap: 0,
  sink: 'none',
  dropout: 0,
  seed: 0,
  maxLogit: false,
};

type Value = string | number | boolean | number[];

/** Values on the right side of each limit, and on the wrong one. */
const VALUES: Record<keyof AttentionOptions, { legal: Value[]; illegal: Value[] }> = {
  maskType: { legal: ['padding_causal_bottom_right'], illegal: ['diagonal', '', 0] },
  window: {
    legal: [
      [0, 0],
      [UNLIMITED - 1, -1],
    ],
    illegal: [[-2, 0], [0, 1.5], [NaN, 0], [UNLIMITED, 0], [1], [1, 2, 3], 'none', 4],
  },
  softmaxScale: { legal: [0, -2, 1e-30], illegal: [NaN, Infinity, '1'] },
  softcap: { legal: [0, 1e-3, 50], illegal: [-1, NaN, Infinity, '5'] },
  sink: { legal: ['none', 'off_by_one', 'learnable'], illegal: ['on', true] },
  dropout: { legal: [0, 0.5, 1 - 2 ** -53], illegal: [1, -0.1, NaN, Infinity] },
  seed: { legal: [0, 2 ** 53 - 1], illegal: [-1, 0.5, 2 ** 53, NaN] },
  maxLogit: { legal: [true, false], illegal: [1, 'yes'] },
};

describe('fillOptions', () => {
  it('gives every option its default', () => {
    expect(fillOptions({}, 64)).to.deep.equal(DEFAULTS);
    expect(Object.keys(DEFAULTS)).to.deep.equal([...OPTION_NAMES]);
  });

  it('scales by 1/√Dqk unless told otherwise, 0 included', () => {
    expect(fillOptions({}, 100).softmaxScale).to.equal(0.1);
    expect(fillOptions({ softmaxScale: 0 }, 100).softmaxScale).to.equal(0);
  });

  for (const [name, { legal, illegal }] of Object.entries(VALUES)) {
    it(`accepts ${name} up to its limits, as given`, () => {
      for (const value of legal) {
        expect(fillOptions({ [name]: value }, 64)).to.deep.equal({ ...DEFAULTS, [name]: value });
      }
    });

    it(`refuses ${name} beyond them with ERR_OPTION, naming it and its value`, () => {
      for (const value of illegal) {
        const shown = String(value).replace(/[.[\]]/g, '\\$&');
        expectConfigError(
          () => fillOptions({ [name]: value }, 64),
          'ERR_OPTION',
          new RegExp(`attention: ${name} must be .*, got ${name}=${shown}`),
        );
      }
    });
  }
});

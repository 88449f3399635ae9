// The image that tiles read: a padded copy of one band of one group, in the compute type or in pairs of its channels,
// its elements.
//
// Note [phases]: a convolution with stride s reads, for one tap, every s-th pixel. The copy sorts the pixels of an axis
// by their place modulo s, so that each tap reads neighbours whatever the stride: tap k of output i is element i +
// shift(k) of phase(k). The gradient of a strided convolution is the mirror image: outputs i, i + s, i + 2s, ... share
// their taps, so each of those phases is a convolution of stride 1 of its own, with a subset of the taps.
//
// Note [lines of taps]: along the width each tap may have a phase to itself, the line as that tap reads it. Such lines
// are as long as those of the output, so that vectors along them go on from one line to the next without a gap.
//
// Tiles whose vectors do not run along pixels need neither: outputs may be any number of elements apart.
#pragma once

#include "core/args.h"
#include "cpu/conv/tile.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// How the copy sorts the elements of an axis: as they lie, or by Note [phases] or Note [lines of taps].
enum class Order { plain, phases, taps };

// One axis of the source and how outputs walk along it.
struct Walk {
  math::Axis axis;
  bool transposed, each_tap;
  int64_t extent;           // of the source
  int64_t pixel;            // elements between what neighbouring outputs read
  int64_t step;             // source index = origin(phase) + step * element
  int64_t phases;           // of the source
  int64_t lowest, spread;   // shifts are in [lowest, lowest + spread]
  int64_t out_step, count;  // outputs are first + out_step * i, i < count

  // Elements of a phase that so many outputs read.
  NNART_HD int64_t elements(int64_t outputs) const { return outputs * pixel + spread; }
  NNART_HD int64_t origin(int64_t phase) const {
    int64_t distance = phase * axis.dilation - axis.pad;
    if (each_tap) return transposed ? -div_floor(distance, axis.stride) : distance;
    return modulo(distance, step);
  }
};

NNART_HD Walk walk_of(const math::Axis& axis, bool transposed, Order order) {
  Walk walk{};
  walk.axis = axis;
  walk.transposed = transposed;
  walk.each_tap = order == Order::taps;
  walk.pixel = 1;
  int64_t reach = (axis.kernel - 1) * axis.dilation;
  int64_t highest;
  if (transposed) {
    walk.extent = axis.out;
    walk.step = walk.phases = 1;
    walk.out_step = axis.stride;
    walk.count = ceil_div(axis.in, axis.stride);
    walk.lowest = div_up(axis.pad - reach, axis.stride);
    highest = div_floor(axis.pad + axis.stride - 1, axis.stride);
  } else if (order == Order::plain) {
    walk.extent = axis.in;
    walk.step = walk.phases = walk.out_step = 1;
    walk.pixel = axis.stride;
    walk.count = axis.out;
    walk.lowest = -axis.pad;
    highest = reach - axis.pad;
  } else {
    int64_t period = 1;  // of the taps' phases: stride / gcd(stride, dilation)
    while (period * axis.dilation % axis.stride != 0) ++period;
    walk.extent = axis.in;
    walk.step = axis.stride;
    walk.phases = least(axis.kernel, period);
    walk.out_step = 1;
    walk.count = axis.out;
    walk.lowest = div_floor(-axis.pad, axis.stride);
    highest = div_floor(reach - axis.pad, axis.stride);
  }
  if (walk.each_tap) {
    walk.phases = axis.kernel;
    walk.lowest = highest = 0;
  }
  walk.spread = highest - walk.lowest;
  return walk;
}

// Where tap k of the outputs first, first + out_step, ... reads; not valid where those outputs lack the tap.
struct Tap {
  bool valid;
  int64_t phase, shift;
};

NNART_HD Tap tap_of(const Walk& walk, int64_t first, int64_t k) {
  if (walk.transposed) {
    int64_t distance = first + walk.axis.pad - k * walk.axis.dilation;
    bool valid = modulo(distance, walk.axis.stride) == 0;
    if (walk.each_tap) return {valid, k, 0};
    return {valid, 0, div_floor(distance, walk.axis.stride)};
  }
  if (walk.each_tap) return {true, k, 0};
  int64_t distance = k * walk.axis.dilation - walk.axis.pad;
  return {true, k % walk.phases, div_floor(distance, walk.step)};
}

// A piece of the work along batch, depth and height; a whole line in width.
struct Band {
  int64_t image, images, d, d_count, h, h_count;
};

// Bands of equal size that cover a problem.
struct Bands {
  int64_t batch, d, h;               // what there is
  int64_t images, d_count, h_count;  // of one band
  NNART_HD int64_t pieces() const { return ceil_div(batch, images) * ceil_div(d, d_count) * ceil_div(h, h_count); }
  NNART_HD Band at(int64_t piece) const {
    int64_t h_pieces = ceil_div(h, h_count), d_pieces = ceil_div(d, d_count);
    Band band{};
    band.h = piece % h_pieces * h_count;
    band.d = piece / h_pieces % d_pieces * d_count;
    band.image = piece / (h_pieces * d_pieces) * images;
    band.images = least(images, batch - band.image);
    band.d_count = least(d_count, d - band.d);
    band.h_count = least(h_count, h - band.h);
    return band;
  }
};

// How the copy of one band is laid out. Channels come first, each with its planes, or last, beside each other.
struct SourceLayout {
  Walk walk[3];
  int64_t channels;  // in elements
  bool channels_first;
  int64_t depth, height, width;  // lines of one phase of depth and height, elements of a line
  int64_t image_stride, channel_stride, phase_stride, d_stride, h_stride,
      w_stride;  // phase_stride: between those of width

  NNART_HD int64_t tap_offset(Tap d, Tap h, Tap w) const {
    return (d.phase * depth + d.shift - walk[0].lowest) * d_stride +
           (h.phase * height + h.shift - walk[1].lowest) * h_stride + w.phase * phase_stride +
           (w.shift - walk[2].lowest) * w_stride;
  }
  // Where the sum of output (d, h, 0) of a band's image begins, and how much further the next pixel's.
  NNART_HD int64_t line_offset(int64_t image, int64_t d, int64_t h) const {
    return image * image_stride + d * walk[0].pixel * d_stride + h * walk[1].pixel * h_stride;
  }
  NNART_HD int64_t pixel_stride() const { return walk[2].pixel * w_stride; }
};

NNART_HD int64_t elements_of_image(const Walk* walk, int64_t channels, int64_t d_count, int64_t h_count) {
  return channels * walk[0].phases * walk[0].elements(d_count) * walk[1].phases * walk[1].elements(h_count) *
         walk[2].phases * walk[2].elements(walk[2].count);
}

NNART_HD SourceLayout layout_of(const Walk* walk, int64_t channels, const Bands& bands, bool channels_first) {
  SourceLayout layout{};
  for (int a = 0; a < 3; ++a) layout.walk[a] = walk[a];
  layout.channels = channels;
  layout.channels_first = channels_first;
  layout.depth = walk[0].elements(bands.d_count);
  layout.height = walk[1].elements(bands.h_count);
  layout.width = walk[2].elements(walk[2].count);
  int64_t depths = walk[0].phases * layout.depth, heights = walk[1].phases * layout.height;
  if (channels_first) {
    layout.w_stride = 1;
    layout.h_stride = layout.width;
    layout.d_stride = heights * layout.h_stride;
    layout.phase_stride = depths * layout.d_stride;
    layout.channel_stride = walk[2].phases * layout.phase_stride;
    layout.image_stride = channels * layout.channel_stride;
  } else {
    layout.channel_stride = 1;
    layout.w_stride = channels;
    layout.phase_stride = layout.width * channels;
    layout.h_stride = walk[2].phases * layout.phase_stride;
    layout.d_stride = heights * layout.h_stride;
    layout.image_stride = depths * layout.d_stride;
  }
  return layout;
}

template <class T>
NNART_HD void zero_run(T* to, int64_t n) {
  std::memset(to, 0, size_t(n) * sizeof(T));
}

// n pixels of a line for all channels, from `from` on, each from_w elements after the last.
template <class S, class T>
NNART_HD void fill_pixels(const SourceLayout& layout, int64_t channels, T* to, const S* from, int64_t from_channel,
                          int64_t from_w, int64_t n) {
  constexpr int64_t terms = kTermsOf<T>;
  if (layout.channels_first) {
    if (channels <= terms)
      element_run(to, from, channels > 1 ? from_channel : kNoTerm, from_w, n);
    else
      copy_to_planes(to, layout.channel_stride, from, from_w, channels, n);
  } else if (from_channel == 1 && from_w == channels) {
    element_run(to, from, 1, terms, n * layout.channels);
  } else if (from_channel != 1 && from_w == 1) {
    copy_planes(to, layout.channels, from, from_channel, channels, n);
  } else {
    for (int64_t i = 0; i < n; ++i)
      element_run(to + i * layout.channels, from + i * from_w, from_channel, terms * from_channel, layout.channels);
  }
}

// Whether pairs can be made of that many channels: an odd last one is alone where each has a plane to itself.
inline bool takes_pairs(const ConvOperand& source, int64_t channels) {
  if (channels % 2 == 0) return source.channel != 1 || source.space[2] % 2 == 0;
  return channels > 1 && source.channel != 1 && source.space[2] == 1;
}

// The band of one image, for the `channels` channels that start at `from` and `to`; what lies outside stays as it is.
template <class S, class T>
NNART_HD void fill_image(const SourceLayout& layout, int64_t channels, const ConvOperand& source, const S* from,
                         const Band& band, T* to) {
  const Walk& d = layout.walk[0];
  const Walk& h = layout.walk[1];
  const Walk& w = layout.walk[2];
  for (int64_t phase = 0; phase < w.phases; ++phase, to += layout.phase_stride) {
    // The elements [begin, end) of a line lie in the source.
    int64_t origin = w.origin(phase) + w.step * w.lowest;
    int64_t begin = most(div_up(-origin, w.step), 0);
    int64_t end = least(div_up(w.extent - origin, w.step), layout.width);
    if (begin >= end) continue;
    const S* first = from + (origin + w.step * begin) * source.space[2];
    for (int64_t d_phase = 0; d_phase < d.phases; ++d_phase)
      for (int64_t i = 0; i < d.elements(band.d_count); ++i) {
        int64_t in_d = d.origin(d_phase) + d.step * (band.d * d.pixel + d.lowest + i);
        if (in_d < 0 || in_d >= d.extent) continue;
        for (int64_t h_phase = 0; h_phase < h.phases; ++h_phase) {
          T* line = to + (d_phase * layout.depth + i) * layout.d_stride + h_phase * layout.height * layout.h_stride +
                    begin * layout.w_stride;
          int64_t in_h = h.origin(h_phase) + h.step * (band.h * h.pixel + h.lowest);
          for (int64_t j = 0; j < h.elements(band.h_count); ++j, in_h += h.step, line += layout.h_stride)
            if (in_h >= 0 && in_h < h.extent)
              fill_pixels(layout, channels, line, first + in_d * source.space[0] + in_h * source.space[1],
                          source.channel, w.step * source.space[2], end - begin);
        }
      }
  }
}

// Fills `to` with the band, zeros around it. `from` is the group's first channel of so many, `before` the band that is
// there.
template <class S, class T>
void fill_source(const SourceLayout& layout, int64_t channels, const ConvOperand& source, const S* from,
                 const Band& band, T* to, Band& before) {
  // Bands at the same place of their images have the same zeros around them.
  if (band.d != before.d || band.h != before.h || band.images > before.images) {
    zero_run(to, band.images * layout.image_stride);
    before = band;
  }
  bool transposes = source.channel == 1 && source.space[2] != 1 && layout.channels > 1;
  bool one_by_one = layout.channels_first && !transposes;
  int64_t pieces = one_by_one ? layout.channels : 1, channels_of_piece = one_by_one ? kTermsOf<T> : channels;
  for (int64_t image = 0; image < band.images; ++image)
    for (int64_t piece = 0; piece < pieces; ++piece) {
      int64_t channel = piece * channels_of_piece;
      fill_image(layout, least(channels_of_piece, channels - channel), source,
                 from + (band.image + image) * source.batch + channel * source.channel, band,
                 to + image * layout.image_stride + piece * layout.channel_stride);
    }
}

// Where tap (channel, k) of a K-long sum lies in the source and in the weight, for the outputs that start at `first`.
// Writes at most channels * kernel volume entries and returns how many; weight_channel is from an element to the next.
NNART_HD int64_t fill_taps(const SourceLayout& layout, const int64_t* first, const ConvOperand& weight,
                           int64_t weight_channel, int64_t* source_offset, int64_t* weight_offset) {
  const Walk* walk = layout.walk;
  int64_t n = 0, channels = layout.channels;
  int64_t outer = layout.channels_first ? channels : 1, inner = layout.channels_first ? 1 : channels;
  for (int64_t c0 = 0; c0 < outer; ++c0)
    for (int64_t i = 0; i < walk[0].axis.kernel; ++i) {
      Tap d = tap_of(walk[0], first[0], i);
      if (!d.valid) continue;
      for (int64_t j = 0; j < walk[1].axis.kernel; ++j) {
        Tap h = tap_of(walk[1], first[1], j);
        if (!h.valid) continue;
        for (int64_t k = 0; k < walk[2].axis.kernel; ++k) {
          Tap w = tap_of(walk[2], first[2], k);
          if (!w.valid) continue;
          int64_t from = layout.tap_offset(d, h, w);
          int64_t by = i * weight.space[0] + j * weight.space[1] + k * weight.space[2];
          for (int64_t c1 = 0; c1 < inner; ++c1, ++n) {
            source_offset[n] = from + (c0 + c1) * layout.channel_stride;
            weight_offset[n] = by + (c0 + c1) * weight_channel;
          }
        }
      }
    }
  return n;
}

}  // namespace
}  // namespace nnart::cpu

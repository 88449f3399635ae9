// The gradient of the weight: for each tap and channel, the sum over all images and pixels of x times grad_y. Rows of a
// tile are taps, its vectors run along output channels, and the sum along pixels.
#pragma once

#include "cpu/conv/correlate.h"

namespace nnart::cpu {
namespace {

// The sum over images is cut into this many parts, fewer where their partial sums would be more than kPartialElements
// (or one part is): never by the number of threads, so that the result does not depend on it.
constexpr int64_t kParts = 16;
constexpr int64_t kPartialElements = int64_t{1} << 22;

template <class S>
struct WeightGradient {
  using T = ComputeType<S>;
  static constexpr int64_t width = Vec<T>::size;

  const ConvArgs& args;
  int64_t in, out;  // channels of a group
  Walk walk[3];
  Bands bands;
  SourceLayout layout;
  int64_t taps, columns, panels, panel_vectors;  // columns: out in whole vectors
  int64_t parts, tap_pieces;
  int64_t *source_offset, *weight_offset;
  T* partial;  // [part][group][tap][column]

  NNART_HD explicit WeightGradient(const ConvArgs& args)
      : args(args), in(args.in_channels / args.groups), out(args.out_channels / args.groups) {
    for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], false);
    taps = in * args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    int64_t vectors = ceil_div(out, width);
    columns = vectors * width;
    panels = ceil_div(vectors, kTileVectors);
    panel_vectors = ceil_div(vectors, panels);
    choose_bands();
    layout = layout_of(walk, in, bands, args.x.channel != 1);
    parts = most(1, least(least(kParts, bands.pieces()), kPartialElements / (args.groups * taps * columns)));
    tap_pieces = most(1, least(ceil_div(kWantedUnits, parts * args.groups), taps / (4 * kTileRows)));
  }

  // Both operands of a band should fit the L2 cache.
  NNART_HD int64_t elements(int64_t d_count, int64_t h_count) const {
    return elements_of_image(walk, in, d_count, h_count) + d_count * h_count * walk[2].count * columns;
  }
  NNART_HD void choose_bands() {
    constexpr int64_t wanted = 2 * kSourceElements;
    bands = {args.batch, walk[0].count, walk[1].count, 1, walk[0].count, walk[1].count};
    int64_t pixels = walk[0].count * walk[1].count * walk[2].count;
    if (elements(bands.d_count, bands.h_count) > wanted) {
      bands.d_count = most(1, least(walk[0].count, wanted / elements(1, walk[1].count)));
      if (bands.d_count == 1) {
        int64_t base = elements(1, 0), line = elements(1, 1) - base;
        bands.h_count = most(1, least(walk[1].count, (wanted - base) / line));
      }
    } else {
      int64_t fitting = wanted / elements(bands.d_count, bands.h_count);
      bands.images = most(1, least(least(args.batch, ceil_div(kWantedPixels, pixels)), fitting));
    }
  }

  // grad_y of the band as [pixel][column], and where each of its pixels starts in the copy of x.
  NNART_HD int64_t fill_gradient(const Band& band, const S* from, T* to, int64_t* pixel) const {
    const ConvOperand& y = args.y;
    int64_t n = 0, line = walk[2].count;
    for (int64_t image = 0; image < band.images; ++image)
      for (int64_t d = 0; d < band.d_count; ++d)
        for (int64_t h = 0; h < band.h_count; ++h, n += line) {
          const S* row = from + (band.image + image) * y.batch + (band.d + d) * y.space[0] + (band.h + h) * y.space[1];
          if (y.channel != 1 && y.space[2] == 1)
            copy_transposed(to + n * columns, columns, row, y.channel, out, line);
          else
            for (int64_t w = 0; w < line; ++w) widen_run(to + (n + w) * columns, row + w * y.space[2], y.channel, out);
          if (out < columns)
            for (int64_t w = 0; w < line; ++w)
              for (int64_t o = out; o < columns; ++o) to[(n + w) * columns + o] = T(0);
          int64_t start = image * layout.image_stride + d * layout.d_stride + h * layout.h_stride;
          for (int64_t w = 0; w < line; ++w) pixel[n + w] = start + w * layout.w_stride;
        }
    return n;
  }

  // Adds the taps [tap, tap_end) of one band to sum.
  void add_band(int64_t pixels, int64_t tap, int64_t tap_end, const T* x, const int64_t* x_pixel, const T* grad_y,
                const int64_t* ramp, T* sum) const {
    Even cuts(tap_end - tap, kTileRows);
    for (int64_t k = 0; k < pixels; k += kSumBlock)
      for (int64_t panel = 0; panel < panels; ++panel) {
        int64_t column = panel * panel_vectors * width;
        int64_t vectors = least(panel_vectors, (columns - column) / width);
        for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
          int64_t first = tap + cuts.begin(cut), high = tap + cuts.begin(cut + 1) - first;
          TileOperands<T> operands{{}, x_pixel + k, grad_y + column, ramp + k, least(kSumBlock, pixels - k)};
          for (int64_t i = 0; i < high; ++i) operands.row[i] = x + source_offset[first + i];
          run_tile(high, vectors, operands, PartialTile<T>{sum + first * columns + column, columns, true});
        }
      }
  }

  void run_unit(int64_t unit) const {
    int64_t piece = unit % tap_pieces, group = unit / tap_pieces % args.groups, part = unit / tap_pieces / args.groups;
    int64_t tap = taps * piece / tap_pieces, tap_end = taps * (piece + 1) / tap_pieces;
    T* sum = partial + (part * args.groups + group) * taps * columns;
    zero_run(sum + tap * columns, (tap_end - tap) * columns);
    int64_t most_pixels = bands.images * bands.d_count * bands.h_count * walk[2].count;
    Scratch<T> copy(Use::source, bands.images * layout.image_stride);
    Scratch<T> gradient(Use::gradient, most_pixels * columns);
    Scratch<int64_t> places(Use::pixels, 2 * most_pixels);
    int64_t *x_pixel = places.data(), *ramp = x_pixel + most_pixels;
    for (int64_t i = 0; i < most_pixels; ++i) ramp[i] = i * columns;
    auto* x = static_cast<const S*>(args.x.data) + group * in * args.x.channel;
    auto* grad_y = static_cast<const S*>(args.y.data) + group * out * args.y.channel;
    int64_t pieces = bands.pieces();
    Band before{};
    before.d = -1;
    for (int64_t i = pieces * part / parts; i < pieces * (part + 1) / parts; ++i) {
      Band band = bands.at(i);
      fill_source(layout, args.x, x, band, copy.data(), before);
      int64_t pixels = fill_gradient(band, grad_y, gradient.data(), x_pixel);
      add_band(pixels, tap, tap_end, copy.data(), x_pixel, gradient.data(), ramp, sum);
    }
  }

  // The parts in their order, tap by tap.
  void add_parts(int64_t begin, int64_t end) const {
    Scratch<T> line(Use::tile, columns);
    int64_t stride = args.groups * taps * columns;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t o = 0; o < columns; o += width) {
        Vec<T> sum(0);
        for (int64_t part = 0; part < parts; ++part) sum = sum + load(partial + part * stride + i * columns + o);
        store(line.data() + o, sum);
      }
      auto* to = static_cast<S*>(args.weight.data) + i / taps * out * args.weight.batch + weight_offset[i % taps];
      narrow_run(to, args.weight.batch, line.data(), out, OneBias<T>{Vec<T>(0)});
    }
  }

  NNART_HD void run() {
    Scratch<int64_t> table(Use::tables, 2 * taps);
    source_offset = table.data();
    weight_offset = source_offset + taps;
    const int64_t first[3] = {0, 0, 0};
    fill_taps(layout, first, args.weight, args.weight.channel, source_offset, weight_offset);
    Scratch<T> sums(Use::partial, parts * args.groups * taps * columns);
    partial = sums.data();
    int64_t units = parts * args.groups * tap_pieces;
    int64_t work = args.batch * args.groups * out * taps * walk[0].count * walk[1].count * walk[2].count;
    parallel_for(units, most(1, kGrainWork * units / most(1, work)), [this](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) run_unit(unit);
    });
    parallel_for(args.groups * taps, most(1, kGrainWork / (parts * columns)),
                 [this](int64_t begin, int64_t end) { add_parts(begin, end); });
  }
};

}  // namespace
}  // namespace nnart::cpu

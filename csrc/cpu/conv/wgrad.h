// The gradient of the weight: for each tap and channel, the sum over all images and pixels of x times grad_y. Rows of a
// tile are taps. Its vectors run along output channels, and the sum along pixels; or, where that would mean to turn
// planes of grad_y around for the sake of a few taps, both run along pixels and the lanes are added up in the end.
#pragma once

#include "cpu/conv/correlate.h"

namespace nnart::cpu {
namespace {

// The sum over images is cut into this many parts, fewer where their partial sums would be more than kPartialElements
// (or one part is): never by the number of threads, so that the result does not depend on it.
constexpr int64_t kParts = 16;
constexpr int64_t kPartialElements = int64_t{1} << 22;

// Input channels up to which vectors run along pixels, if grad_y lies in planes: taps enough repay its transposition.
constexpr int64_t kFewChannels = 8;
// Vectors of pixels between two times that lanes are added up; five planes of them leave room in the L1 cache.
constexpr int64_t kLaneBlock = 64;

// Runs of pixels of x as the taps of a tile read them, and of grad_y for some channels.
template <class S>
struct PlaneOperands {
  const ComputeType<S>* x[kTileRows];
  const S* grad_y[kMostVectors];
  int64_t pixels, runs, x_run, y_run;
};

// sum[tap][channel] += what all pixels and lanes add up to
template <class S>
struct LaneSums {
  using T = ComputeType<S>;
  T* sum;
  int64_t stride;

  template <int rows, int columns>
  NNART_HD static void add(const PlaneOperands<S>& from, int64_t x, int64_t y, int64_t lanes,
                           Vec<T> (&total)[rows][columns]) {
    using V = Vec<T>;
    V right[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c)
      right[c] = lanes == V::size ? load(from.grad_y[c] + y) : load_some(from.grad_y[c] + y, lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      V left = lanes == V::size ? load(from.x[r] + x) : load_some(from.x[r] + x, lanes);
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) total[r][c] = total[r][c] + left * right[c];
    }
  }

  template <int rows, int columns>
  NNART_HD void run(const PlaneOperands<S>& from) const {
    constexpr int64_t width = Vec<T>::size;
    Vec<T> total[rows][columns];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) total[r][c] = Vec<T>(0);
    for (int64_t run = 0; run < from.runs; ++run) {
      int64_t x = run * from.x_run, y = run * from.y_run, i = 0;
      for (; i + width <= from.pixels; i += width) add(from, x + i, y + i, width, total);
      // Lanes past the end would meet infinities of x.
      if (i < from.pixels) add(from, x + i, y + i, from.pixels - i, total);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) sum[r * stride + c] += sum_of_lanes(total[r][c]);
  }
};

template <class S>
struct WeightGradient {
  using T = ComputeType<S>;
  static constexpr int64_t width = Vec<T>::size;

  const ConvArgs& args;
  int64_t in, out;    // channels of a group
  bool along_pixels;  // and not along output channels
  bool in_place;      // grad_y is read where it lies
  Walk walk[3];
  Bands bands;
  SourceLayout layout;
  int64_t taps, columns, panels, panel_vectors;  // columns: out in whole vectors
  int64_t parts, tap_pieces;
  int64_t *source_offset, *weight_offset;
  T* partial;  // [part][group][tap][column]

  NNART_HD explicit WeightGradient(const ConvArgs& args)
      : args(args), in(args.in_channels / args.groups), out(args.out_channels / args.groups) {
    for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], false, Order::plain);
    bool in_planes = args.y.space[2] == 1 && (walk[1].count == 1 || args.y.space[1] == walk[2].count);
    along_pixels = in_planes && (in <= kFewChannels || out < width);
    if (along_pixels)
      for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], false, a == 2 ? Order::taps : Order::phases);
    in_place = along_pixels || (args.y.channel == 1 && sizeof(S) == sizeof(T) && out % width == 0);
    taps = in * args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    int64_t vectors = ceil_div(out, width);
    columns = vectors * width;
    panels = ceil_div(vectors, kTileVectors);
    panel_vectors = ceil_div(vectors, panels);
    choose_bands();
    layout = layout_of(walk, in, bands, along_pixels || args.x.channel != 1);
    parts = most(1, least(least(kParts, bands.pieces()), kPartialElements / (args.groups * taps * columns)));
    tap_pieces = most(1, least(ceil_div(kWantedUnits, parts * args.groups), taps / (4 * kTileRows)));
  }

  // Both operands of a band should fit the L2 cache.
  NNART_HD int64_t elements(int64_t d_count, int64_t h_count) const {
    return elements_of_image(walk, in, d_count, h_count) + (in_place ? 0 : d_count * h_count * walk[2].count * columns);
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

  // grad_y of the band as [pixel][column], and where its pixels start in the copy of x and there.
  NNART_HD int64_t fill_gradient(const Band& band, const S* from, T* to, int64_t* x_pixel, int64_t* y_pixel) const {
    const ConvOperand& y = args.y;
    int64_t n = 0, line = walk[2].count, step = layout.pixel_stride();
    for (int64_t image = 0; image < band.images; ++image)
      for (int64_t d = 0; d < band.d_count; ++d)
        for (int64_t h = 0; h < band.h_count; ++h, n += line) {
          int64_t start = layout.line_offset(image, d, h);
          for (int64_t w = 0; w < line; ++w) x_pixel[n + w] = start + w * step;
          int64_t offset = (band.image + image) * y.batch + (band.d + d) * y.space[0] + (band.h + h) * y.space[1];
          for (int64_t w = 0; w < line; ++w) y_pixel[n + w] = in_place ? offset + w * y.space[2] : (n + w) * columns;
          if (in_place) continue;
          const S* row = from + offset;
          if (y.channel != 1 && y.space[2] == 1)
            copy_transposed(to + n * columns, columns, row, y.channel, out, line);
          else
            for (int64_t w = 0; w < line; ++w) widen_run(to + (n + w) * columns, row + w * y.space[2], y.channel, out);
          if (out < columns)
            for (int64_t w = 0; w < line; ++w)
              for (int64_t o = out; o < columns; ++o) to[(n + w) * columns + o] = T(0);
        }
    return n;
  }

  // Adds the taps [tap, tap_end) of one band to sum.
  void add_band(int64_t pixels, int64_t tap, int64_t tap_end, const T* x, const int64_t* x_pixel, const T* grad_y,
                const int64_t* y_pixel, T* sum) const {
    Even cuts(tap_end - tap, kTileRows);
    for (int64_t k = 0; k < pixels; k += kSumBlock)
      for (int64_t panel = 0; panel < panels; ++panel) {
        int64_t column = panel * panel_vectors * width;
        int64_t vectors = least(panel_vectors, (columns - column) / width);
        for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
          int64_t first = tap + cuts.begin(cut), high = tap + cuts.begin(cut + 1) - first;
          TileOperands<T> operands{{}, x_pixel + k, grad_y + column, y_pixel + k, least(kSumBlock, pixels - k)};
          for (int64_t i = 0; i < high; ++i) operands.row[i] = x + source_offset[first + i];
          run_tile(high, vectors, operands, PartialTile<T>{sum + first * columns + column, columns, true});
        }
      }
  }

  // The same with vectors along pixels.
  void add_planes(const Band& band, int64_t tap, int64_t tap_end, const T* x, const S* grad_y, T* sum) const {
    const ConvOperand& y = args.y;
    int64_t rows = kTileRows;
    while (rows > 1 && tile_vectors(rows) < least(out, rows)) --rows;
    Even cuts(tap_end - tap, rows), panels(out, tile_vectors(rows));
    int64_t plane = band.h_count * walk[2].count;
    for (int64_t d = 0; d < band.d_count; ++d)
      for (int64_t pixel = 0; pixel < plane; pixel += kLaneBlock * width) {
        const T* x_block = x + layout.line_offset(0, d, 0) + pixel;
        const S* y_block = grad_y + band.image * y.batch + (band.d + d) * y.space[0] + band.h * y.space[1] + pixel;
        PlaneOperands<S> operands{
            {}, {}, least(kLaneBlock * width, plane - pixel), band.images, layout.image_stride, y.batch};
        for (int64_t panel = 0; panel < panels.pieces; ++panel) {
          int64_t o = panels.begin(panel), wide = panels.begin(panel + 1) - o;
          for (int64_t i = 0; i < wide; ++i) operands.grad_y[i] = y_block + (o + i) * y.channel;
          for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
            int64_t first = tap + cuts.begin(cut), high = tap + cuts.begin(cut + 1) - first;
            for (int64_t i = 0; i < high; ++i) operands.x[i] = x_block + source_offset[first + i];
            run_tile(high, wide, operands, LaneSums<S>{sum + first * columns + o, columns});
          }
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
    Scratch<T> gradient(Use::gradient, in_place ? 0 : most_pixels * columns);
    Scratch<int64_t> places(Use::pixels, 2 * most_pixels);
    int64_t *x_pixel = places.data(), *y_pixel = x_pixel + most_pixels;
    auto* x = static_cast<const S*>(args.x.data) + group * in * args.x.channel;
    auto* grad_y = static_cast<const S*>(args.y.data) + group * out * args.y.channel;
    int64_t pieces = bands.pieces();
    Band before{};
    before.d = -1;
    for (int64_t i = pieces * part / parts; i < pieces * (part + 1) / parts; ++i) {
      Band band = bands.at(i);
      fill_source(layout, args.x, x, band, copy.data(), before);
      if (along_pixels) {
        add_planes(band, tap, tap_end, copy.data(), grad_y, sum);
        continue;
      }
      int64_t pixels = fill_gradient(band, grad_y, gradient.data(), x_pixel, y_pixel);
      const T* gradients = gradient.data();
      if constexpr (sizeof(S) == sizeof(T))
        if (in_place) gradients = grad_y;
      add_band(pixels, tap, tap_end, copy.data(), x_pixel, gradients, y_pixel, sum);
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

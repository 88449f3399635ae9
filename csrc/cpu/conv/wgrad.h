// The gradient of the weight: for each tap and channel, the sum over all images and pixels of x times grad_y. Rows of a
// tile are taps. Its vectors run along output channels, and the sum along pixels; or, where that would mean to turn
// planes of grad_y around for the sake of a few taps, both run along pixels and the lanes are added up in the end.
//
// Note [shifted operand]: with stride 1 the sum over pixels p of y of x[p + tap] y[p] is that over pixels q of x of
// x[q] y[q - tap], so that either operand may be the one that is copied and read at every tap: the one of fewer
// channels. The zeros around the copy meet the other's border, so that an infinity there makes NaN: one of grad_y if x
// is copied, one of x if grad_y is.
#pragma once

#include "cpu/conv/correlate.h"
#include "cpu/conv/fetch_ahead.h"

namespace nnart::cpu {
namespace {

// The sum over images is cut into this many parts, fewer where their partial sums would be more than kPartialElements
// (or one part is): never by the number of threads, so that the result does not depend on it.
constexpr int64_t kParts = 16;
constexpr int64_t kPartialElements = int64_t{1} << 22;

// Taps up to which vectors run along pixels, if the fixed operand lies in planes: more repay its transposition.
// Products of pairs take half the time where the transposition takes the same.
template <class E>
constexpr int64_t kFewTaps = std::is_same_v<E, BFloat16> ? 640 : 160;
// Vectors of pixels between two times that lanes are added up; five planes of them leave room in the L1 cache.
constexpr int64_t kLaneBlock = 64;

// Pixels of one sum between two visits of its tile: native's sums are many short ones, and a longer one rounds worse.
constexpr int64_t kPixelBlock = 64;
// Bytes between two pixels from which on a block of them, a power of two apart as often as not, would share so few sets
// of the first-level cache (64 of 12 lines) that it does not stay there.
constexpr int64_t kFarApart = 1024;
// A block of no more bytes, half of that cache, has the next one fetched ahead.
constexpr int64_t kFetchedBytes = 16384;

// Runs of pixels of the shifted operand as the taps of a tile read them, and of some channels of the fixed one.
template <class E>
struct PlaneOperands {
  const E *shifted[kTileRows], *fixed[kMostVectors];
  int64_t pixels, runs, shifted_run, fixed_run;
};

// Pixels of a plane in a vector: of 16-bit elements, which are pairs of neighbours, two in each lane.
template <class E>
constexpr int64_t kPixelLanes = kVectorBytes / int64_t(sizeof(E));

// sum[tap][channel] += what all pixels and lanes add up to
template <class T>
struct LaneSums {
  T* sum;
  int64_t stride;

  template <int rows, int columns, class E>
  NNART_HD static void add(const PlaneOperands<E>& from, int64_t shifted, int64_t fixed, int64_t lanes,
                           Vec<T> (&total)[rows][columns]) {
    using F = Factor<E>;
    auto some = [lanes](const E* p) { return lanes == kPixelLanes<E> ? F::load(p) : F::load_partial(p, lanes); };
    F right[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) right[c] = some(from.fixed[c] + fixed);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      F left = some(from.shifted[r] + shifted);
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) add_product(total[r][c], left, right[c]);
    }
  }

  template <int rows, int columns, class E>
  NNART_HD void run(const PlaneOperands<E>& from) const {
    constexpr int64_t width = kPixelLanes<E>;
    Vec<T> total[rows][columns];
    clear(total);
    for (int64_t run = 0; run < from.runs; ++run) {
      int64_t shifted = run * from.shifted_run, fixed = run * from.fixed_run, i = 0;
      for (; i + width <= from.pixels; i += width) add(from, shifted + i, fixed + i, width, total);
      // Both without the lanes past the end, where a zero might meet an infinity.
      if (i < from.pixels) add(from, shifted + i, fixed + i, from.pixels - i, total);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) sum[r * stride + c] += sum_of_lanes(total[r][c]);
  }
};

// E is what vectors along pixels are made of: the compute type, or pairs of bfloat16 as they lie.
template <class S, class E = ComputeType<S>>
struct WeightGradient {
  using T = ComputeType<S>;
  static constexpr int64_t width = Vec<T>::size;

  const ConvArgs& args;
  bool swapped;  // the shifted operand is grad_y: Note [shifted operand]
  ConvOperand shifted, fixed;
  int64_t in, out;                // channels of a group of either
  int64_t weight_in, weight_out;  // strides of the weight between those
  bool along_pixels;              // and not along the fixed operand's channels
  bool in_place;                  // the fixed operand is read where it lies
  Walk walk[3];
  Bands bands;
  SourceLayout layout;
  int64_t taps, columns, panels, panel_vectors;  // columns: out in whole vectors
  int64_t parts, tap_pieces;
  int64_t *source_offset, *weight_offset;
  T* partial;  // [part][group][tap][column]

  NNART_HD explicit WeightGradient(const ConvArgs& args)
      : args(args), shifted(args.x), fixed(args.y), weight_in(args.weight.channel), weight_out(args.weight.batch) {
    in = args.in_channels / args.groups;
    out = args.out_channels / args.groups;
    swapped = out < in;
    for (const math::Axis& axis : args.axis) swapped = swapped && axis.stride == 1;
    if (swapped) {
      std::swap(shifted, fixed);
      std::swap(in, out);
      std::swap(weight_in, weight_out);
    }
    for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], swapped, Order::plain);
    bool in_planes = fixed.space[2] == 1 && (walk[1].count == 1 || fixed.space[1] == walk[2].count);
    along_pixels = in_planes && taps_of(in) <= kFewTaps<E>;
    if (along_pixels)
      for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], swapped, a == 2 ? Order::taps : Order::phases);
    in_place = along_pixels || (fixed.channel == 1 && sizeof(S) == sizeof(T) && out % width == 0);
    taps = taps_of(in);
    int64_t vectors = ceil_div(out, width);
    columns = vectors * width;
    panels = ceil_div(vectors, kTileVectors);
    panel_vectors = ceil_div(vectors, panels);
    choose_bands();
    layout = layout_of(walk, in, bands, along_pixels || shifted.channel != 1);
    parts = most(1, least(least(kParts, bands.pieces()), kPartialElements / (args.groups * taps * columns)));
    tap_pieces = most(1, least(ceil_div(kWantedUnits, parts * args.groups), taps / (4 * kTileRows)));
  }

  NNART_HD int64_t taps_of(int64_t channels) const {
    return channels * args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
  }

  // Both operands of a band should fit the L2 cache.
  NNART_HD int64_t elements(int64_t d_count, int64_t h_count) const {
    return elements_of_image(walk, in, d_count, h_count) + (in_place ? 0 : d_count * h_count * walk[2].count * columns);
  }
  NNART_HD void choose_bands() {
    bands = {args.batch, walk[0].count, walk[1].count, 1, walk[0].count, walk[1].count};
    int64_t pixels = walk[0].count * walk[1].count * walk[2].count;
    int64_t image = elements(bands.d_count, bands.h_count), wanted = 2 * kSourceElements;
    if (!along_pixels) wanted = most(wanted, kLeastPixels * image / pixels);
    if (image > wanted) {
      bands.d_count = most(1, least(walk[0].count, wanted / elements(1, walk[1].count)));
      if (bands.d_count == 1) {
        int64_t base = elements(1, 0), line = elements(1, 1) - base;
        bands.h_count = most(1, least(walk[1].count, (wanted - base) / line));
      }
    } else {
      bands.images = most(1, least(least(args.batch, ceil_div(kWantedPixels, pixels)), wanted / image));
    }
  }

  // The fixed operand of the band as [pixel][column], and where its pixels start in the copy of the other and there.
  NNART_HD int64_t fill_fixed(const Band& band, const S* from, T* to, int64_t* from_pixel, int64_t* to_pixel) const {
    int64_t n = 0, line = walk[2].count, step = layout.pixel_stride();
    for (int64_t image = 0; image < band.images; ++image)
      for (int64_t d = 0; d < band.d_count; ++d)
        for (int64_t h = 0; h < band.h_count; ++h, n += line) {
          int64_t start = layout.line_offset(image, d, h);
          for (int64_t w = 0; w < line; ++w) from_pixel[n + w] = start + w * step;
          int64_t offset = offset_of(band, image, d) + h * fixed.space[1], pixel = fixed.space[2];
          for (int64_t w = 0; w < line; ++w) to_pixel[n + w] = in_place ? offset + w * pixel : (n + w) * columns;
          if (in_place) continue;
          const S* row = from + offset;
          if (fixed.channel != 1 && pixel == 1)
            copy_transposed(to + n * columns, columns, row, fixed.channel, out, line);
          else
            for (int64_t w = 0; w < line; ++w) widen_run(to + (n + w) * columns, row + w * pixel, fixed.channel, out);
          if (out < columns)
            for (int64_t w = 0; w < line; ++w)
              for (int64_t o = out; o < columns; ++o) to[(n + w) * columns + o] = T(0);
        }
    return n;
  }
  NNART_HD int64_t offset_of(const Band& band, int64_t image, int64_t d) const {
    return (band.image + image) * fixed.batch + (band.d + d) * fixed.space[0] + band.h * fixed.space[1];
  }

  // Adds the taps [tap, tap_end) of one band to sum. A block of columns that lie far apart is copied, for all taps to
  // read.
  void add_band(int64_t pixels, int64_t tap, int64_t tap_end, const T* copy, const int64_t* from_pixel, const T* by,
                const int64_t* by_pixel, T* sum) const {
    Even cuts(tap_end - tap, kTileRows);
    alignas(64) T block[kPixelBlock * kTileColumns<T>];
    int64_t in_block[kPixelBlock];
    FetchAhead ahead;
    constexpr int64_t size = sizeof(T);
    bool fetches = in_place && kPixelBlock * columns * size <= kFetchedBytes;
    for (int64_t k = 0; k < pixels; k += kPixelBlock) {
      int64_t after = k + kPixelBlock;
      if (fetches && after < pixels)
        ahead.start(panels * cuts.pieces, {reinterpret_cast<const char*>(by + by_pixel[after]), 1, 0,
                                           least(kPixelBlock, pixels - after), fixed.space[2] * size, columns * size});
      for (int64_t panel = 0; panel < panels; ++panel) {
        int64_t column = panel * panel_vectors * width;
        int64_t vectors = least(panel_vectors, (columns - column) / width), count = least(kPixelBlock, pixels - k);
        TileOperands<T> operands{{}, from_pixel + k, by + column, by_pixel + k, count};
        if (in_place && cuts.pieces > 2 && fixed.space[2] * int64_t(sizeof(S)) >= kFarApart) {
          for (int64_t i = 0; i < count; ++i) {
            in_block[i] = i * vectors * width;
            const T *from = by + column + by_pixel[k + i],
                    *next = by + column + by_pixel[least(k + i + count, pixels - 1)];
            for (int64_t v = 0; v < vectors; ++v) {
              __builtin_prefetch(next + v * width);
              store(block + in_block[i] + v * width, load(from + v * width));
            }
          }
          operands.b = block;
          operands.b_offset = in_block;
        }
        for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
          ahead.step();
          int64_t first = tap + cuts.begin(cut), high = tap + cuts.begin(cut + 1) - first;
          for (int64_t i = 0; i < high; ++i) operands.row[i] = copy + source_offset[first + i];
          run_tile(high, vectors, operands, PartialTile<T>{sum + first * columns + column, columns, true});
        }
      }
    }
  }

  // The same with vectors along pixels; widened has room for one block.
  void add_planes(const Band& band, int64_t tap, int64_t tap_end, const E* copy, const S* planes, E* widened,
                  T* sum) const {
    int64_t rows = kTileRows;
    while (rows > 1 && tile_vectors(rows) < least(out, rows)) --rows;
    Even cuts(tap_end - tap, rows), panels(out, tile_vectors(rows));
    int64_t plane = band.h_count * walk[2].count;
    constexpr int64_t block = kLaneBlock * kPixelLanes<E>;
    FetchAhead ahead;
    for (int64_t d = 0; d < band.d_count; ++d)
      for (int64_t pixel = 0; pixel < plane; pixel += block) {
        const S* from = planes + offset_of(band, 0, d) + pixel;
        int64_t pixels = least(block, plane - pixel);
        const E* copied = copy + layout.line_offset(0, d, 0) + pixel;
        PlaneOperands<E> operands{{}, {}, pixels, band.images, layout.image_stride, fixed.batch};
        for (int64_t panel = 0; panel < panels.pieces; ++panel) {
          int64_t o = panels.begin(panel), wide = panels.begin(panel + 1) - o;
          if constexpr (std::is_same_v<S, E>) {
            for (int64_t i = 0; i < wide; ++i) operands.fixed[i] = from + (o + i) * fixed.channel;
          } else {
            operands.fixed_run = kMostVectors * block;
            for (int64_t i = 0; i < wide; ++i) operands.fixed[i] = widened + i * block;
            for (int64_t run = 0; run < band.images; ++run)
              for (int64_t i = 0; i < wide; ++i)
                widen_run(widened + (run * kMostVectors + i) * block,
                          from + (o + i) * fixed.channel + run * fixed.batch, 1, pixels);
          }
          // The next panel, or the first one of the next block or image.
          const S* next = from + (o + wide) * fixed.channel;
          if (panel + 1 == panels.pieces) next = pixel + block < plane ? from + block : from + fixed.batch;
          constexpr int64_t size = sizeof(S);
          ahead.start(cuts.pieces, {reinterpret_cast<const char*>(next), wide, fixed.channel * size, band.images,
                                    fixed.batch * size, pixels * size});
          for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
            ahead.step();
            int64_t first = tap + cuts.begin(cut), high = tap + cuts.begin(cut + 1) - first;
            for (int64_t i = 0; i < high; ++i) operands.shifted[i] = copied + source_offset[first + i];
            run_tile(high, wide, operands, LaneSums<T>{sum + first * columns + o, columns});
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
    Scratch<E> copy(Use::source, bands.images * layout.image_stride);
    bool widens = along_pixels && !std::is_same_v<S, E>;
    Scratch<E> other(Use::gradient, widens     ? bands.images * kMostVectors * kLaneBlock * width
                                    : in_place ? 0
                                               : most_pixels * columns);
    Scratch<int64_t> places(Use::pixels, 2 * most_pixels);
    int64_t *from_pixel = places.data(), *by_pixel = from_pixel + most_pixels;
    auto* source = static_cast<const S*>(shifted.data) + group * in * shifted.channel;
    auto* planes = static_cast<const S*>(fixed.data) + group * out * fixed.channel;
    int64_t pieces = bands.pieces();
    Band before{};
    before.d = -1;
    for (int64_t i = pieces * part / parts; i < pieces * (part + 1) / parts; ++i) {
      Band band = bands.at(i);
      fill_source(layout, in, shifted, source, band, copy.data(), before);
      if (along_pixels) {
        add_planes(band, tap, tap_end, copy.data(), planes, other.data(), sum);
        continue;
      }
      if constexpr (std::is_same_v<E, T>) {
        int64_t pixels = fill_fixed(band, planes, other.data(), from_pixel, by_pixel);
        const T* by = other.data();
        if constexpr (std::is_same_v<S, T>)
          if (in_place) by = planes;
        add_band(pixels, tap, tap_end, copy.data(), from_pixel, by, by_pixel, sum);
      }
    }
  }

  // The parts in their order, for blocks of taps: where those of one output lie side by side they are written so.
  static constexpr int64_t kTapBlock = width;
  void add_parts(int64_t begin, int64_t end) const {
    int64_t line = columns + width, stride = args.groups * taps * columns, blocks = ceil_div(taps, kTapBlock);
    Scratch<T> sums(Use::tile, kTapBlock * line);
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = i % blocks * kTapBlock, count = least(kTapBlock, taps - first);
      const T* from = partial + (i / blocks * taps + first) * columns;
      bool side_by_side = weight_out != 1;
      for (int64_t tap = 0; tap < count; ++tap) {
        side_by_side = side_by_side && weight_offset[first + tap] == weight_offset[first] + tap;
        for (int64_t o = 0; o < columns; o += width) {
          Vec<T> sum(0);
          for (int64_t part = 0; part < parts; ++part) sum = sum + load(from + part * stride + tap * columns + o);
          store(sums.data() + tap * line + o, sum);
        }
      }
      auto* to = static_cast<S*>(args.weight.data) + i / blocks * (args.out_channels / args.groups) * args.weight.batch;
      if (side_by_side)
        copy_transposed(to + weight_offset[first], weight_out, sums.data(), line, count, out);
      else
        for (int64_t tap = 0; tap < count; ++tap)
          narrow_run(to + weight_offset[first + tap], weight_out, sums.data() + tap * line, out, OneBias<T>{Vec<T>(0)});
    }
  }

  NNART_HD void run() {
    Scratch<int64_t> table(Use::tables, 2 * taps);
    source_offset = table.data();
    weight_offset = source_offset + taps;
    const int64_t first[3] = {0, 0, 0};
    fill_taps(layout, first, args.weight, weight_in, source_offset, weight_offset);
    Scratch<T> sums(Use::partial, parts * args.groups * taps * columns);
    partial = sums.data();
    int64_t units = parts * args.groups * tap_pieces;
    int64_t work = args.batch * args.groups * out * taps * walk[0].count * walk[1].count * walk[2].count;
    parallel_for(units, most(1, kGrainWork * units / most(1, work)), [this](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) run_unit(unit);
    });
    parallel_for(args.groups * ceil_div(taps, kTapBlock), most(1, kGrainWork / (parts * columns * kTapBlock)),
                 [this](int64_t begin, int64_t end) { add_parts(begin, end); });
  }
};

}  // namespace
}  // namespace nnart::cpu

// The gradient of depthwise filters: for each tap, the sum over all pixels of x times grad_y. The sums of some taps of
// one block of channels are in registers while the lines of a band pass.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/depthwise_blocks.h"
#include "cpu/conv/fetch_ahead.h"
#include "cpu/conv/grad_bias.h"

namespace nnart::cpu {
namespace {

// Lines [h, h_end) of grad_y, for which the lines [j, j_end) of a filter read no padding and the others do.
struct LinePiece {
  int64_t h, h_end, j, j_end;
};

NNART_HD int64_t most_pieces(const math::Axis& height) { return 2 * height.kernel + 1; }

// One image's lines, channels beside each other, stored as S, for the m-th channel of each group of x.
template <class S, class Reader>
struct FilterSums {
  using T = ComputeType<S>;
  static constexpr int kSomeTaps = 8 / Block<S>::vectors;
  // A sum over a whole band would round worse than native's many short ones, so that every so many pixels start a new
  // one. 16-bit results do not show it.
  static constexpr bool has_short_sums = Block<S>::vectors == 1;
  static constexpr int64_t kShortSum = 32;

  const math::Axis* axis;
  int64_t x_space[3], grad_space[3];
  int64_t tap_step;  // of the sums
  Reader reader;     // of x
  FetchAhead* ahead;
  LinePiece* pieces = nullptr;
  int64_t piece_count = 0;

  template <int n>
  NNART_HD static void clear(Block<S> (&sum)[n]) {
#pragma GCC unroll 8
    for (auto& s : sum) s = zero_block<S>();
  }

  // Ends the short sums: total += sum, sum = 0.
  template <int n>
  NNART_HD static void flush(Block<S> (&total)[n], Block<S> (&sum)[n]) {
#pragma GCC unroll 8
    for (int t = 0; t < n; ++t) {
      add_block(total[t], sum[t]);
      sum[t] = zero_block<S>();
    }
  }

  // sums[t] += sum[t]
  template <int n>
  NNART_HD void add_to(T* sums, const Block<S>* sum) const {
#pragma GCC unroll 8
    for (int t = 0; t < n; ++t)
      for (int v = 0; v < Block<S>::vectors; ++v) {
        T* to = sums + t * tap_step + v * Vec<T>::size;
        store(to, load(to) + sum[t].v[v]);
      }
  }

  // The products of `pixels` outputs of a line, the first at grad, with the places from each row on, of which the first
  // `low` and the last `high` do not exist: no more than a padding to the same width leaves out.
  template <int rows, class Filter, int pixels>
  NNART_HD void add_pixels(const S* const* row, const S* grad, int64_t low, int64_t high,
                           Block<S> (*sum)[Filter::taps]) const {
    constexpr int step = Filter::step, places = Filter::places(pixels);
    int64_t pixel = x_space[2], grad_pixel = grad_space[2];
    const S* from[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) from[r] = row[r];
    Block<S> g[pixels];
#pragma GCC unroll 32
    for (int q = 0; q < places; ++q) {
      if (q % step == 0 && q / step < pixels) {
        g[q / step] = Block<S>::from(grad);
        step_on(grad, grad_pixel);
      }
      if (q == places / 2) ahead->step();
      bool exists = (q >= Filter::before || q >= low) && (q < places - Filter::after || q < places - high);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        if (exists) {
          Block<S> x = reader.from(from[r]);
          keep_in_register(x);
#pragma GCC unroll 8
          for (int k = 0; k < Filter::taps; ++k)
            if (Filter::meet(q, k, pixels)) add_product(sum[r][k], x, g[Filter::output(q, k)]);
        }
        step_on(from[r], pixel);
      }
    }
  }

  // The products of one output, whose taps lie from `place` on.
  template <int rows, class Filter>
  NNART_HD void add_pixel(const S* const* row, const S* grad, int64_t place, Block<S> (*sum)[Filter::taps]) const {
    Block<S> g = Block<S>::from(grad);
#pragma GCC unroll 8
    for (int k = 0; k < Filter::taps; ++k) {
      int shift = k * Filter::gap;
      if (place + shift < 0 || place + shift >= axis[2].in) continue;
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) add_product(sum[r][k], reader.from(row[r] + shift * x_space[2]), g);
    }
  }

  // `rows` lines of some taps of a filter, from line j and tap k on, for lines [h, h_end) of grad_y that read no
  // padding above and below: a pixel of x is loaded once for all taps of its line, a pixel of grad_y once for all
  // lines.
  template <int rows, class Filter, int pixels>
  void add_full_lines(const S* x, const S* grad_y, int64_t h, int64_t h_end, int64_t j, int64_t k, T* sums) const {
    const math::Axis& height = axis[1];
    const math::Axis& width = axis[2];
    constexpr int taps = Filter::taps, step = Filter::step;
    Block<S> sum[rows][taps];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) clear(sum[r]);
    int64_t row_step = height.dilation * x_space[1], line_step = width.kernel * tap_step, summed = 0;
    for (int64_t line = h; line < h_end; ++line) {
      const S* grad_row = grad_y + line * grad_space[1];
      const S* x_row = x + height.source(line, j) * x_space[1];
      for (int64_t w = 0; w < width.out; w += pixels) {
        ahead->step();
        int64_t place = w * step - width.pad + k * Filter::gap;
        int64_t low = most(0, -place), high = most(0, place + Filter::places(pixels) - width.in);
        const S* grad = grad_row + w * grad_space[2];
        const S* row[rows];
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) row[r] = x_row + r * row_step + place * x_space[2];
        if (w + pixels <= width.out && low <= Filter::before && high <= Filter::after)
          add_pixels<rows, Filter, pixels>(row, grad, low, high, sum);
        else
          for (int64_t t = 0; t < least(pixels, width.out - w); ++t) {
            add_pixel<rows, Filter>(row, grad + t * grad_space[2], place + t * step, sum);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) row[r] += step * x_space[2];
          }
        if (has_short_sums && (summed += pixels) >= kShortSum) {
          summed = 0;
#pragma GCC unroll 8
          for (int r = 0; r < rows; ++r) {
            add_to<taps>(sums + r * line_step, sum[r]);
            clear(sum[r]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) add_to<taps>(sums + r * line_step, sum[r]);
  }

  // The pieces of the lines [h, h_end) of grad_y: the same for all blocks of channels, so that they are found once.
  void find_pieces(int64_t h, int64_t h_end, LinePiece* to) {
    const math::Axis& height = axis[1];
    pieces = to;
    piece_count = 0;
    auto low = [&](int64_t line) { return ceil_div(most(0, -height.source(line, 0)), height.dilation); };
    auto high = [&](int64_t line) {
      return least(height.kernel, div_floor(height.in - 1 - height.source(line, 0), height.dilation) + 1);
    };
    for (int64_t line = h, end; line < h_end; line = end) {
      int64_t j = low(line), j_end = high(line);
      for (end = line + 1; end < h_end && low(end) == j && high(end) == j_end;) ++end;
      if (j < j_end) pieces[piece_count++] = {line, end, j, j_end};
    }
  }

  // The taps from tap k of each line of the filter on, as many lines at once as there are registers: for their sums,
  // the pixels of grad_y that a pixel of x meets, and that pixel.
  template <class Filter, int pixels>
  void add_pieces(const S* x, const S* grad_y, int64_t k, T* sums) const {
    constexpr int fitting = (kVectorRegisters / Block<S>::vectors - 1) / Filter::taps - 1;
    constexpr int rows = fitting < 1 ? 1 : fitting < Filter::taps ? fitting : Filter::taps, two = rows > 2 ? 2 : 1;
    for (const LinePiece* p = pieces; p < pieces + piece_count; ++p)
      for (int64_t j = p->j, n; j < p->j_end; j += n) {
        T* to = sums + (j * axis[2].kernel + k) * tap_step;
        n = p->j_end - j >= rows ? rows : least(p->j_end - j, 2);
        if (n == rows)
          add_full_lines<rows, Filter, pixels>(x, grad_y, p->h, p->h_end, j, k, to);
        else if (n == two)
          add_full_lines<two, Filter, pixels>(x, grad_y, p->h, p->h_end, j, k, to);
        else
          add_full_lines<1, Filter, pixels>(x, grad_y, p->h, p->h_end, j, k, to);
      }
  }

  // n taps of line j of the filter, from tap k on.
  template <int n>
  void add_taps(const S* x, const S* grad_y, int64_t h, int64_t h_end, int64_t j, int64_t k, T* sums) const {
    const math::Axis& height = axis[1];
    const math::Axis& width = axis[2];
    Block<S> sum[n], total[n];
    clear(sum);
    clear(total);
    int64_t pixel = x_space[2], tap = width.dilation * pixel, step = width.stride * pixel;
    int64_t grad_pixel = grad_space[2];
    // Outputs [low[t], high[t]) lie inside for tap k + t; [from, to) for all of them.
    int64_t low[n], high[n], from = 0, to = width.out;
    for (int t = 0; t < n; ++t) {
      int64_t shift = (k + t) * width.dilation - width.pad;
      low[t] = least(width.out, most(0, div_up(-shift, width.stride)));
      high[t] = most(low[t], least(width.out, div_floor(width.in - 1 - shift, width.stride) + 1));
      from = most(from, low[t]);
      to = least(to, high[t]);
    }
    to = most(from, to);
    for (int64_t line = h; line < h_end; ++line) {
      int64_t in_h = height.source(line, j);
      if (in_h < 0 || in_h >= height.in) continue;
      const S* row = x + in_h * x_space[1] + (k * width.dilation - width.pad) * pixel;
      const S* grad_row = grad_y + line * grad_space[1];
      for (int64_t w = from; w < to; ++w) {
        if (w % kTilePixels<S> == 0) ahead->step();
        if (has_short_sums && (w - from) % kShortSum == 0) flush(total, sum);
        Block<S> g = Block<S>::from(grad_row + w * grad_pixel);
        const S* p = row + w * step;
#pragma GCC unroll 8
        for (int t = 0; t < n; ++t) add_product(sum[t], g, reader.from(p + t * tap));
      }
#pragma GCC unroll 8
      for (int t = 0; t < n; ++t) {
        auto add_range = [&](int64_t begin, int64_t end) {
          for (int64_t w = begin; w < end; ++w)
            add_product(sum[t], Block<S>::from(grad_row + w * grad_pixel), reader.from(row + w * step + t * tap));
        };
        add_range(low[t], least(from, high[t]));
        add_range(most(to, low[t]), high[t]);
      }
    }
    flush(total, sum);
    add_to<n>(sums, total);
  }

  template <int... n>
  NNART_HD void add_some_taps(std::integer_sequence<int, n...>, int64_t count, const S* x, const S* grad_y, int64_t h,
                              int64_t h_end, int64_t j, int64_t k, T* sums) const {
    ((count == n + 1 ? add_taps<n + 1>(x, grad_y, h, h_end, j, k, sums) : void()), ...);
  }

  // All taps of one depth of the filter, for the lines [h, h_end) of grad_y, whose pieces were found.
  void add(const S* x, const S* grad_y, int64_t h, int64_t h_end, T* sums) const {
    const math::Axis& width = axis[2];
    auto run_from = [&](auto some, int64_t k) {
      if (slim_tiles<S>(width.out))
        add_pieces<decltype(some), kSlimTile>(x, grad_y, k, sums);
      else
        add_pieces<decltype(some), kTilePixels<S>>(x, grad_y, k, sums);
    };
    auto run = [&](auto filter) { run_from(filter, 0); };
    bool done = false;
    if constexpr (!Reader::mixes) {
      done = with_narrow<Narrow<3, 1>, Narrow<5, 1>, Narrow<7, 1>, Narrow<3, 2>, Narrow<5, 2>, Narrow<7, 2>,
                         Narrow<3, 1, 2>>(width.kernel, width.stride, width.dilation, run);
      if (!done && takes_long_filter(width)) {
        add_long_filter(width.kernel, run_from);
        done = true;
      }
    } else {
      done = with_narrow<Narrow<3, 1>, Narrow<3, 2>>(width.kernel, width.stride, width.dilation, run);
    }
    if (done) return;
    Even cuts(axis[2].kernel, kSomeTaps);
    for (int64_t j = 0; j < axis[1].kernel; ++j)
      for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
        int64_t k = cuts.begin(cut);
        add_some_taps(std::make_integer_sequence<int, kSomeTaps>{}, cuts.begin(cut + 1) - k, x, grad_y, h, h_end, j, k,
                      sums + (j * axis[2].kernel + k) * tap_step);
      }
  }
};

// Where the tensors come from, as in depthwise_lines.h, and the order of the sums: over the pixels of a band, the bands
// of a part, the parts. None depends on the number of threads.
template <class S, template <class> class Reader>
struct DepthwiseWgrad {
  using T = ComputeType<S>;
  static constexpr int64_t kParts = 16;
  static constexpr int64_t kReadForPartial = 32;  // elements of x and grad_y for each partial sum, or fewer parts
  // Elements of x and grad_y in a band: they should stay in the L2 cache, and a float sum over its pixels be short.
  static constexpr int64_t kBandElements = int64_t{1} << 16;

  const ConvArgs& args;
  int64_t channels, mix, taps, line_taps, band_lines, pieces, bands, parts;  // pieces: bands of one depth of an image
  T* partial;                                                                // [part][m][tap][channel]

  NNART_HD explicit DepthwiseWgrad(const ConvArgs& args)
      : args(args), channels(args.in_channels), mix(channels / args.groups) {
    line_taps = args.axis[1].kernel * args.axis[2].kernel;
    taps = args.axis[0].kernel * line_taps;
  }

  NNART_HD int64_t pixels_of(int64_t math::Axis::* size) const {
    return args.axis[0].*size * args.axis[1].*size * args.axis[2].*size;
  }

  NNART_HD void cut(int64_t in_band, int64_t padded) {
    int64_t line = in_band * (args.axis[2].out + args.axis[1].stride * args.axis[2].in);
    band_lines = most(1, least(args.axis[1].out, kBandElements / most(1, line)));
    pieces = ceil_div(args.axis[1].out, band_lines);
    bands = args.batch * args.axis[0].out * pieces;
    int64_t elements = channels * args.batch * (pixels_of(&math::Axis::in) + pixels_of(&math::Axis::out));
    int64_t most_parts = least(kParts, elements / (kReadForPartial * mix * taps * padded));
    parts = most(1, least(bands, most_parts));
  }

  struct Place {
    int64_t image, d, h, h_end;
  };
  NNART_HD Place place_of(int64_t band) const {
    int64_t h = band % pieces * band_lines;
    return {band / pieces / args.axis[0].out, band / pieces % args.axis[0].out, h,
            least(h + band_lines, args.axis[1].out)};
  }

  NNART_HD const S* x_of(int64_t image) const { return static_cast<const S*>(args.x.data) + image * args.x.batch; }
  NNART_HD const S* grad_of(int64_t image, int64_t d) const {
    return static_cast<const S*>(args.y.data) + image * args.y.batch + d * args.y.space[0];
  }

  template <class P>
  NNART_HD FilterSums<P, Reader<P>> filter_sums(const math::Axis* axis, const int64_t (&x_space)[3],
                                                const int64_t (&grad_space)[3], int64_t tap_step,
                                                FetchAhead& ahead) const {
    FilterSums<P, Reader<P>> sums{axis, {}, {}, tap_step, {}, &ahead};
    for (int a = 0; a < 3; ++a) {
      sums.x_space[a] = x_space[a];
      sums.grad_space[a] = grad_space[a];
    }
    return sums;
  }

  // The lines [h, h_end) of one image, depth and block to the sums of depth i of the filters, for every m.
  template <class Sums, class P>
  NNART_HD void add(Sums& some, const P* x, const P* grad_y, const Place& at, T* sums) const {
    for (int64_t m = 0; m < mix; ++m) {
      some.reader = Reader<P>(mix, m);
      some.add(x, grad_y, at.h, at.h_end, sums + m * taps * some.tap_step);
    }
  }

  struct Lines {
    int64_t low, high;
  };
  NNART_HD Lines lines_of(const Place& at) const {
    const math::Axis& height = args.axis[1];
    return {most(0, height.source(at.h, 0)), least(height.in, height.source(at.h_end - 1, height.kernel - 1) + 1)};
  }

  // What the band reads, in so many steps.
  void fetch(int64_t band, int64_t steps, FetchAhead& ahead) const {
    constexpr int64_t size = sizeof(S);
    const math::Axis& depth = args.axis[0];
    const math::Axis& width = args.axis[2];
    Place at = place_of(band);
    Lines lines = lines_of(at);
    int64_t first = depth.kernel, planes = 0;
    for (int64_t i = 0; i < depth.kernel; ++i) {
      int64_t in_d = depth.source(at.d, i);
      if (in_d < 0 || in_d >= depth.in) continue;
      first = least(first, i);
      ++planes;
    }
    const S* x = x_of(at.image) + depth.source(at.d, first) * args.x.space[0] + lines.low * args.x.space[1];
    const S* grad_y = grad_of(at.image, at.d) + at.h * args.y.space[1];
    ahead.start(steps,
                {reinterpret_cast<const char*>(grad_y), 1, 0, at.h_end - at.h, args.y.space[1] * size,
                 width.out * args.y.space[2] * size},
                {reinterpret_cast<const char*>(x), planes, depth.dilation * args.x.space[0] * size,
                 lines.high - lines.low, args.x.space[1] * size, width.in * args.x.space[2] * size});
  }

  // The parts in their order, to the weight's gradient.
  template <class P>
  void finish(const Blocks<P>& blocks) const {
    constexpr int64_t lanes = Block<P>::channels;
    const ConvOperand& w = args.weight;
    for (int64_t i = 0; i < mix * taps; ++i) {
      int64_t m = i / taps, tap = i % taps;
      S* to = static_cast<S*>(w.data) + m * w.channel + tap / line_taps * w.space[0] +
              tap % line_taps / args.axis[2].kernel * w.space[1] + tap % args.axis[2].kernel * w.space[2];
      for (int64_t b = 0; b < blocks.count; ++b) {
        Block<P> sum = zero_block<P>();
        for (int64_t part = 0; part < parts; ++part)
          for (int v = 0; v < Block<P>::vectors; ++v)
            sum.v[v] =
                sum.v[v] + load(partial + (part * mix * taps + i) * blocks.padded() + b * lanes + v * Vec<T>::size);
        S line[lanes];
        if constexpr (std::is_same_v<S, P>)
          sum.to(line);
        else
          store(line, sum.v[0]);
        for (int64_t lane = 0; lane < least(lanes, channels); ++lane)
          to[(blocks.start(b) + lane) * w.batch] = line[lane];
      }
    }
  }

  void run_in_place() {
    Blocks<S> blocks(channels);
    cut(channels, blocks.padded());
    Scratch<T> scratch(Use::partial, parts * mix * taps * blocks.padded());
    partial = scratch.data();
    GradBias grad_bias(args, parts);
    int64_t steps = 2 * blocks.count * band_lines * ceil_div(args.axis[2].out, kTilePixels<S>);  // two a tile
    // Where there are fewer parts than threads may come, several share the channels of one.
    int64_t shares = least(blocks.count, ceil_div(kParts, parts));
    parallel_for(parts * shares, 1, [&](int64_t begin, int64_t end) {
      Scratch<LinePiece> pieces(Use::tables, most_pieces(args.axis[1]));
      FetchAhead ahead;
      auto sums = filter_sums<S>(args.axis, args.x.space, args.y.space, blocks.padded(), ahead);
      for (int64_t unit = begin, taken; unit < end; unit += taken) {
        int64_t part = unit / shares, share = unit % shares;
        taken = least(shares - share, end - unit);
        int64_t block = blocks.count * share / shares, block_end = blocks.count * (share + taken) / shares;
        T* to = partial + part * mix * taps * blocks.padded();
        for (int64_t i = 0; i < mix * taps; ++i)
          zero_run(to + i * blocks.padded() + block * Block<S>::channels, (block_end - block) * Block<S>::channels);
        int64_t first = bands * part / parts, last = bands * (part + 1) / parts;
        // Lines are fetched whole, for who takes all channels of them.
        bool fetches = taken == shares, goes_on = unit + taken + shares <= end;
        if (fetches && unit == begin) {
          fetch(first, 1, ahead);
          ahead.step();
        }
        for (int64_t band = first; band < last; ++band) {
          Place at = place_of(band);
          if (fetches && (band + 1 < last || goes_on)) fetch(band + 1, steps, ahead);
          int64_t channel = block * Block<S>::channels, end = least(channels, block_end * Block<S>::channels);
          const auto& step = args.y.space;
          grad_bias.add(part, channel, end, grad_of(at.image, at.d) + channel + at.h * step[1], at.h_end - at.h,
                        step[1], args.axis[2].out, step[2]);
          sums.find_pieces(at.h, at.h_end, pieces.data());
          for (int64_t b = block; b < block_end; ++b)
            for (int64_t i = 0; i < args.axis[0].kernel; ++i) {
              int64_t in_d = args.axis[0].source(at.d, i), c = blocks.start(b);
              if (in_d < 0 || in_d >= args.axis[0].in) continue;
              add(sums, x_of(at.image) + in_d * args.x.space[0] + c, grad_of(at.image, at.d) + c, at,
                  to + i * line_taps * blocks.padded() + b * Block<S>::channels);
            }
        }
      }
    });
    finish(blocks);
    grad_bias.finish<S>();
  }

  void run_copied() {
    constexpr int64_t lanes = Vec<T>::size;
    Blocks<T> blocks(channels);
    cut(lanes, blocks.padded());
    const math::Axis& height = args.axis[1];
    int64_t in_w = args.axis[2].in, out_w = args.axis[2].out, wide = least(lanes, channels);
    math::Axis axis[] = {args.axis[0], args.axis[1], args.axis[2]};
    Margins margins;
    int64_t grad_zeros = 0;
    if (takes_long_filter(axis[2])) {
      // Zeros around the lines let every tap of every output exist and end the last tile where the line does.
      int64_t tile = slim_tiles<T>(out_w) ? kSlimTile : kTilePixels<T>;
      axis[2].out = ceil_div(out_w, tile) * tile;
      grad_zeros = axis[2].out - out_w;
      margins = {most(0, axis[2].pad), most(0, axis[2].source(axis[2].out - 1, axis[2].kernel - 1) + 1 - in_w)};
      axis[2].in += margins.before + margins.after;
      axis[2].pad -= margins.before;
    }
    const int64_t x_space[] = {0, axis[2].in * lanes, lanes}, grad_space[] = {0, axis[2].out * lanes, lanes};
    int64_t in_lines = least(height.in, (band_lines - 1) * height.stride + (height.kernel - 1) * height.dilation + 1);
    Scratch<T> scratch(Use::partial, parts * mix * taps * blocks.padded());
    partial = scratch.data();
    GradBias grad_bias(args, parts);
    parallel_for(parts * blocks.count, 1, [&](int64_t begin, int64_t end) {
      Scratch<T> x(Use::source, in_lines * x_space[1]);
      Scratch<T> grad_y(Use::gradient, band_lines * grad_space[1]);
      FetchAhead nothing;  // the copies are in the cache
      Scratch<LinePiece> pieces(Use::tables, most_pieces(args.axis[1]));
      auto sums = filter_sums<T>(axis, x_space, grad_space, blocks.padded(), nothing);
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t part = unit / blocks.count, b = unit % blocks.count, channel = blocks.start(b);
        T* to = partial + part * mix * taps * blocks.padded() + b * lanes;
        for (int64_t tap = 0; tap < mix * taps; ++tap) zero_run(to + tap * blocks.padded(), lanes);
        for (int64_t band = bands * part / parts; band < bands * (part + 1) / parts; ++band) {
          Place at = place_of(band);
          gather_block(args.y, grad_of(at.image, at.d) + channel * args.y.channel, wide, 0, 1, at.h, at.h_end - at.h,
                       out_w, grad_y.data(), 0, grad_zeros);
          // A last block that overlaps its neighbour has channels that the neighbour sums.
          int64_t own = b * lanes - channel;
          grad_bias.add(part, b * lanes, channel + wide, grad_y.data() + own, at.h_end - at.h, grad_space[1], out_w,
                        lanes);
          auto [low, high] = lines_of(at);
          sums.find_pieces(at.h, at.h_end, pieces.data());
          for (int64_t i = 0; i < args.axis[0].kernel; ++i) {
            int64_t in_d = args.axis[0].source(at.d, i);
            if (in_d < 0 || in_d >= args.axis[0].in || low >= high) continue;
            gather_block(args.x, x_of(at.image) + channel * args.x.channel, wide, in_d, 1, low, high - low, in_w,
                         x.data(), margins.before, margins.after);
            add(sums, x.data() - low * x_space[1], grad_y.data() - at.h * grad_space[1], at,
                to + i * line_taps * blocks.padded());
          }
        }
      }
    });
    finish(blocks);
    grad_bias.finish<S>();
  }

  NNART_HD void run() {
    if (args.x.channel == 1 && args.y.channel == 1 && channels >= Block<S>::channels)
      run_in_place();
    else
      run_copied();
  }
};

}  // namespace
}  // namespace nnart::cpu

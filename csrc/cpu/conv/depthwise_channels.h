// Depthwise convolution of channels-last tensors. A unit of work is one line of the output; a tile is some of its
// pixels times one block of channels, held in registers while the taps pass.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/source.h"

namespace nnart::cpu {
namespace {

// As many channels as one load brings, in the compute type. bfloat16 comes as even and odd channels, which a shift and
// a mask widen; weights and sums are kept in the same order.
template <class S>
struct Block {
  using T = ComputeType<S>;
  static constexpr int vectors = 1;
  static constexpr int64_t channels = Vec<T>::size;
  Vec<T> v[1];
  NNART_HD static Block from(const S* p) { return {{load(p)}}; }
  NNART_HD void to(S* p) const { store(p, v[0]); }
  NNART_HD void past_caches(S* p) const { store_past_caches(p, v[0]); }
};
template <>
struct Block<BFloat16> {
  using T = float;
  static constexpr int vectors = 2;
  static constexpr int64_t channels = 2 * Vec<float>::size;
  Vec<float> v[2];
  NNART_HD static Block from(const BFloat16* p) {
    EvenOdd x = load_even_odd(p);
    return {{x.even, x.odd}};
  }
  NNART_HD void to(BFloat16* p) const {
    RawU32 joined = join_even_odd({v[0], v[1]});
    std::memcpy(p, &joined, sizeof joined);
  }
  NNART_HD void past_caches(BFloat16* p) const { store_past_caches(static_cast<void*>(p), join_even_odd({v[0], v[1]})); }
};

template <class S>
NNART_HD Block<S> zero_block() {
  Block<S> zero;
  for (auto& v : zero.v) v = Vec<ComputeType<S>>(0);
  return zero;
}
template <class S>
NNART_HD void add_product(Block<S>& sum, const Block<S>& a, const Block<S>& b) {
  for (int i = 0; i < Block<S>::vectors; ++i) sum.v[i] = sum.v[i] + a.v[i] * b.v[i];
}
template <class S>
NNART_HD void add(Block<S>& sum, const Block<S>& a) {
  for (int i = 0; i < Block<S>::vectors; ++i) sum.v[i] = sum.v[i] + a.v[i];
}

// The channels in whole blocks; the last one overlaps its neighbour where they do not divide evenly.
template <class S>
struct Blocks {
  int64_t channels, count;
  NNART_HD explicit Blocks(int64_t channels) : channels(channels), count(ceil_div(channels, Block<S>::channels)) {}
  NNART_HD int64_t start(int64_t block) const {
    return least(block * Block<S>::channels, channels - Block<S>::channels);
  }
  NNART_HD int64_t padded() const { return count * Block<S>::channels; }
};

// Outputs first + step * i of an axis, which share their taps: output i reads source_step * i + shift[j] with weight
// tap[j], j < n. A forward axis has one phase; the gradient of one with stride s has s.
struct TapPhase {
  int64_t first, step, count, source_step, n, lowest, highest;
  const int64_t *tap, *shift;
};

struct TapAxis {
  int64_t phase_count, outputs, sources;
  TapPhase* phases;
  NNART_HD const TapPhase& phase_of(int64_t output) const { return phases[output % phase_count]; }
  NNART_HD int64_t index_of(int64_t output) const { return output / phase_count; }
};

constexpr int64_t kTapPhaseWords = sizeof(TapPhase) / sizeof(int64_t);
NNART_HD int64_t tap_axis_words(const math::Axis& axis) { return 2 * axis.kernel + axis.stride * kTapPhaseWords; }

// Fills tap_axis_words(axis) words from `table` on.
NNART_HD TapAxis tap_axis(const math::Axis& axis, bool transposed, int64_t* table) {
  TapAxis result{};
  result.outputs = transposed ? axis.in : axis.out;
  result.sources = transposed ? axis.out : axis.in;
  result.phase_count = transposed ? axis.stride : 1;
  result.phases = reinterpret_cast<TapPhase*>(table);
  int64_t *tap = table + axis.stride * kTapPhaseWords, *shift = tap + axis.kernel;
  for (int64_t p = 0; p < result.phase_count; ++p) {
    TapPhase& phase = result.phases[p];
    int64_t count = ceil_div(most(0, result.outputs - p), result.phase_count);
    phase = {p, result.phase_count, count, transposed ? 1 : axis.stride, 0, 0, 0, tap, shift};
    for (int64_t k = 0; k < axis.kernel; ++k) {
      int64_t distance = transposed ? p + axis.pad - k * axis.dilation : k * axis.dilation - axis.pad;
      if (transposed && modulo(distance, axis.stride) != 0) continue;
      int64_t by = transposed ? div_floor(distance, axis.stride) : distance;
      phase.lowest = phase.n ? least(phase.lowest, by) : by;
      phase.highest = phase.n ? most(phase.highest, by) : by;
      *tap++ = k;
      *shift++ = by;
      ++phase.n;
    }
  }
  return result;
}

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockRegisters = 16;
#else
constexpr int kBlockRegisters = 8;
#endif

// A filter's taps as [tap][channel], blocks of channels one after the other.
template <class S>
void pack_filters(const ConvArgs& args, const Blocks<S>& blocks, S* packed) {
  const ConvOperand& w = args.weight;
  for (int64_t i = 0; i < args.axis[0].kernel; ++i)
    for (int64_t j = 0; j < args.axis[1].kernel; ++j)
      for (int64_t k = 0; k < args.axis[2].kernel; ++k)
        for (int64_t block = 0; block < blocks.count; ++block) {
          const S* from = static_cast<const S*>(w.data) + blocks.start(block) * w.batch + i * w.space[0] +
                          j * w.space[1] + k * w.space[2];
          for (int64_t lane = 0; lane < Block<S>::channels; ++lane) *packed++ = from[lane * w.batch];
        }
}

// Forward and dgrad.
template <class S>
struct DepthwiseChannels {
  using T = ComputeType<S>;
  static constexpr int tile = kBlockRegisters / Block<S>::vectors;  // pixels
  static constexpr bool has_past_caches = Block<S>::channels * sizeof(S) == 64;

  // A line of the source that a line of the output reads, and the weights it meets there.
  struct SourceLine {
    const S *pixels, *weights;
  };

  const ConvArgs& args;
  ConvOperand source, target;
  Blocks<S> blocks;
  TapAxis axis[3];
  const S *packed, *bias, *zeros;
  bool past_caches;

  NNART_HD explicit DepthwiseChannels(const ConvArgs& args) : args(args), blocks(args.groups) {
    bool transposed = args.pass == ConvPass::Dgrad;
    source = transposed ? args.y : args.x;
    target = transposed ? args.x : args.y;
  }

  NNART_HD int64_t fill_lines(int64_t image, int64_t d, int64_t h, SourceLine* lines) const {
    const TapPhase& depth = axis[0].phase_of(d);
    const TapPhase& height = axis[1].phase_of(h);
    const S* from = static_cast<const S*>(source.data) + image * source.batch;
    int64_t n = 0, line_weights = args.axis[2].kernel * blocks.padded();
    for (int64_t i = 0; i < depth.n; ++i) {
      int64_t in_d = axis[0].index_of(d) * depth.source_step + depth.shift[i];
      if (in_d < 0 || in_d >= axis[0].sources) continue;
      for (int64_t j = 0; j < height.n; ++j) {
        int64_t in_h = axis[1].index_of(h) * height.source_step + height.shift[j];
        if (in_h < 0 || in_h >= axis[1].sources) continue;
        lines[n++] = {from + in_d * source.space[0] + in_h * source.space[1],
                      packed + (depth.tap[i] * args.axis[1].kernel + height.tap[j]) * line_weights};
      }
    }
    return n;
  }

  // The outputs [begin, begin + n) of a phase of one line, n <= tile.
  template <bool border>
  void run_tile(const SourceLine* lines, int64_t line_count, const TapPhase& phase, int64_t begin, int64_t n,
                S* to) const {
    int64_t pixel = source.space[2], step = phase.source_step * pixel, to_step = phase.step * target.space[2];
    for (int64_t block = 0; block < blocks.count; ++block) {
      int64_t c = blocks.start(block);
      Block<S> sum[tile], first = bias ? Block<S>::from(bias + block * Block<S>::channels) : zero_block<S>();
      for (int t = 0; t < tile; ++t) sum[t] = first;
      for (int64_t i = 0; i < line_count; ++i) {
        const S* weights = lines[i].weights + block * Block<S>::channels;
        for (int64_t j = 0; j < phase.n; ++j) {
          Block<S> w = Block<S>::from(weights + phase.tap[j] * blocks.padded());
          int64_t at = begin * phase.source_step + phase.shift[j];
          const S* from = lines[i].pixels + at * pixel + c;
          for (int t = 0; t < tile; ++t) {
            const S* p = from + t * step;
            if constexpr (border) {
              int64_t place = at + t * phase.source_step;
              if (place < 0 || place >= axis[2].sources) p = zeros;
            }
            add_product(sum[t], Block<S>::from(p), w);
          }
        }
      }
      S* pixels = to + begin * to_step + c;
      if (border) {
        for (int t = 0; t < tile; ++t)
          if (t < n) sum[t].to(pixels + t * to_step);
      } else if (has_past_caches && past_caches) {
        for (int t = 0; t < tile; ++t) sum[t].past_caches(pixels + t * to_step);
      } else {
        for (int t = 0; t < tile; ++t) sum[t].to(pixels + t * to_step);
      }
    }
  }

  void run_line(int64_t line, SourceLine* lines) const {
    int64_t h = line % axis[1].outputs, d = line / axis[1].outputs % axis[0].outputs;
    int64_t image = line / axis[1].outputs / axis[0].outputs;
    int64_t line_count = fill_lines(image, d, h, lines);
    S* to = static_cast<S*>(target.data) + image * target.batch + d * target.space[0] + h * target.space[1];
    for (int64_t p = 0; p < axis[2].phase_count; ++p) {
      const TapPhase& phase = axis[2].phases[p];
      S* to_phase = to + phase.first * target.space[2];
      for (int64_t begin = 0; begin < phase.count; begin += tile) {
        int64_t first = most(0, least(begin, phase.count - tile)), n = least(tile, phase.count - first);
        int64_t last = (first + tile - 1) * phase.source_step + phase.highest;
        if (n == tile && first * phase.source_step + phase.lowest >= 0 && last < axis[2].sources)
          run_tile<false>(lines, line_count, phase, first, n, to_phase);
        else
          run_tile<true>(lines, line_count, phase, first, n, to_phase);
      }
    }
  }

  NNART_HD void run() {
    int64_t words = 0, taps = 1;
    for (const math::Axis& a : args.axis) {
      words += tap_axis_words(a);
      taps *= a.kernel;
    }
    Scratch<int64_t> table(Use::tables, words);
    int64_t* next = table.data();
    for (int a = 0; a < 3; ++a) {
      axis[a] = tap_axis(args.axis[a], args.pass == ConvPass::Dgrad, next);
      next += tap_axis_words(args.axis[a]);
    }
    Scratch<S> weights(Use::weight, taps * blocks.padded());
    pack_filters<S>(args, blocks, weights.data());
    packed = weights.data();
    Scratch<S> other(Use::bias, blocks.padded() + Block<S>::channels);
    zeros = other.data() + blocks.padded();
    std::memset(other.data() + blocks.padded(), 0, Block<S>::channels * sizeof(S));
    bias = args.bias ? other.data() : nullptr;
    if (args.bias)
      for (int64_t block = 0; block < blocks.count; ++block)
        std::memcpy(other.data() + block * Block<S>::channels,
                    static_cast<const S*>(args.bias) + blocks.start(block), Block<S>::channels * sizeof(S));

    int64_t lines = args.batch * axis[0].outputs * axis[1].outputs;
    int64_t line_elements = axis[2].outputs * args.groups, line_work = line_elements * taps;
    parallel_for(lines, most(1, kDepthwiseGrain / most(1, line_work)), [&](int64_t begin, int64_t end) {
      DepthwiseChannels mine = *this;
      bool aligned = reinterpret_cast<uintptr_t>(target.data) % 64 == 0 && target.space[2] * sizeof(S) % 64 == 0 &&
                     target.space[1] * sizeof(S) % 64 == 0 && target.space[0] * sizeof(S) % 64 == 0 &&
                     target.batch * sizeof(S) % 64 == 0;
      mine.past_caches = aligned && (end - begin) * line_elements * int64_t(sizeof(S)) >= kPastCachesBytes;
      Scratch<SourceLine> source_lines(Use::pixels, args.axis[0].kernel * args.axis[1].kernel);
      for (int64_t line = begin; line < end; ++line) mine.run_line(line, source_lines.data());
      if (mine.past_caches) finish_stores();
    });
  }

  static constexpr int64_t kDepthwiseGrain = int64_t{1} << 17;
};

// The gradient of the filters. The sums of some taps are in registers while the lines of a band of images pass.
template <class S>
struct DepthwiseChannelsWgrad {
  using T = ComputeType<S>;
  static constexpr int tile = 8 / Block<S>::vectors;  // taps
  // Elements of x and grad_y in a band: they should stay in the L2 cache while its channels pass, and a float sum over
  // its pixels should be short.
  static constexpr int64_t kBandElements = int64_t{1} << 16;
  static constexpr int64_t kParts = 16;

  const ConvArgs& args;
  Blocks<S> blocks;
  int64_t taps, band_lines, bands, parts;
  T* partial;  // [part][tap][channel]

  NNART_HD explicit DepthwiseChannelsWgrad(const ConvArgs& args) : args(args), blocks(args.groups) {
    taps = args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    int64_t line = args.groups * (args.axis[2].out + args.axis[1].stride * args.axis[2].in);
    band_lines = most(1, least(args.axis[1].out, kBandElements / line));
    bands = args.batch * args.axis[0].out * ceil_div(args.axis[1].out, band_lines);
    parts = least(bands, kParts);
  }

  // Adds to n taps of one line of the kernel, from tap k of it on, the lines [h, h_end) of grad_y.
  template <int n>
  void add_taps(const S* x, const S* grad_y, int64_t h, int64_t h_end, int64_t tap_h, int64_t k, T* sums,
                int64_t sums_step) const {
    const math::Axis& height = args.axis[1];
    const math::Axis& width = args.axis[2];
    constexpr int unroll = n * Block<S>::vectors <= 4 ? 2 : 1;  // more sums, to hide the latency of an addition
    Block<S> sum[unroll][n];
    for (auto& line : sum)
      for (auto& s : line) s = zero_block<S>();
    int64_t pixel = args.x.space[2], tap_step = width.dilation * pixel, step = width.stride * pixel;
    int64_t grad_step = args.y.space[2];
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
      int64_t in_h = height.source(line, tap_h);
      if (in_h < 0 || in_h >= height.in) continue;
      const S* row = x + in_h * args.x.space[1] + (k * width.dilation - width.pad) * pixel;
      const S* grad_row = grad_y + line * args.y.space[1];
      int64_t w = from;
      for (; w + unroll <= to; w += unroll)
        for (int u = 0; u < unroll; ++u) {
          Block<S> g = Block<S>::from(grad_row + (w + u) * grad_step);
          const S* p = row + (w + u) * step;
          for (int t = 0; t < n; ++t) add_product(sum[u][t], g, Block<S>::from(p + t * tap_step));
        }
      for (int t = 0; t < n; ++t) {
        auto add_range = [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            add_product(sum[0][t], Block<S>::from(grad_row + i * grad_step), Block<S>::from(row + i * step + t * tap_step));
        };
        add_range(low[t], least(from, high[t]));
        add_range(most(w, low[t]), high[t]);
      }
    }
    for (int t = 0; t < n; ++t)
      for (int v = 0; v < Block<S>::vectors; ++v) {
        T* target = sums + t * sums_step + v * Vec<T>::size;
        Vec<T> total = sum[0][t].v[v];
        if constexpr (unroll == 2) total = total + sum[1][t].v[v];
        store(target, load(target) + total);
      }
  }

  template <int... n>
  NNART_HD void add_some_taps(std::integer_sequence<int, n...>, int64_t count, const S* x, const S* grad_y, int64_t h,
                              int64_t h_end, int64_t tap_h, int64_t k, T* sums) const {
    ((count == n + 1 ? add_taps<n + 1>(x, grad_y, h, h_end, tap_h, k, sums, blocks.padded()) : void()), ...);
  }

  void run_band(int64_t band, T* sums) const {
    int64_t pieces = ceil_div(args.axis[1].out, band_lines);
    int64_t h = band % pieces * band_lines, h_end = least(h + band_lines, args.axis[1].out);
    int64_t d = band / pieces % args.axis[0].out, image = band / pieces / args.axis[0].out;
    const S* x = static_cast<const S*>(args.x.data) + image * args.x.batch;
    const S* grad_y = static_cast<const S*>(args.y.data) + image * args.y.batch + d * args.y.space[0];
    int64_t kernel_h = args.axis[1].kernel, kernel_w = args.axis[2].kernel;
    Even cuts(kernel_w, tile);
    for (int64_t block = 0; block < blocks.count; ++block)
      for (int64_t i = 0; i < args.axis[0].kernel; ++i) {
        int64_t in_d = args.axis[0].source(d, i), c = blocks.start(block);
        if (in_d < 0 || in_d >= args.axis[0].in) continue;
        for (int64_t j = 0; j < kernel_h; ++j)
          for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
            int64_t k = cuts.begin(cut);
            add_some_taps(std::make_integer_sequence<int, tile>{}, cuts.begin(cut + 1) - k,
                          x + in_d * args.x.space[0] + c, grad_y + c, h, h_end, j, k,
                          sums + ((i * kernel_h + j) * kernel_w + k) * blocks.padded() + block * Block<S>::channels);
          }
      }
  }

  // The parts in their order.
  void finish(int64_t tap) const {
    const ConvOperand& w = args.weight;
    int64_t kernel_h = args.axis[1].kernel, kernel_w = args.axis[2].kernel;
    S* to = static_cast<S*>(w.data) + tap / kernel_w / kernel_h * w.space[0] + tap / kernel_w % kernel_h * w.space[1] +
            tap % kernel_w * w.space[2];
    for (int64_t block = 0; block < blocks.count; ++block) {
      Block<S> sum = zero_block<S>();
      for (int64_t part = 0; part < parts; ++part)
        for (int v = 0; v < Block<S>::vectors; ++v)
          sum.v[v] = sum.v[v] + load(partial + (part * taps + tap) * blocks.padded() + block * Block<S>::channels +
                                     v * Vec<T>::size);
      S lanes[Block<S>::channels];
      sum.to(lanes);
      for (int64_t lane = 0; lane < Block<S>::channels; ++lane) to[(blocks.start(block) + lane) * w.batch] = lanes[lane];
    }
  }

  NNART_HD void run() {
    int64_t part_elements = taps * blocks.padded();
    Scratch<T> sums(Use::partial, parts * part_elements);
    partial = sums.data();
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        zero_run(partial + part * part_elements, part_elements);
        for (int64_t band = bands * part / parts; band < bands * (part + 1) / parts; ++band)
          run_band(band, partial + part * part_elements);
      }
    });
    for (int64_t tap = 0; tap < taps; ++tap) finish(tap);
  }
};

}  // namespace
}  // namespace nnart::cpu

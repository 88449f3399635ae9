// Depthwise forward and dgrad. A unit of work is one line of the output; a tile is some of its pixels times one block
// of channels, held in registers while the taps pass.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/depthwise_blocks.h"
#include "cpu/conv/fetch_ahead.h"
#include "cpu/kernels.h"

namespace nnart::cpu {
namespace {

// Pixels of a tile: beside their sums, the registers hold a line of the filter.
#if defined(__AVX512F__) || defined(__aarch64__)
template <class S>
constexpr int kTilePixels = 8;
#else
template <class S>
constexpr int kTilePixels = Block<S>::vectors == 1 ? 6 : 3;
#endif

// Lines of a tensor whose channels lie beside each other, stored as S.
template <class S, class Reader>
struct DepthwiseLines {
  static constexpr int tile = kTilePixels<S>;
  static constexpr bool has_past_caches = Block<S>::channels * sizeof(S) == 64;

  // A line of the source that a line of the output reads, and the weights it meets there.
  struct SourceLine {
    const S *pixels, *weights;
  };

  TapAxis axis[3];
  int64_t kernel_h, kernel_w;
  int64_t source_space[3], target_space[3];
  Blocks<S> blocks;
  Readers<Reader> readers;
  int64_t tap_step = 0, mix_step = 0;  // of the packed filters; blocks are Block<S>::channels apart
  const S* packed = nullptr;
  const S* bias = nullptr;   // may stay null
  const S* zeros = nullptr;  // a block
  bool clamps = false;       // the result to [low, high], which is ReLU, ReLU6 or Hardtanh
  double low = 0, high = 0;
  bool past_caches = false;

  // The lines of the image `from` that line (d, h) of the output reads and the line above it did not.
  NNART_HD LineBox new_lines(const S* from, int64_t d, int64_t h) const {
    const TapPhase& depth = axis[0].phase_of(d);
    int64_t base = axis[0].index_of(d) * depth.source_step, first_plane = axis[0].sources, planes = 0;
    for (int64_t i = 0; i < depth.n; ++i) {
      int64_t plane = base + depth.shift[i];
      if (plane < 0 || plane >= axis[0].sources) continue;
      first_plane = least(first_plane, plane);
      ++planes;
    }
    int64_t between = depth.n > 1 ? depth.shift[1] - depth.shift[0] : 1;
    int64_t first = most(0, h > 0 ? last_source(h - 1) + 1 : 0);
    int64_t last = least(last_source(h), axis[1].sources - 1);
    constexpr int64_t size = sizeof(S);
    return {reinterpret_cast<const char*>(from + first_plane * source_space[0] + first * source_space[1]),
            planes,
            between * source_space[0] * size,
            last + 1 - first,
            source_space[1] * size,
            axis[2].sources * source_space[2] * size};
  }
  NNART_HD int64_t last_source(int64_t h) const {
    return axis[1].index_of(h) * axis[1].phase_of(h).source_step + axis[1].phase_of(h).highest;
  }

  // The lines that line (d, h) of the output reads.
  NNART_HD int64_t fill_lines(const S* from, int64_t d, int64_t h, SourceLine* lines) const {
    const TapPhase& depth = axis[0].phase_of(d);
    const TapPhase& height = axis[1].phase_of(h);
    int64_t n = 0;
    for (int64_t i = 0; i < depth.n; ++i) {
      int64_t in_d = axis[0].index_of(d) * depth.source_step + depth.shift[i];
      if (in_d < 0 || in_d >= axis[0].sources) continue;
      for (int64_t j = 0; j < height.n; ++j) {
        int64_t in_h = axis[1].index_of(h) * height.source_step + height.shift[j];
        if (in_h < 0 || in_h >= axis[1].sources) continue;
        lines[n++] = {from + in_d * source_space[0] + in_h * source_space[1],
                      packed + (depth.tap[i] * kernel_h + height.tap[j]) * kernel_w * tap_step};
      }
    }
    return n;
  }

  template <bool border>
  NNART_HD void store_tile(Block<S>* sum, int64_t n, S* pixels, int64_t step) const {
    using V = Vec<ComputeType<S>>;
#pragma GCC unroll 8
    for (int t = 0; t < tile; ++t) {
      if (border && t >= n) break;
      if (clamps)
        for (auto& v : sum[t].v) v = at_most(at_least(v, V(low)), V(high));
      if (has_past_caches && past_caches)
        sum[t].past_caches(pixels + t * step);
      else
        sum[t].to(pixels + t * step);
    }
  }

  // The outputs [begin, begin + n) of a phase of one line, n <= tile. With taps == 0 any taps; else so many that stand
  // beside each other, so that a pixel is loaded once for all of them. A tile at the border reads places that do not
  // exist.
  template <int taps, int step, bool border>
  void run_tile(const SourceLine* lines, int64_t line_count, const TapPhase& phase, int64_t begin, int64_t n, S* to,
                FetchAhead& ahead) const {
    int64_t pixel = source_space[2], to_step = phase.step * target_space[2];
    for (int64_t block = 0; block < blocks.count; ++block) {
      ahead.step();
      int64_t c = blocks.start(block);
      Block<S> sum[tile], first = bias ? Block<S>::from(bias + block * Block<S>::channels) : zero_block<S>();
      for (int t = 0; t < tile; ++t) sum[t] = first;
      for (int64_t i = 0; i < line_count * readers.mix; ++i) {
        int64_t m = Reader::mixes ? i % readers.mix : 0, at_line = Reader::mixes ? i / readers.mix : i;
        const Reader reader = readers.reader[m];
        const S* weights = lines[at_line].weights + m * mix_step + block * Block<S>::channels;
        const S* line = lines[at_line].pixels + c;
        if constexpr (taps > 0) {
          Block<S> w[taps];
#pragma GCC unroll 8
          for (int k = 0; k < taps; ++k) w[k] = Block<S>::from(weights + phase.tap[k] * tap_step);
          int64_t place = begin * step + phase.lowest;
          const S* from = line + place * pixel;
#pragma GCC unroll 32
          for (int q = 0; q < (tile - 1) * step + taps; ++q) {
            if (border && (place + q < 0 || place + q >= axis[2].sources)) continue;
            Block<S> x = reader.from(from + q * pixel);
#pragma GCC unroll 8
            for (int k = 0; k < taps; ++k)
              if (q >= k && (q - k) % step == 0 && (q - k) / step < tile) add_product(sum[(q - k) / step], x, w[k]);
          }
        } else {
          int64_t source_step = phase.source_step * pixel;
          for (int64_t j = 0; j < phase.n; ++j) {
            Block<S> w = Block<S>::from(weights + phase.tap[j] * tap_step);
            int64_t at = begin * phase.source_step + phase.shift[j];
            const S* from = line + at * pixel;
#pragma GCC unroll 8
            for (int t = 0; t < tile; ++t) {
              const S* p = from + t * source_step;
              if constexpr (border) {
                int64_t place = at + t * phase.source_step;
                if (place < 0 || place >= axis[2].sources) p = zeros;
              }
              add_product(sum[t], reader.from(p), w);
            }
          }
        }
      }
      store_tile<border>(sum, n, to + begin * to_step + c, to_step);
    }
  }

  template <int taps, int step>
  void run_phase(const SourceLine* lines, int64_t line_count, const TapPhase& phase, S* to, FetchAhead& ahead) const {
    for (int64_t begin = 0; begin < phase.count; begin += tile) {
      int64_t first = most(0, least(begin, phase.count - tile)), n = least(tile, phase.count - first);
      int64_t last = (first + tile - 1) * phase.source_step + phase.highest;
      if (n == tile && first * phase.source_step + phase.lowest >= 0 && last < axis[2].sources)
        run_tile<taps, step, false>(lines, line_count, phase, first, n, to, ahead);
      else
        run_tile<taps, step, true>(lines, line_count, phase, first, n, to, ahead);
    }
  }

  void run_line(const S* from, S* to, int64_t d, int64_t h, SourceLine* lines, FetchAhead& ahead) const {
    int64_t line_count = fill_lines(from, d, h, lines);
    for (int64_t p = 0; p < axis[2].phase_count; ++p) {
      const TapPhase& phase = axis[2].phases[p];
      S* to_phase = to + phase.first * target_space[2];
      bool beside = phase.highest - phase.lowest + 1 == phase.n;
      auto run = [&](auto narrow) { run_phase<narrow.count, narrow.step>(lines, line_count, phase, to_phase, ahead); };
      bool done = false;
      if constexpr (!Reader::mixes)
        done = beside && with_narrow<Narrow<1, 1>, Narrow<2, 1>, Narrow<3, 1>, Narrow<4, 1>, Narrow<5, 1>, Narrow<7, 1>,
                                     Narrow<3, 2>, Narrow<5, 2>, Narrow<7, 2>>(phase.n, phase.source_step, run);
      else
        done = beside &&
               with_narrow<Narrow<1, 1>, Narrow<2, 1>, Narrow<3, 1>, Narrow<3, 2>>(phase.n, phase.source_step, run);
      if (!done) run(Narrow<0, 0>{});
    }
  }
};

// Where the tensors come from: read in place if channels-last, else copied into blocks of channels band by band.
template <class S, template <class> class Reader>
struct DepthwiseCorrelation {
  using T = ComputeType<S>;
  static constexpr int64_t lanes = Vec<T>::size;
  static constexpr int64_t kGrain = int64_t{1} << 17;         // multiply-adds
  static constexpr int64_t kBandElements = int64_t{1} << 16;  // of a copied source and its result, in the L2 cache

  const ConvArgs& args;
  const ActivationArgs* after;  // what is done to each line when it is written; null for nothing
  ConvOperand source, target;
  TapAxis axis[3];
  int64_t channels, mix, taps, line_work;

  NNART_HD explicit DepthwiseCorrelation(const ConvArgs& args)
      : args(args), after(args.finish && !is_clamp(*args.finish) ? args.finish : nullptr) {
    bool transposed = args.pass == ConvPass::Dgrad;
    source = transposed ? args.y : args.x;
    target = transposed ? args.x : args.y;
    channels = args.in_channels;
    mix = channels / args.groups;
    taps = args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
  }

  NNART_HD static bool is_clamp(const ActivationArgs& finish) {
    return !finish.residual && (finish.activation == Activation::Relu || finish.activation == Activation::Hardtanh);
  }

  template <class P>
  NNART_HD DepthwiseLines<P, Reader<P>> lines_of(int64_t channels) const {
    DepthwiseLines<P, Reader<P>> lines{{axis[0], axis[1], axis[2]}, args.axis[1].kernel,    args.axis[2].kernel, {}, {},
                                       Blocks<P>(channels),         Readers<Reader<P>>(mix)};
    if (args.finish && !after) {
      bool relu = args.finish->activation == Activation::Relu;
      lines.clamps = true;
      lines.low = relu ? 0 : args.finish->parameters.a;
      lines.high = relu ? HUGE_VAL : args.finish->parameters.b;
    }
    return lines;
  }

  // What follows the convolution, for n elements that were just written.
  static void finish(const ActivationArgs& how, DType dtype, void* elements, const void* residual, int64_t n) {
    ActivationArgs piece = how;
    piece.dtype = dtype;
    piece.n = n;
    piece.x = piece.y = elements;
    piece.residual = residual;
    Kernels<Isa::NNART_ISA>::launch(piece);
  }

  const S* bias_of(int64_t channel) const { return static_cast<const S*>(args.bias) + channel; }

  NNART_HD int64_t source_lines() const { return args.axis[0].kernel * args.axis[1].kernel; }

  // A line of the output.
  struct Place {
    int64_t image, d, h;
  };
  NNART_HD Place place_of(int64_t line) const {
    int64_t plane = line / axis[1].outputs;
    return {plane / axis[0].outputs, plane % axis[0].outputs, line % axis[1].outputs};
  }
  NNART_HD const S* image_of(int64_t image) const { return static_cast<const S*>(source.data) + image * source.batch; }

  void run_in_place() const {
    DepthwiseLines<S, Reader<S>> lines = lines_of<S>(channels);
    constexpr int64_t block = Block<S>::channels;
    const Blocks<S>& blocks = lines.blocks;
    for (int a = 0; a < 3; ++a) {
      lines.source_space[a] = source.space[a];
      lines.target_space[a] = target.space[a];
    }
    lines.tap_step = blocks.padded();
    lines.mix_step = taps * blocks.padded();
    Scratch<S> filters(Use::weight, mix * lines.mix_step);
    for (int64_t m = 0; m < mix; ++m)
      pack_filters<S, S>(args, m, blocks, blocks.padded(), block, filters.data() + m * lines.mix_step);
    lines.packed = filters.data();
    Scratch<S> biases(Use::bias, blocks.padded() + block);
    lines.zeros = biases.data() + blocks.padded();
    std::memset(biases.data() + blocks.padded(), 0, block * sizeof(S));
    if (args.bias) {
      lines.bias = biases.data();
      for (int64_t b = 0; b < blocks.count; ++b)
        pack_channels([this](int64_t c) { return bias_of(c); }, blocks.start(b), channels, biases.data() + b * block);
    }
    int64_t pixel_bytes = target.space[2] * int64_t(sizeof(S));
    bool aligned = reinterpret_cast<uintptr_t>(target.data) % 64 == 0 && pixel_bytes % 64 == 0 &&
                   channels * int64_t(sizeof(S)) % 64 == 0 && target.space[1] % target.space[2] == 0 &&
                   target.space[0] % target.space[2] == 0 && target.batch % target.space[2] == 0;
    int64_t count = args.batch * axis[0].outputs * axis[1].outputs, line_bytes = axis[2].outputs * pixel_bytes;
    parallel_for(count, most(1, kGrain / most(1, line_work)), [&](int64_t begin, int64_t end) {
      DepthwiseLines<S, Reader<S>> mine = lines;
      mine.past_caches = !after && aligned && (end - begin) * line_bytes >= kPastCachesBytes;
      Scratch<typename DepthwiseLines<S, Reader<S>>::SourceLine> scratch(Use::pixels, source_lines());
      FetchAhead ahead;
      for (int64_t i = begin; i < end; ++i) {
        Place at = place_of(i);
        if (i + 1 < end) {
          Place next = place_of(i + 1);
          ahead.start(ceil_div(axis[2].outputs, mine.tile) * blocks.count,
                      mine.new_lines(image_of(next.image), next.d, next.h));
        }
        int64_t offset = at.image * target.batch + at.d * target.space[0] + at.h * target.space[1];
        S* line = static_cast<S*>(target.data) + offset;
        mine.run_line(image_of(at.image), line, at.d, at.h, scratch.data(), ahead);
        if (after) {
          auto* residual = static_cast<const S*>(after->residual);
          finish(*after, args.dtype, line, residual ? residual + offset : nullptr, axis[2].outputs * channels);
        }
      }
      if (mine.past_caches) finish_stores();
    });
  }

  // The sources [first, first + n) that outputs [begin, end) of an axis read.
  struct Range {
    int64_t first, n;
  };
  NNART_HD Range sources_of(const TapAxis& a, int64_t begin, int64_t end) const {
    int64_t low = a.sources, high = 0;
    for (int64_t p = 0; p < a.phase_count; ++p) {
      const TapPhase& phase = a.phases[p];
      if (phase.n == 0 || p >= a.outputs) continue;
      low = least(low, begin / a.phase_count * phase.source_step + phase.lowest);
      high = most(high, (end - 1) / a.phase_count * phase.source_step + phase.highest + 1);
    }
    low = most(0, low);
    return {low, most(0, least(high, a.sources) - low)};
  }

  void run_copied() const {
    DepthwiseLines<T, Reader<T>> lines = lines_of<T>(lanes);
    Blocks<T> blocks(channels);
    lines.tap_step = lanes;
    lines.mix_step = taps * lanes;
    Scratch<T> filters(Use::weight, mix * taps * blocks.padded());
    for (int64_t m = 0; m < mix; ++m)
      pack_filters<S, T>(args, m, blocks, lanes, mix * taps * lanes, filters.data() + m * lines.mix_step);
    Scratch<T> biases(Use::bias, blocks.padded() + lanes);
    zero_run(biases.data() + blocks.padded(), lanes);
    lines.zeros = biases.data() + blocks.padded();
    if (args.bias)
      for (int64_t b = 0; b < blocks.count; ++b)
        pack_channels([this](int64_t c) { return bias_of(c); }, blocks.start(b), channels, biases.data() + b * lanes);

    int64_t line = (axis[2].outputs + axis[2].sources * args.axis[1].stride) * lanes;
    int64_t band = most(args.axis[1].kernel * args.axis[1].dilation, kBandElements / most(1, line));
    band = ceil_div(axis[1].outputs, ceil_div(axis[1].outputs, band));
    int64_t bands = ceil_div(axis[1].outputs, band);
    int64_t units = args.batch * axis[0].outputs * bands * blocks.count;
    lines.source_space[2] = lines.target_space[2] = lanes;
    lines.source_space[1] = axis[2].sources * lanes;
    lines.target_space[1] = axis[2].outputs * lanes;
    parallel_for(units, most(1, kGrain / most(1, line_work / blocks.count * band)), [&](int64_t begin, int64_t end) {
      Scratch<typename DepthwiseLines<T, Reader<T>>::SourceLine> scratch(Use::pixels, source_lines());
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t block = unit % blocks.count, rest = unit / blocks.count;
        int64_t h = rest % bands * band, h_end = least(h + band, axis[1].outputs);
        int64_t d = rest / bands % axis[0].outputs, image = rest / bands / axis[0].outputs;
        int64_t channel = blocks.start(block), wide = least(lanes, channels);
        Range in_d = sources_of(axis[0], d, d + 1), in_h = sources_of(axis[1], h, h_end);
        Scratch<T> copy(Use::source, most(1, in_d.n * in_h.n * axis[2].sources * lanes));
        Scratch<T> result(Use::tile, (h_end - h) * axis[2].outputs * lanes);
        gather_block(source, static_cast<const S*>(source.data) + image * source.batch + channel * source.channel, wide,
                     in_d.first, in_d.n, in_h.first, in_h.n, axis[2].sources, copy.data());
        DepthwiseLines<T, Reader<T>> mine = lines;
        mine.source_space[0] = in_h.n * mine.source_space[1];
        mine.packed = filters.data() + block * mix * taps * lanes;
        mine.bias = args.bias ? biases.data() + block * lanes : nullptr;
        FetchAhead nothing;  // the copy is in the cache
        const T* origin = copy.data() - in_d.first * mine.source_space[0] - in_h.first * mine.source_space[1];
        for (int64_t i = h; i < h_end; ++i)
          mine.run_line(origin, result.data() + (i - h) * mine.target_space[1], d, i, scratch.data(), nothing);
        if (after && !after->residual)
          finish(*after, sizeof(T) == 8 ? DType::Float64 : DType::Float32, result.data(), nullptr,
                 (h_end - h) * mine.target_space[1]);
        scatter_block(target,
                      static_cast<S*>(target.data) + image * target.batch + channel * target.channel +
                          d * target.space[0] + h * target.space[1],
                      wide, h_end - h, axis[2].outputs, result.data());
      }
    });
  }

  NNART_HD void run() {
    int64_t words = 0;
    for (const math::Axis& a : args.axis) words += tap_axis_words(a);
    Scratch<int64_t> table(Use::tables, words);
    int64_t* next = table.data();
    for (int a = 0; a < 3; ++a) {
      axis[a] = tap_axis(args.axis[a], args.pass == ConvPass::Dgrad, next);
      next += tap_axis_words(args.axis[a]);
    }
    line_work = axis[2].outputs * channels * taps * mix;
    bool in_place = source.channel == 1 && target.channel == 1 && channels >= Block<S>::channels;
    if (in_place)
      run_in_place();
    else
      run_copied();
    // A residual lies as the result does, not as the copies of a block of channels do.
    if (after && after->residual && !in_place) Kernels<Isa::NNART_ISA>::launch(*after);
  }
};

}  // namespace
}  // namespace nnart::cpu

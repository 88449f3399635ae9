// Depthwise forward and dgrad. A unit of work is one line of the output; a tile is some of its pixels times one block
// of channels, held in registers while the taps pass.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/depthwise_blocks.h"
#include "cpu/conv/fetch_ahead.h"
#include "cpu/conv/finish.h"
#include "cpu/kernels.h"
#include "cpu/streaming.h"

namespace nnart::cpu {
namespace {

// How many of the first pixels that a tile reads do not exist, and of the last; or any, tested one by one.
template <int first, int last>
struct Edges {
  static constexpr bool tested = false;
  static constexpr int low = first, high = last;
};
struct AnyEdges {
  static constexpr bool tested = true;
};

// Lines of a tensor whose channels lie beside each other, stored as S.
template <class S, class Reader>
struct DepthwiseLines {
  static constexpr int64_t kMostLines = 8;  // that are worked on together
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
  bool clamps = false;       // the result to the interval
  Interval<ComputeType<S>> interval = {};
  bool past_caches = false;

  // A line of the output.
  struct TargetLine {
    S* pixels;
    const SourceLine* sources;
    int64_t source_count;
  };

  // The lines of the image `from` that the lines [h, h_end) of depth d of the output read and the line above them did
  // not.
  NNART_HD LineBox new_lines(const S* from, int64_t d, int64_t h, int64_t h_end) const {
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
    int64_t last = least(last_source(h_end - 1), axis[1].sources - 1);
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

  template <int tile>
  NNART_HD void store_tile(Block<S>* sum, int64_t n, S* pixels, int64_t step) const {
    if (clamps)
#pragma GCC unroll 8
      for (int t = 0; t < tile; ++t)
        for (auto& v : sum[t].v) v = interval.of(v);
    if (has_past_caches && past_caches)
#pragma GCC unroll 8
      for (int t = 0; t < tile; ++t, step_on(pixels, step)) {
        if (t >= n) break;
        sum[t].past_caches(pixels);
      }
    else
#pragma GCC unroll 8
      for (int t = 0; t < tile; ++t, step_on(pixels, step)) {
        if (t >= n) break;
        sum[t].to(pixels);
      }
  }

  // What a line of the source adds to a tile, whose first tap lies at `line`: place `place` of axis[2].
  template <class Filter, int tile, class Edges>
  NNART_HD void add_line(const Reader& reader, const S* line, const S* weights, const TapPhase& phase, int64_t place,
                         int64_t pixel, int64_t weight_step, Block<S>* sum) const {
    if constexpr (Filter::taps > 0) {
      Block<S> w[Filter::taps];
#pragma GCC unroll 8
      for (int k = 0; k < Filter::taps; ++k, step_on(weights, weight_step)) w[k] = Block<S>::from(weights);
      line += Edges::low * pixel;
      constexpr int end = Filter::places(tile) - Edges::high;
#pragma GCC unroll 32
      for (int q = Edges::low; q < end; ++q, step_on(line, pixel)) {
        Block<S> x = reader.from(line);
        keep_in_register(x);
#pragma GCC unroll 8
        for (int k = 0; k < Filter::taps; ++k)
          if (Filter::meet(q, k, tile)) add_product(sum[Filter::output(q, k)], x, w[k]);
      }
    } else {
      if constexpr (!Edges::tested && !Reader::mixes)
        if (phase.source_step == 1 && phase.n > kLongestNarrow && phase.shift[1] - phase.shift[0] == 1)
          return add_long_filter(phase.n, [&](auto some, int64_t j) {
            add_line<decltype(some), tile, Edges>(reader, line + j * pixel, weights + phase.tap[j] * tap_step, phase,
                                                  place, pixel, (phase.tap[1] - phase.tap[0]) * tap_step, sum);
          });
      int64_t source_step = phase.source_step * pixel;
      for (int64_t j = 0; j < phase.n; ++j) {
        Block<S> w = Block<S>::from(weights + phase.tap[j] * tap_step);
        int64_t at = place + phase.shift[j] - phase.lowest;
        const S* from = line + (phase.shift[j] - phase.lowest) * pixel;
#pragma GCC unroll 8
        for (int t = 0; t < tile; ++t, step_on(from, source_step)) {
          const S* p = from;
          if constexpr (Edges::tested) {
            int64_t source = at + t * phase.source_step;
            if (source < 0 || source >= axis[2].sources) p = zeros;
          }
          add_product(sum[t], reader.from(p), w);
        }
      }
    }
  }

  // The outputs [begin, begin + n) of a phase of some lines, n <= tile. A pixel is loaded once for all taps of a narrow
  // filter. The lines follow each other block by block because they read the same pixels, which then are in the L1
  // cache.
  template <class Filter, int tile, class Edges>
  void run_tile(const TargetLine* lines, int64_t line_count, const TapPhase& phase, int64_t begin, int64_t n,
                FetchAhead& ahead) const {
    int64_t pixel = source_space[2], to_step = phase.step * target_space[2];
    int64_t first_to = (phase.first + begin * phase.step) * target_space[2];
    int64_t place = begin * phase.source_step + phase.lowest;
    int64_t first_weight = Filter::taps > 0 ? phase.tap[0] * tap_step : 0;
    int64_t weight_step = Filter::taps > 1 ? (phase.tap[1] - phase.tap[0]) * tap_step : 0;
    int64_t mix = Reader::mixes ? readers.mix : 1;
    if (!Edges::tested) n = tile;
    for (int64_t block = 0; block < blocks.count; ++block) {
      int64_t from = blocks.start(block) + place * pixel, to = blocks.start(block) + first_to;
      int64_t packed_c = block * Block<S>::channels;
      for (const TargetLine* target = lines; target < lines + line_count; ++target) {
        ahead.step();
        Block<S> sum[tile], first = bias ? Block<S>::from(bias + packed_c) : zero_block<S>();
#pragma GCC unroll 8
        for (int t = 0; t < tile; ++t) sum[t] = first;
        const SourceLine* sources_end = target->sources + target->source_count;
        for (const SourceLine* source = target->sources; source < sources_end; ++source)
          for (int64_t m = 0; m < mix; ++m)
            add_line<Filter, tile, Edges>(readers.reader[m], source->pixels + from,
                                          source->weights + m * mix_step + packed_c + first_weight, phase, place, pixel,
                                          weight_step, sum);
        store_tile<tile>(sum, n, target->pixels + to, to_step);
      }
    }
  }

  template <class Filter, int tile>
  void run_phase(const TargetLine* lines, int64_t line_count, const TapPhase& phase, FetchAhead& ahead) const {
    constexpr int before = Filter::before, after = Filter::after, after_odd = after + Filter::step - 1;
    for (int64_t begin = 0; begin < phase.count; begin += tile) {
      int64_t first = most(0, least(begin, phase.count - tile)), n = least(tile, phase.count - first);
      int64_t low = most(0, -(first * phase.source_step + phase.lowest));
      int64_t high = most(0, (first + tile - 1) * phase.source_step + phase.highest + 1 - axis[2].sources);
      auto run = [&](auto edges) {
        if (n < tile || low != edges.low || high != edges.high) return false;
        run_tile<Filter, tile, decltype(edges)>(lines, line_count, phase, first, tile, ahead);
        return true;
      };
      bool done = run(Edges<0, 0>{}) || (before > 0 && run(Edges<before, 0>{})) ||
                  (after > 0 && run(Edges<0, after>{})) || (before > 0 && after > 0 && run(Edges<before, after>{}));
      if constexpr (after_odd > after)
        done = done || run(Edges<0, after_odd>{}) || (before > 0 && run(Edges<before, after_odd>{}));
      if (!done) run_tile<AnyTaps, tile, AnyEdges>(lines, line_count, phase, first, n, ahead);
    }
  }

  // The lines [h, h + line_count) of depth d of the output, line_count <= kMostLines.
  void run_lines(const S* from, S* to, int64_t d, int64_t h, int64_t line_count, SourceLine* sources,
                 FetchAhead& ahead) const {
    TargetLine lines[kMostLines];
    for (int64_t i = 0; i < line_count; ++i, sources += lines[i - 1].source_count)
      lines[i] = {to + i * target_space[1], sources, fill_lines(from, d, h + i, sources)};
    for (int64_t p = 0; p < axis[2].phase_count; ++p) {
      const TapPhase& phase = axis[2].phases[p];
      int64_t gap = phase.n > 1 ? phase.shift[1] - phase.shift[0] : 1;
      bool slim = slim_tiles<S>(phase.count);
      auto run = [&](auto filter) {
        using Filter = decltype(filter);
        if constexpr (takes_short_lines<Filter>) {
          if (phase.count == 4) return run_phase<Filter, 4>(lines, line_count, phase, ahead);
          bool is_short = phase.count >= 3 && phase.count < least(kSlimTile, kTilePixels<S>);
          if (is_short) return run_phase<Filter, 3>(lines, line_count, phase, ahead);
        }
        if (slim)
          run_phase<Filter, kSlimTile>(lines, line_count, phase, ahead);
        else
          run_phase<Filter, kTilePixels<S>>(lines, line_count, phase, ahead);
      };
      bool done = false;
      if constexpr (!Reader::mixes)
        done = with_narrow<Narrow<1, 1>, Narrow<2, 1>, Narrow<3, 1>, Narrow<4, 1>, Narrow<5, 1>, Narrow<7, 1>,
                           Narrow<3, 2>, Narrow<5, 2>, Narrow<7, 2>, Narrow<3, 1, 2>>(phase.n, phase.source_step, gap,
                                                                                      run);
      else
        done =
            with_narrow<Narrow<1, 1>, Narrow<2, 1>, Narrow<3, 1>, Narrow<3, 2>>(phase.n, phase.source_step, gap, run);
      if (!done) run(AnyTaps{});
    }
  }
};

// Where the tensors come from: read in place if channels-last, else copied into blocks of channels band by band.
template <class S, template <class> class Reader>
struct DepthwiseCorrelation {
  using T = ComputeType<S>;
  static constexpr int64_t lanes = Vec<T>::size;
  static constexpr int64_t kGrain = int64_t{1} << 17;  // multiply-adds
  static constexpr int64_t kPageBytes = 4096;
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

  template <class P>
  NNART_HD DepthwiseLines<P, Reader<P>> lines_of(int64_t channels) const {
    DepthwiseLines<P, Reader<P>> lines{{axis[0], axis[1], axis[2]}, args.axis[1].kernel,    args.axis[2].kernel, {}, {},
                                       Blocks<P>(channels),         Readers<Reader<P>>(mix)};
    if (args.finish && !after) {
      lines.clamps = true;
      lines.interval = Interval<ComputeType<P>>(*args.finish);
    }
    return lines;
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
    int64_t line = channels * (axis[2].outputs + axis[2].sources * args.axis[1].stride);
    int64_t most_lines = most(1, least(DepthwiseLines<S, Reader<S>>::kMostLines, kBandElements / line));
    // Pixels a page apart share a set of the first-level cache, which has room for a tile's of one line.
    if (pixel_bytes * axis[2].phases[0].step % kPageBytes == 0) most_lines = 1;
    int64_t count = args.batch * axis[0].outputs * axis[1].outputs, line_bytes = axis[2].outputs * pixel_bytes;
    parallel_for(count, most(1, kGrain / most(1, line_work)), [&](int64_t begin, int64_t end) {
      DepthwiseLines<S, Reader<S>> mine = lines;
      mine.past_caches = !after && aligned && (end - begin) * line_bytes >= past_caches_bytes();
      using Lines = DepthwiseLines<S, Reader<S>>;
      Scratch<typename Lines::SourceLine> scratch(Use::pixels, most_lines * source_lines());
      FetchAhead ahead;
      auto lines_from = [&](int64_t i) { return least(least(most_lines, end - i), axis[1].outputs - place_of(i).h); };
      auto fetch = [&](int64_t i, int64_t steps) {
        Place at = place_of(i);
        ahead.start(steps, mine.new_lines(image_of(at.image), at.d, at.h, at.h + lines_from(i)));
      };
      fetch(begin, 1);
      ahead.step();
      for (int64_t i = begin, n; i < end; i += n) {
        Place at = place_of(i);
        n = lines_from(i);
        if (i + n < end) fetch(i + n, n * ceil_div(axis[2].outputs, kTilePixels<S>) * blocks.count);
        int64_t offset = at.image * target.batch + at.d * target.space[0] + at.h * target.space[1];
        S* line = static_cast<S*>(target.data) + offset;
        mine.run_lines(image_of(at.image), line, at.d, at.h, n, scratch.data(), ahead);
        for (int64_t j = 0; after && j < n; ++j, line += target.space[1], offset += target.space[1]) {
          finish_piece<S>(*after, offset, axis[2].outputs * channels);
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

  void run_copied() {
    // The taps of a long filter are too many for edges that the compiler knows: its lines are copied with zeros around.
    int64_t width = axis[2].sources;
    Margins margins;
    if (args.axis[2].kernel > kLongestNarrow) margins = margins_of(axis[2]);
    if (margins.before + margins.after > 2 * width + kLongestNarrow) margins = {};
    add_margins(axis[2], margins);
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
      constexpr int64_t most_lines = DepthwiseLines<T, Reader<T>>::kMostLines;
      Scratch<typename DepthwiseLines<T, Reader<T>>::SourceLine> scratch(Use::pixels, most_lines * source_lines());
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t block = unit % blocks.count, rest = unit / blocks.count;
        int64_t h = rest % bands * band, h_end = least(h + band, axis[1].outputs);
        int64_t d = rest / bands % axis[0].outputs, image = rest / bands / axis[0].outputs;
        int64_t channel = blocks.start(block), wide = least(lanes, channels);
        Range in_d = sources_of(axis[0], d, d + 1), in_h = sources_of(axis[1], h, h_end);
        Scratch<T> copy(Use::source, most(1, in_d.n * in_h.n * axis[2].sources * lanes));
        Scratch<T> result(Use::tile, (h_end - h) * axis[2].outputs * lanes);
        gather_block(source, static_cast<const S*>(source.data) + image * source.batch + channel * source.channel, wide,
                     in_d.first, in_d.n, in_h.first, in_h.n, width, copy.data(), margins.before, margins.after);
        DepthwiseLines<T, Reader<T>> mine = lines;
        mine.source_space[0] = in_h.n * mine.source_space[1];
        mine.packed = filters.data() + block * mix * taps * lanes;
        mine.bias = args.bias ? biases.data() + block * lanes : nullptr;
        FetchAhead nothing;  // the copy is in the cache
        const T* origin = copy.data() - in_d.first * mine.source_space[0] - in_h.first * mine.source_space[1];
        for (int64_t i = h; i < h_end; i += most_lines)
          mine.run_lines(origin, result.data() + (i - h) * mine.target_space[1], d, i, least(most_lines, h_end - i),
                         scratch.data(), nothing);
        if (after && !beside(*after)) {
          ActivationArgs copied = *after;
          copied.dtype = sizeof(T) == 8 ? DType::Float64 : DType::Float32;
          copied.y = result.data();
          finish_piece<T>(copied, 0, (h_end - h) * mine.target_space[1]);
        }
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
    // What stands beside the result lies as that does, not as the copies of a block of channels do.
    if (after && beside(*after) && !in_place) Kernels<Isa::NNART_ISA>::launch(*after);
  }
};

}  // namespace
}  // namespace nnart::cpu

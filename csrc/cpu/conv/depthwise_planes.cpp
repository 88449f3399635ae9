// Depthwise forward and dgrad of tensors whose lines lie in order (NCHW). A tile is some lines times one or two vectors
// along them, held in registers while the taps pass.
#include "core/parallel.h"
#include "cpu/conv/depthwise_blocks.h"
#include "cpu/conv/finish.h"
#include "cpu/conv/planes.h"
#include "cpu/conv/sliding.h"
#include "cpu/conv/strategies.h"
#include "cpu/kernels.h"

namespace nnart::cpu {
namespace {

constexpr int64_t kGrain = int64_t{1} << 17;  // multiply-adds
// Elements of the result that wait for the activation that follows: it costs a call, which a plane of 7x7 is not worth.
constexpr int64_t kPending = int64_t{1} << 12;

constexpr int kPhaseLines = 4;

// How a plane is walked: tile by tile from a copy, or by Note [sliding 3x3], which has a way for filters of stride 1,
// for those of stride 2 and for the dgrad of the latter.
enum class Sliding { no, lines, halved, doubled };

template <class S>
struct DepthwisePlanes {
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size;
  static constexpr auto kLanes = PaddedLines<S>::kLanes;

  const ConvArgs& args;
  const ActivationArgs* after;  // what is done to the result once it is written; null for nothing
  bool transposed, clamps;
  Sliding sliding;
  Interval<T> interval;
  ConvOperand source, target;
  PlaneAxis d, h, w;
  PaddedLines<S> lines;
  int64_t taps, vectors, band;  // vectors: of a line of the result; band: lines of it
  int tile_lines;
  int64_t target_h, target_w;
  T* weights;       // [channel][tap], in the order of the sources
  int64_t* column;  // where tap k of the width lies
  TapAxis phases_h, phases_w;
#if defined(__AVX512F__)
  struct Shuffled {  // for lines that a vector has room for
    ShuffledTaps<S, 2, 2> doubled;
    ShuffledTaps<S, 3, 2> pairs;
    ShuffledTaps<S, 3, 1> lines;
  };
  const Shuffled* shuffled;
#endif

  NNART_HD explicit DepthwisePlanes(const ConvArgs& args)
      : args(args),
        after(args.finish && !is_clamp(*args.finish) ? args.finish : nullptr),
        transposed(args.pass == ConvPass::Dgrad),
        clamps(args.finish && !after),
        source(transposed ? args.y : args.x),
        target(transposed ? args.x : args.y),
        d(plane_axis(args.axis[0], transposed)),
        h(plane_axis(args.axis[1], transposed)),
        w(plane_axis(args.axis[2], transposed)),
        lines(w, is_large<S>(args, d.sources * h.sources * w.sources)),
        target_h(transposed ? args.axis[1].in : args.axis[1].out),
        target_w(transposed ? args.axis[2].in : args.axis[2].out) {
    taps = args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    vectors = ceil_div(w.outputs, lanes);
    if (clamps) interval = Interval<T>(*args.finish);
    sliding = sliding_of_planes();
    lines.pairs = h.outputs > 1 && (sliding == Sliding::no ? lines.pairs && w.phases == 1 : fit_pairs());
    tile_lines = w.phases == 2                                              ? kPhaseLines
                 : h.outputs == 1                                           ? 1
                 : ceil_div(h.outputs, 7) * 7 <= ceil_div(h.outputs, 8) * 8 ? 7
                                                                            : 8;
    int64_t line_bytes = d.taps * lines.line * int64_t(sizeof(T));
    int64_t fitting = (kCopyBytes / line_bytes - (h.taps - 1) * h.dilation - 1) / h.step + 1;
    band = most(tile_lines, least(h.outputs, fitting));
    band = ceil_div(ceil_div(h.outputs, ceil_div(h.outputs, band)), tile_lines) * tile_lines;
  }

  NNART_HD Sliding sliding_of_planes() const {
    const math::Axis &height = args.axis[1], &width = args.axis[2];
    if (kVectorBytes < 64 || d.taps > 1 || height.kernel != 3 || width.kernel != 3 || height.stride != width.stride)
      return Sliding::no;
    if (height.stride == 1) return Sliding::lines;
    if (height.stride > 2 || height.dilation > 1 || width.dilation > 1) return Sliding::no;
    if (!transposed) return vectors <= 2 ? Sliding::halved : Sliding::no;  // else the copy is faster
    return (height.pad - width.pad) % 2 == 0 ? Sliding::doubled : Sliding::no;
  }

  NNART_HD bool fit_pairs() const {
#if defined(__AVX512F__)
    return sliding == Sliding::doubled ? ShuffledTaps<S, 2, 2>::fit(w) : ShuffledTaps<S, 3, 2>::fit(w);
#else
    return false;
#endif
  }

  // Lines that fill half a vector or less leave it to the blocks of channels, and so do wide filters on one vector or
  // on one line, where each tap costs a load that crosses a cache line.
  NNART_HD bool fills_lanes() const {
    if (h.outputs == 1 && w.taps > 15) return false;
    if (sliding != Sliding::no) return w.outputs > short_line<S>(args.axis[2].stride);
    return vectors > 1 || (w.outputs > lanes / 2 && args.axis[2].kernel < 7);
  }

  // What a tile reads and writes.
  struct Work {
    T* const* plane;   // for each tap of the depth; null where it meets padding
    const S* from[2];  // line 0 of the planes themselves
    int64_t sources;   // lines of them: none of a plane in the padding
    const T* weights[2];
    V bias;
    S* to[2];  // line 0 of the band
    int64_t height;
  };

  NNART_HD V weight(const Work& work, int64_t tap, bool pairs) const {
    V a = load_broadcast(work.weights[0] + tap);
    return pairs ? join_halves(a, load_broadcast(work.weights[1] + tap), kLanes) : a;
  }

  // Lines [row, row + tall) of the band, vectors [v, v + wide) of each. With known_h the taps of the height are as many
  // and beside each other, so that a line is loaded once for all of them.
  template <int tall, int wide, int known_h, bool pairs>
  void run_tile(const Work& work, int64_t row, int64_t v) const {
    V sum[tall][wide];
    for (auto& line : sum)
      for (V& s : line) s = work.bias;
    int64_t line = lines.line;
    for (int64_t i = 0; i < d.taps; ++i) {
      if (!work.plane[i]) continue;
      const T* plane = work.plane[i] + row * h.step * line + v * lanes;
      int64_t tap = i * h.taps * w.taps;
      for (int64_t k = 0; k < w.taps; ++k) {
        const T* from = plane + column[k];
        if constexpr (known_h > 0) {
          V by[known_h];
#pragma GCC unroll 8
          for (int j = 0; j < known_h; ++j) by[j] = weight(work, tap + j * w.taps + k, pairs);
#pragma GCC unroll 16
          for (int q = 0; q < tall + known_h - 1; ++q)
#pragma GCC unroll 8
            for (int c = 0; c < wide; ++c) {
              V x = load(from + q * line + c * lanes);
              keep_in_register(x);
#pragma GCC unroll 8
              for (int j = 0; j < known_h; ++j)
                if (q >= j && q - j < tall) sum[q - j][c] = sum[q - j][c] + x * by[j];
            }
        } else {
          for (int64_t j = 0; j < h.taps; ++j) {
            V by = weight(work, tap + j * w.taps + k, pairs);
            const T* at = from + j * h.dilation * line;
#pragma GCC unroll 8
            for (int r = 0; r < tall; ++r)
#pragma GCC unroll 8
              for (int c = 0; c < wide; ++c) sum[r][c] = sum[r][c] + load(at + r * h.step * line + c * lanes) * by;
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < tall; ++r) {
      if (row + r >= work.height) break;
#pragma GCC unroll 8
      for (int c = 0; c < wide; ++c) {
        S* to = work.to[0] + (row + r) * target.space[1] + (v + c) * lanes;
        store_pixels(to, sum[r][c], w.outputs - (v + c) * lanes);
        if constexpr (pairs)
          if (work.to[1]) store_pixels(to - work.to[0] + work.to[1], upper_half(sum[r][c], kLanes), w.outputs);
      }
    }
  }

  // The dgrad of a strided convolution: each o of the height gives h.phases lines, each o of the width two pixels.
  template <int tall>
  void run_phases(const Work& work, int64_t row) const {
    const math::Axis& height = args.axis[1];
    const math::Axis& width = args.axis[2];
    for (int64_t phase = 0; phase < h.phases; ++phase)
      for (int64_t r = 0; r < work.height; r += tall)
        for (int64_t v = 0; v < vectors; ++v) {
          V sum[2][tall];
          for (auto& half : sum)
            for (V& s : half) s = work.bias;
          const TapPhase& beside_h = phases_h.phases[phase];
          for (int64_t j = 0; j < beside_h.n; ++j) {
            const T* from = work.plane[0] + (r + beside_h.shift[j] - h.lowest) * lines.line + v * lanes;
            int64_t tap = (height.kernel - 1 - beside_h.tap[j]) * width.kernel + width.kernel - 1;
#pragma GCC unroll 2
            for (int p = 0; p < 2; ++p) {
              const TapPhase& beside_w = phases_w.phases[p];
              for (int64_t k = 0; k < beside_w.n; ++k) {
                V by = weight(work, tap - beside_w.tap[k], false);
#pragma GCC unroll 4
                for (int i = 0; i < tall; ++i)
                  sum[p][i] = sum[p][i] + load(from + i * lines.line + beside_w.shift[k]) * by;
              }
            }
          }
#pragma GCC unroll 4
          for (int i = 0; i < tall; ++i) {
            int64_t line = (r + i) * h.phases + phase;
            if (r + i >= work.height || row * h.phases + line >= target_h) break;
            S* to = work.to[0] + line * target.space[1] + 2 * v * lanes;
            store_pixels(to, alternate<T, false>(sum[0][i], sum[1][i], kLanes), target_w - 2 * v * lanes);
            store_pixels(to + lanes, alternate<T, true>(sum[0][i], sum[1][i], kLanes), target_w - (2 * v + 1) * lanes);
          }
        }
  }

  // As many of the lanes as there are pixels left in the line.
  NNART_HD void store_pixels(S* to, V y, int64_t left) const {
    if (clamps) y = interval.of(y);
    fetch_target_ahead(to);
    if (left >= lanes)
      store(to, y);
    else if (left > 0)
      store_partial(to, y, left);
  }

#if defined(__AVX512F__)
  // A vector's width of the lines [row, row + work.height), from output `at` of the line on.
  template <bool pair, class Taps>
  void slide_along(const Work& work, int64_t row, int64_t at, const Taps& taps) const {
    V by[3][3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j)
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) by[j][k] = weight(work, 3 * j + k, pair);
    int64_t line = row * h.step + h.lowest;
    LineReader<S, pair, Taps> reader(taps, work.from[0] + line * source.space[1], work.from[1] - work.from[0],
                                     source.space[1], line, work.sources, at * w.step, lines.from_large);
    LineWriter<S, pair> writer(work.to[0] + at * w.phases, work.to[1] ? work.to[1] - work.to[0] : 0, target.space[1],
                               target_w - at * w.phases, clamps ? &interval : nullptr);
    if constexpr (Taps::count == 2) {
      int64_t left = target_h - 2 * row;
      if (args.axis[1].pad % 2 != 0)
        slide_doubled<true>(reader, writer, by, work.bias, work.height, left);
      else
        slide_doubled<false>(reader, writer, by, work.bias, work.height, left);
    } else if (sliding == Sliding::halved) {
      slide_halved(reader, writer, by, work.bias, work.height);
    } else {
      slide_lines(reader, writer, by, work.bias, work.height, h.dilation);
    }
  }

  void slide(const Work& work, int64_t row) const {
    bool doubled = sliding == Sliding::doubled;
    if (lines.pairs)
      return doubled ? slide_along<true>(work, row, 0, shuffled->doubled)
                     : slide_along<true>(work, row, 0, shuffled->pairs);
    if (!doubled && pays_to_shuffle<S, 3>(w)) return slide_along<false>(work, row, 0, shuffled->lines);
    for (int64_t at = 0; at < w.outputs; at += lanes) {
      if (doubled)
        slide_along<false>(work, row, at, LoadedTaps<S, 2>(w, at));
      else if (sliding == Sliding::halved)
        slide_along<false>(work, row, at, AlternatingTaps<S, 3>(w, at));
      else
        slide_along<false>(work, row, at, LoadedTaps<S, 3>(w, at));
    }
  }
#endif

  template <int tall, int wide, bool pairs>
  void run_lines(const Work& work, int64_t row, int64_t v) const {
    bool dense = h.step == 1 && h.dilation == 1;
    if (dense && h.taps == 3) return run_tile<tall, wide, 3, pairs>(work, row, v);
    if (dense && h.taps == 5) return run_tile<tall, wide, 5, pairs>(work, row, v);
    if (dense && h.taps == 7) return run_tile<tall, wide, 7, pairs>(work, row, v);
    run_tile<tall, wide, 0, pairs>(work, row, v);
  }

  template <int tall>
  void run_band(const Work& work) const {
    for (int64_t row = 0; row < work.height; row += tall) {
      if constexpr (tall == 1) {
        for (int64_t v = 0; v < vectors; v += 8) run_tile<1, 8, 0, false>(work, row, v);
      } else if (lines.pairs) {
        if constexpr (kVectorBytes == 64) run_lines<tall, 1, true>(work, row, 0);
      } else {
        int64_t v = 0;
        for (; v + 1 < vectors; v += 2) run_lines<tall, 2, false>(work, row, v);
        if (v < vectors) run_lines<tall, 1, false>(work, row, v);
      }
    }
  }

  void pack(T* packed) const {
    const ConvOperand& weight = args.weight;
    auto offset = [&](int axis, int64_t tap) {
      return (transposed ? args.axis[axis].kernel - 1 - tap : tap) * weight.space[axis];
    };
    for (int64_t c = 0; c < args.groups; ++c)
      for (int64_t i = 0; i < args.axis[0].kernel; ++i)
        for (int64_t j = 0; j < args.axis[1].kernel; ++j)
          for (int64_t k = 0; k < args.axis[2].kernel; ++k)
            *packed++ = widen_one<T>(static_cast<const S*>(weight.data) + c * weight.batch + offset(0, i) +
                                     offset(1, j) + offset(2, k));
  }

  // Results in one run that the activation has not seen yet.
  struct Pending {
    S* begin = nullptr;
    int64_t n = 0;
  };

  void finish(Pending& pending) const {
    if (pending.n == 0) return;
    finish_piece<S>(*after, pending.begin - static_cast<S*>(target.data), pending.n);
    pending.n = 0;
  }

  void add_pending(Pending& pending, S* begin, int64_t n) const {
    if (pending.n > 0 && (pending.begin + pending.n != begin || pending.n >= kPending)) finish(pending);
    if (pending.n == 0) pending.begin = begin;
    pending.n += n;
  }

  NNART_HD T bias_of(int64_t channel) const {
    return args.bias ? widen_one<T>(static_cast<const S*>(args.bias) + channel) : T(0);
  }

  void run() {
    int64_t words_h = tap_axis_words(args.axis[1]);
    Scratch<int64_t> table(Use::tables, words_h + tap_axis_words(args.axis[2]) + w.taps);
    phases_h = tap_axis(args.axis[1], transposed, table.data());
    phases_w = tap_axis(args.axis[2], transposed, table.data() + words_h);
    column = table.data() + words_h + tap_axis_words(args.axis[2]);
    for (int64_t k = 0; k < w.taps; ++k) column[k] = lines.offset(w, k);
#if defined(__AVX512F__)
    Shuffled shuffled_taps{ShuffledTaps<S, 2, 2>(w), ShuffledTaps<S, 3, 2>(w), ShuffledTaps<S, 3, 1>(w)};
    shuffled = &shuffled_taps;
#endif
    Scratch<T> packed(Use::weight, args.groups * taps);
    weights = packed.data();
    pack(weights);

    int64_t each = lines.pairs ? 2 : 1, bands = ceil_div(h.outputs, band);
    int64_t planes = ceil_div(args.groups, each), units = args.batch * planes * d.outputs * bands;
    int64_t work = each * least(band, h.outputs) * w.outputs * taps;
    int64_t rows = h.lines(band), plane_elements = rows * lines.line;
    bool in_runs = target.space[1] == target_w && each == 1;  // each unit's result is one run
    parallel_for(units, most(1, kGrain / most(1, work)), [&](int64_t begin, int64_t end) {
      int64_t copied = sliding == Sliding::no ? lines.elements(d.taps * rows) : 0;
      Scratch<T> copy(Use::source, copied);
      Scratch<T*> plane(Use::pixels, d.taps);
      zero_run(copy.data(), copied);
      Pending pending;
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t row = unit % bands * band, rest = unit / bands;
        int64_t depth = rest % d.outputs, channel = rest / d.outputs % planes * each;
        int64_t image = rest / d.outputs / planes;
        bool has_second = each == 2 && channel + 1 < args.groups;
        Work job{};
        job.plane = plane.data();
        job.height = least(band, h.outputs - row);
        const S* from = static_cast<const S*>(source.data) + image * source.batch + channel * source.channel;
        int64_t slice = d.source(depth, 0);
        job.from[0] = from + slice * source.space[0];
        job.from[1] = has_second ? job.from[0] + source.channel : job.from[0];
        job.sources = slice >= 0 && slice < d.sources ? h.sources : 0;
        for (int64_t i = 0; i < d.taps && sliding == Sliding::no; ++i) {
          int64_t at = d.source(depth, i);
          plane.data()[i] = nullptr;
          if (at < 0 || at >= d.sources) continue;
          T* to = copy.data() + lines.margin() + i * plane_elements;
          const S* slice = from + at * source.space[0];
          lines.copy(slice, has_second ? slice + source.channel : slice, source.space[1], h.sources, h.source(row, 0),
                     h.lines(job.height), to);
          plane.data()[i] = to;
        }
        S* to = static_cast<S*>(target.data) + image * target.batch + channel * target.channel +
                depth * target.space[0] + row * h.phases * target.space[1];
        int64_t second = has_second ? channel + 1 : channel;
        job.weights[0] = weights + channel * taps;
        job.weights[1] = weights + second * taps;
        job.to[0] = to;
        job.to[1] = has_second ? to + target.channel : nullptr;
        V bias(double(bias_of(channel)));
        job.bias = lines.pairs ? join_halves(bias, V(double(bias_of(second))), kLanes) : bias;
#if defined(__AVX512F__)
        if (sliding != Sliding::no)
          slide(job, row);
        else
#endif
            if (w.phases == 2)
          run_phases<kPhaseLines>(job, row);
        else if (tile_lines == 1)
          run_band<1>(job);
        else if (tile_lines == 7)
          run_band<7>(job);
        else
          run_band<8>(job);
        if (!after) continue;
        int64_t written = least(job.height * h.phases, target_h - row * h.phases);
        if (in_runs)
          add_pending(pending, to, written * target_w);
        else
          for (int64_t p = 0; p <= has_second; ++p)
            for (int64_t r = 0; r < written; ++r) add_pending(pending, job.to[p] + r * target.space[1], target_w);
      }
      if (after) finish(pending);
    });
  }
};

}  // namespace

template <>
bool ConvStrategies<Isa::NNART_ISA>::depthwise_planes(const ConvArgs& args) {
  if (!has_plane_lines(args.x) || !has_plane_lines(args.y)) return false;
  const math::Axis* axis = args.axis;
  if (args.pass == ConvPass::Dgrad) {
    bool whole = axis[1].stride == 1 && axis[2].stride == 1;
    bool halved = axis[2].stride == 2 && axis[0].kernel == 1;
    if (axis[0].stride > 1 || !(whole || halved)) return false;
  } else if (axis[2].stride > 2) {
    return false;
  }
  bool taken = false;
  with_dtype(args.dtype, [&](auto type) {
    DepthwisePlanes<typename decltype(type)::type> planes(args);
    taken = planes.fills_lanes();
    if (taken) planes.run();
  });
  return taken;
}

}  // namespace nnart::cpu

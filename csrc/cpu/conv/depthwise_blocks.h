// What the depthwise passes are made of: blocks of channels beside each other, which fill the vectors; the taps of an
// axis; and the copies that bring tensors of another layout into blocks.
//
// Note [mix]: the same passes serve groups of `mix` channels, in and out. y is then a sum over m < mix of depthwise
// convolutions, in which each channel of a group reads the group's m-th channel: Mixed brings it to their lanes.
#pragma once

#include <type_traits>

#include "cpu/conv/source.h"
#include "cpu/streaming.h"

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
    RawU32 rounded = joined();
    std::memcpy(p, &rounded, sizeof rounded);
  }
  NNART_HD void past_caches(BFloat16* p) const { store_past_caches(static_cast<void*>(p), joined()); }

 private:
  // Products and sums of bfloat16 make no NaN with bits in the lower half.
  NNART_HD RawU32 joined() const { return join_even_odd<true>({v[0], v[1]}); }
};

// p += step, which the compiler can neither foresee nor undo: it would keep the places of all pixels of an unrolled
// loop in registers, spill them, and load a pixel anew for each use.
template <class S>
NNART_HD void step_on(S*& p, int64_t step) {
  p += step;
  asm("" : "+r"(p));
}

template <class S>
NNART_HD void keep_in_register(Block<S>& x) {
  for (auto& v : x.v) keep_in_register(v);
}

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
NNART_HD void add_block(Block<S>& sum, const Block<S>& a) {
  for (int i = 0; i < Block<S>::vectors; ++i) sum.v[i] = sum.v[i] + a.v[i];
}

// How a pass reads its source: each channel itself.
template <class S>
struct Itself {
  static constexpr bool mixes = false;
  Itself() = default;
  NNART_HD Itself(int64_t, int64_t) {}
  NNART_HD Block<S> from(const S* p) const { return Block<S>::from(p); }
};

// Or channel m of each group of `mix` to all channels of the group; a block is made of whole groups (Note [mix]).
template <class S>
struct Mixed {
  using T = ComputeType<S>;
  static constexpr bool mixes = true;
  RawVec<Bits<T>> lanes;
  Mixed() = default;
  NNART_HD Mixed(int64_t mix, int64_t m) {
    for (int i = 0; i < Vec<T>::size; ++i) lanes[i] = Bits<T>(i / mix * mix + m);
  }
  NNART_HD Block<S> from(const S* p) const { return {{Vec<T>(__builtin_shuffle(load(p).v, lanes))}}; }
};
template <>
struct Mixed<BFloat16> {
  static constexpr bool mixes = true;
  RawVec<int32_t> lanes;  // of the pairs; mix is even
  int shift;              // that brings the pair's channel to the upper half
  Mixed() = default;
  NNART_HD Mixed(int64_t mix, int64_t m) : shift(m % 2 ? 0 : 16) {
    int64_t pairs = mix / 2;
    for (int i = 0; i < Vec<float>::size; ++i) lanes[i] = int32_t(i / pairs * pairs + m / 2);
  }
  NNART_HD Block<BFloat16> from(const BFloat16* p) const {
    RawU32 pairs;
    std::memcpy(&pairs, p, sizeof pairs);
    Vec<float> x(__builtin_shuffle(reinterpret_cast<RawVec<float>>((pairs << shift) & 0xffff0000), lanes));
    return {{x, x}};
  }
};

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif

// Pixels of a line that are worked on at once, as many as the registers hold beside a line of a filter; or 7, which
// divides the lines of most networks.
template <class S>
constexpr int kTilePixels = kVectorRegisters == 32   ? 8
                            : Block<S>::vectors == 1 ? 6
                                                     : 3;
constexpr int kSlimTile = 7;
template <class S>
NNART_HD bool slim_tiles(int64_t n) {
  return ceil_div(n, kSlimTile) * kSlimTile < ceil_div(n, kTilePixels<S>) * kTilePixels<S>;
}

constexpr int64_t kMostMix = 8;

// One for each m < mix.
template <class Reader>
struct Readers {
  int64_t mix;
  Reader reader[Reader::mixes ? kMostMix : 1];
  NNART_HD explicit Readers(int64_t mix) : mix(Reader::mixes ? mix : 1) {
    for (int64_t m = 0; m < this->mix; ++m) reader[m] = Reader(mix, m);
  }
};

// The channels in whole blocks. Where they do not divide evenly the last block overlaps its neighbour, unless there are
// fewer than one block has.
template <class S>
struct Blocks {
  int64_t channels, count;
  NNART_HD explicit Blocks(int64_t channels) : channels(channels), count(ceil_div(channels, Block<S>::channels)) {}
  NNART_HD int64_t start(int64_t block) const {
    return most(0, least(block * Block<S>::channels, channels - Block<S>::channels));
  }
  NNART_HD int64_t padded() const { return count * Block<S>::channels; }
};

// to[lane] = *place(first + lane), zero for channels that do not exist.
template <class Place, class P>
NNART_HD void pack_channels(const Place& place, int64_t first, int64_t channels, P* to) {
  for (int64_t lane = 0; lane < Block<P>::channels; ++lane) {
    auto* p = place(least(first + lane, channels - 1));
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(*p)>, P>)
      to[lane] = *p;
    else
      to[lane] = widen_one<P>(p);
    if (first + lane >= channels) std::memset(to + lane, 0, sizeof(P));
  }
}

// Outputs first + step * i of an axis, which share their taps: output i reads source_step * i + shift[j] with weight
// tap[j], j < n. A forward axis has one phase; the gradient of one with stride s has s.
struct TapPhase {
  int64_t first, step, count, source_step, n, lowest, highest;
  const int64_t* tap;
  int64_t* shift;
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
    for (int64_t i = 0; i < axis.kernel; ++i) {
      int64_t k = transposed ? axis.kernel - 1 - i : i;  // ascending shifts
      int64_t distance = transposed ? p + axis.pad - k * axis.dilation : k * axis.dilation - axis.pad;
      if (transposed && modulo(distance, axis.stride) != 0) continue;
      int64_t by = transposed ? div_floor(distance, axis.stride) : distance;
      if (phase.n == 0) phase.lowest = by;
      phase.highest = by;
      *tap++ = k;
      *shift++ = by;
      ++phase.n;
    }
  }
  return result;
}

// How many places each line would need before its first and after its last for every tap of every output to exist.
struct Margins {
  int64_t before = 0, after = 0;
};
NNART_HD Margins margins_of(const TapAxis& axis) {
  Margins result;
  for (int64_t p = 0; p < least(axis.phase_count, axis.outputs); ++p) {
    const TapPhase& phase = axis.phases[p];
    result.before = most(result.before, -phase.lowest);
    result.after = most(result.after, (phase.count - 1) * phase.source_step + phase.highest + 1 - axis.sources);
  }
  return result;
}
// The axis of lines that have them. The shifts belong to the phases' table.
NNART_HD void add_margins(TapAxis& axis, const Margins& margins) {
  axis.sources += margins.before + margins.after;
  for (int64_t p = 0; p < axis.phase_count; ++p) {
    TapPhase& phase = axis.phases[p];
    phase.lowest += margins.before;
    phase.highest += margins.before;
    for (int64_t k = 0; k < phase.n; ++k) phase.shift[k] += margins.before;
  }
}

// So many taps with `gap` places from one to the next and `step` from one output to the next, known to the compiler.
template <int count, int output_step, int tap_gap = 1>
struct Narrow {
  static constexpr int taps = count, step = output_step, gap = tap_gap;
  // How many places are missing before the first output of a line and after the last one, if the padding keeps the
  // width or halves an even one; an odd one lacks step - 1 more.
  static constexpr int before = taps == 0 ? 0 : (taps - 1) / 2 * gap, after = taps / 2 * gap - (step - 1);

  NNART_HD static constexpr int places(int outputs) { return (outputs - 1) * step + (taps - 1) * gap + 1; }
  // Whether tap k of an output lies at place q of the places of so many outputs, and of which.
  NNART_HD static constexpr bool meet(int q, int k, int outputs) {
    return q >= k * gap && (q - k * gap) % step == 0 && output(q, k) < outputs;
  }
  NNART_HD static constexpr int output(int q, int k) { return (q - k * gap) / step; }
};
using AnyTaps = Narrow<0, 1>;
// Whether lines of fewer pixels than any other tile has get tiles of 3 or 4: they pay where one place at most is
// missing on a side, so that all tiles but those of the tiniest lines know their edges.
template <class Filter>
constexpr bool takes_short_lines = Filter::taps > 0 && Filter::before <= 1 && Filter::after + Filter::step - 1 <= 1;
constexpr int64_t kLongestNarrow = 7;

NNART_HD bool takes_long_filter(const math::Axis& width) {
  return width.kernel > kLongestNarrow && width.stride == 1 && width.dilation == 1;
}

// The taps of a longer filter are taken some at a time, 7, 5 or 3 of them, so that none of 8 or more is left over.
template <class Add>
NNART_HD void add_long_filter(int64_t taps, const Add& add) {
  auto leaves_some = [](int64_t left) { return left == 1 || left == 2 || left == 4; };
  for (int64_t k = 0; k < taps;) {
    int64_t left = taps - k;
    if (left >= 7 && !leaves_some(left - 7)) {
      add(Narrow<7, 1>{}, k);
      k += 7;
    } else if (left >= 5 && !leaves_some(left - 5)) {
      add(Narrow<5, 1>{}, k);
      k += 5;
    } else {
      add(Narrow<3, 1>{}, k);
      k += 3;
    }
  }
}

// Calls run with the one of Known that has these numbers; false if none does.
template <class... Known, class Run>
NNART_HD bool with_narrow(int64_t taps, int64_t step, int64_t gap, const Run& run) {
  return ((taps == Known::taps && step == Known::step && gap == Known::gap && (run(Known{}), true)) || ...);
}

// packed[tap * tap_step + block * block_step + lane], zeros for channels that do not exist: what each channel takes
// of the m-th of its group.
template <class S, class P>
void pack_filters(const ConvArgs& args, int64_t m, const Blocks<P>& blocks, int64_t tap_step, int64_t block_step,
                  P* packed) {
  const ConvOperand& weight = args.weight;
  int64_t kernel_h = args.axis[1].kernel, kernel_w = args.axis[2].kernel;
  int64_t mix = args.in_channels / args.groups;
  // A channel is row c / mix * mix + c % mix of the weight; in a dgrad it is a column, and m the row.
  bool transposed = args.pass == ConvPass::Dgrad && mix > 1;
  auto* data = static_cast<const S*>(weight.data) + m * (transposed ? weight.batch : weight.channel);
  if constexpr (std::is_same_v<P, ComputeType<S>>)
    if (weight.space[2] == 1 && weight.space[1] == kernel_w && weight.space[0] == kernel_h * kernel_w &&
        blocks.channels >= Block<P>::channels && !transposed) {
      for (int64_t block = 0; block < blocks.count; ++block)
        copy_transposed(packed + block * block_step, tap_step, data + blocks.start(block) * weight.batch, weight.batch,
                        Block<P>::channels, args.axis[0].kernel * kernel_h * kernel_w);
      return;
    }
  for (int64_t i = 0; i < args.axis[0].kernel; ++i)
    for (int64_t j = 0; j < kernel_h; ++j)
      for (int64_t k = 0; k < kernel_w; ++k, packed += tap_step) {
        const S* from = data + i * weight.space[0] + j * weight.space[1] + k * weight.space[2];
        for (int64_t block = 0; block < blocks.count; ++block)
          pack_channels(
              [&](int64_t c) {
                return from + (transposed ? c / mix * mix * weight.batch + c % mix * weight.channel : c * weight.batch);
              },
              blocks.start(block), blocks.channels, packed + block * block_step);
      }
}

// A block of lines of one image, n_d by n_h lines of `width` pixels from line (d, h) on, as [d][h][pixel][lane] in the
// compute type, each between so many zeros. Lanes without a channel are left as they are.
template <class S, class T>
void gather_block(const ConvOperand& source, const S* from, int64_t channels, int64_t d, int64_t n_d, int64_t h,
                  int64_t n_h, int64_t width, T* to, int64_t zeros_before = 0, int64_t zeros_after = 0) {
  constexpr int64_t lanes = Vec<T>::size;
  for (int64_t i = 0; i < n_d; ++i) {
    const S* lines = from + (d + i) * source.space[0] + h * source.space[1];
    bool one_run = source.space[2] == 1 && source.space[1] == width && zeros_before + zeros_after == 0;
    int64_t runs = one_run ? 1 : n_h, pixels = one_run ? n_h * width : width;
    for (int64_t j = 0; j < runs; ++j) {
      const S* line = lines + j * source.space[1];
      zero_run(to, zeros_before * lanes);
      to += zeros_before * lanes;
      if (source.space[2] == 1)
        copy_transposed(to, lanes, line, source.channel, channels, pixels);
      else
        for (int64_t w = 0; w < pixels; ++w)
          widen_run(to + w * lanes, line + w * source.space[2], source.channel, channels);
      to += pixels * lanes;
      zero_run(to, zeros_after * lanes);
      to += zeros_after * lanes;
    }
  }
}

// The way back, for n_h lines of one depth.
template <class S, class T>
void scatter_block(const ConvOperand& target, S* to, int64_t channels, int64_t n_h, int64_t width, const T* from) {
  constexpr int64_t lanes = Vec<T>::size;
  bool one_run = target.space[2] == 1 && target.space[1] == width;
  int64_t runs = one_run ? 1 : n_h, pixels = one_run ? n_h * width : width;
  for (int64_t j = 0; j < runs; ++j, from += pixels * lanes) {
    S* line = to + j * target.space[1];
    if (target.space[2] == 1)
      copy_transposed(line, target.channel, from, lanes, pixels, channels);
    else
      for (int64_t w = 0; w < pixels; ++w)
        narrow_run(line + w * target.space[2], target.channel, from + w * lanes, channels, OneBias<T>{Vec<T>(0)});
  }
}

}  // namespace
}  // namespace nnart::cpu

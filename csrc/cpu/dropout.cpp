// Dropout of elements and of channels. Nothing of a mask is kept: the backward draws the same words again.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/random.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

constexpr int64_t kDropoutBlock = 4096;   // a unit of work: a multiple of kWordsAStep
constexpr int64_t kDropoutGrain = 16384;  // elements below which a thread does not pay for its wake-up
constexpr int64_t kRepeatedRow = 1024;    // elements to which short rows of channels are repeated

// y = x m + s with m and s by the decision. A dropped NaN or infinity stays NaN and a dropped -1 becomes -0, as in
// torch, which multiplies by a mask of zeros.
template <class V, bool shifted>
struct Rule {
  V scale, kept_shift, dropped_shift;
  NNART_HD explicit Rule(const DropoutArgs& args)
      : scale(args.scale), kept_shift(args.kept), dropped_shift(args.dropped) {}
  template <class M>
  NNART_HD V operator()(V x, M is_kept) const {
    V y = x * select(is_kept, scale, V(0));
    if constexpr (shifted) y = y + select(is_kept, kept_shift, dropped_shift);
    return y;
  }
};

// One step: kWordsAStep elements from x to y by the words of a block. `x_value` stands for all of x if there is no x.
template <class S, class R>
NNART_HD void step(const S* x, Vec<float> x_value, S* y, bool past_caches, uint64_t block, uint64_t key,
                   uint32_t threshold, const R& rule) {
  constexpr int64_t width = Vec<float>::size;
  StepWords words = words_in_order(block, key);
  for (int k = 0; k < 4; ++k) {
    Vec<float> result = rule(x ? load_streaming(x + k * width) : x_value, kept(words.v[k], threshold));
    if (past_caches)
      store_past_caches(y + k * width, result);
    else
      store_streaming(y + k * width, result);
  }
}

template <class R>
NNART_HD void step(const BFloat16* x, Vec<float> x_value, BFloat16* y, bool past_caches, uint64_t block, uint64_t key,
                   uint32_t threshold, const R& rule) {
  StepWords words = words_even_odd(block, key);
  for (int k = 0; k < 4; k += 2) {
    int64_t i = k * Vec<float>::size;
    EvenOdd in = x ? load_even_odd(x + i) : EvenOdd{x_value, x_value};
    Vec<float> even = rule(in.even, kept(words.v[k], threshold)), odd = rule(in.odd, kept(words.v[k + 1], threshold));
    store_even_odd(y + i, {even, odd}, past_caches);
  }
}

template <class R>
NNART_HD void step(const double* x, Vec<double> x_value, double* y, bool past_caches, uint64_t block, uint64_t key,
                   uint32_t threshold, const R& rule) {
  constexpr int64_t width = Vec<double>::size;
  using Half __attribute__((vector_size(kVectorBytes / 2))) = int32_t;
  StepWords words = words_in_order(block, key);
  for (int k = 0; k < 8; ++k) {
    RawVec<int32_t> mask = kept(words.v[k / 2], threshold).v;
    Half half;
    std::memcpy(&half, reinterpret_cast<const char*>(&mask) + k % 2 * int(sizeof half), sizeof half);
    Mask<double> wide{__builtin_convertvector(half, RawVec<int64_t>)};
    Vec<double> result = rule(x ? load(x + k * width) : x_value, wide);
    if (past_caches)
      store_past_caches(y + k * width, result);
    else
      store(y + k * width, result);
  }
}

// Whether a thread stores its n elements past the caches.
template <class S>
NNART_HD bool is_large(const DropoutArgs& args, int64_t n) {
  return n * int64_t(sizeof(S)) >= past_caches_bytes() && args.x != args.y;
}

template <class S, bool shifted>
void drop_elements(const DropoutArgs& args) {
  using V = Vec<ComputeType<S>>;
  int64_t n = args.batch * args.pixels * args.channels * args.inner;  // of a part
  int64_t blocks = ceil_div(n, kDropoutBlock);
  parallel_for(args.parts * blocks, ceil_div(kDropoutGrain, least(n, kDropoutBlock)), [&](int64_t first, int64_t last) {
    Rule<V, shifted> rule(args);
    uint32_t threshold = args.threshold;
    V x_value(0);
    if (args.x_is_one_value) x_value = load_broadcast(static_cast<const S*>(args.x));
    bool large = is_large<S>(args, (last - first) * least(n, kDropoutBlock));
    for (int64_t task = first; task < last; ++task) {
      int64_t part = task / blocks, begin = task % blocks * kDropoutBlock, end = least(n, begin + kDropoutBlock);
      auto key = uint64_t(args.seeds[part]);
      const S* x = args.x_is_one_value ? nullptr : static_cast<const S*>(args.x) + part * n;
      S* y = static_cast<S*>(args.y) + part * n;
      bool past_caches = large && reinterpret_cast<uintptr_t>(y) % kVectorBytes == 0;
      int64_t i = begin;
      for (; i + kWordsAStep <= end; i += kWordsAStep)
        step(x ? x + i : x, x_value, y + i, past_caches, uint64_t(i) / 4, key, threshold, rule);
      if (i == end) continue;
      S in[kWordsAStep] = {}, out[kWordsAStep];  // the tail goes through the same code
      if (x) std::memcpy(in, x + i, size_t(end - i) * sizeof(S));
      step(x ? in : x, x_value, out, false, uint64_t(i) / 4, key, threshold, rule);
      std::memcpy(y + i, out, size_t(end - i) * sizeof(S));
    }
    if (large) finish_stores();
  });
}

// How map_range() applies the rule where a decision is a number, 1 or 0.
template <class S, bool shifted>
struct ByNumber {
  using V = Working<S>;
  Rule<V, shifted> rule;
  NNART_HD explicit ByNumber(const DropoutArgs& args) : rule(args) {}
  NNART_HD V operator()(V x, V decision) const { return rule(x, decision > V(0)); }
};

// One decision for each run of `inner` elements.
template <class S, bool shifted>
void drop_planes(const DropoutArgs& args) {
  int64_t rows = args.batch * args.channels;  // of a part
  ByNumber<S, shifted> rule(args);
  parallel_for(args.parts * rows, ceil_div(kDropoutGrain, args.inner), [&](int64_t first, int64_t last) {
    bool large = is_large<S>(args, (last - first) * args.inner);
    constexpr int64_t most = 256;
    S buffer[Decisions<S>::room(most)];
    for (int64_t begin = first; begin < last;) {
      int64_t part = begin / rows, end = least(least(last, begin + most), (part + 1) * rows);
      auto* decisions =
          Decisions<S>{buffer}.fill(begin - part * rows, end - begin, uint64_t(args.seeds[part]), args.threshold);
      for (int64_t r = begin; r < end; ++r) {
        auto* y = static_cast<S*>(args.y) + r * args.inner;
        OneValue<S> decision(decisions + (r - begin));
        if (args.x_is_one_value)
          map_range_stored(y, large, 0, args.inner, rule, OneValue<S>(static_cast<const S*>(args.x)), decision);
        else
          map_range_stored(y, large, 0, args.inner, rule, Elements<S>{static_cast<const S*>(args.x) + r * args.inner},
                           decision);
      }
      begin = end;
    }
    if (large) finish_stores();
  });
}

// One decision for each channel of an image whose pixels lie one after the other with all their channels.
template <class S, bool shifted>
void drop_channels_last(const DropoutArgs& args) {
  int64_t channels = args.channels, pixels_a_row = ceil_div(kRepeatedRow, channels);
  int64_t pixels_a_task = pixels_a_row * ceil_div(kDropoutGrain, pixels_a_row * channels);
  int64_t tasks = ceil_div(args.pixels, pixels_a_task);  // of an image
  ByNumber<S, shifted> rule(args);
  parallel_for(args.parts * args.batch * tasks, 1, [&](int64_t first, int64_t last) {
    Scratch<S> buffer(Use::decisions, Decisions<S>::room(channels) + pixels_a_row * channels);
    S* repeated = buffer.data() + Decisions<S>::room(channels);
    bool large = is_large<S>(args, (last - first) * least(pixels_a_task, args.pixels) * channels);
    int64_t filled = -1;
    for (int64_t task = first; task < last; ++task) {
      int64_t image = task / tasks;
      if (image != filled) {
        auto key = uint64_t(args.seeds[image / args.batch]);
        auto* decisions =
            Decisions<S>{buffer.data()}.fill(image % args.batch * channels, channels, key, args.threshold);
        for (int64_t k = 0; k < pixels_a_row; ++k)
          std::memcpy(repeated + k * channels, decisions, size_t(channels) * sizeof(S));
        filled = image;
      }
      int64_t begin = task % tasks * pixels_a_task, end = least(args.pixels, begin + pixels_a_task);
      for (int64_t q = begin; q < end; q += pixels_a_row) {
        int64_t at = (image * args.pixels + q) * channels, n = least(pixels_a_row, end - q) * channels;
        auto* y = static_cast<S*>(args.y) + at;
        if (args.x_is_one_value)
          map_range_stored(y, large, 0, n, rule, OneValue<S>(static_cast<const S*>(args.x)), Elements<S>{repeated});
        else
          map_range_stored(y, large, 0, n, rule, Elements<S>{static_cast<const S*>(args.x) + at},
                           Elements<S>{repeated});
      }
    }
    if (large) finish_stores();
  });
}

template <class S, bool shifted>
void drop(const DropoutArgs& args) {
  if (args.inner > 1)
    drop_planes<S, shifted>(args);
  else if (args.pixels > 1)
    drop_channels_last<S, shifted>(args);
  else
    drop_elements<S, shifted>(args);
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const DropoutArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (args.kept == 0 && args.dropped == 0)
      drop<S, false>(args);
    else
      drop<S, true>(args);
  });
}

}  // namespace nnart::cpu

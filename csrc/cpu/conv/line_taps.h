// The pixels of a line that the taps of a vector of outputs read, straight from the tensor, with AVX-512. Lane j of
// x[k] is what tap k of output at + j reads, and 0 where there is no such pixel or no such output.
#pragma once

#include "cpu/conv/planes.h"

namespace nnart::cpu {
namespace {

#if defined(__AVX512F__)

// The lanes [begin, end) of so many.
NNART_HD uint32_t lanes_between(int64_t begin, int64_t end, int64_t lanes) {
  begin = least(lanes, most(0, begin));
  end = least(lanes, end);
  return end > begin ? uint32_t((1u << end) - (1u << begin)) : 0;
}

// The lanes whose bits are set; the others are zero and not read.
template <class S>
NNART_HD Vec<ComputeType<S>> load_where(uint32_t lanes, const S* p) {
  if constexpr (sizeof(S) == 4)
    return Vec<float>(_mm512_maskz_loadu_ps(__mmask16(lanes), p));
  else if constexpr (sizeof(S) == 8)
    return Vec<double>(_mm512_maskz_loadu_pd(__mmask8(lanes), p));
  else
    return widen(Type<S>{}, reinterpret_cast<Raw16>(_mm256_maskz_loadu_epi16(__mmask16(lanes), p)));
}

// Where the bits are set lane index[i] of a and then b; the others are zero.
NNART_HD Vec<float> shuffle_where(uint32_t lanes, Vec<float> a, RawVec<Bits<float>> index, Vec<float> b) {
  return Vec<float>(_mm512_maskz_permutex2var_ps(__mmask16(lanes), a.v, reinterpret_cast<__m512i>(index), b.v));
}
NNART_HD Vec<double> shuffle_where(uint32_t lanes, Vec<double> a, RawVec<Bits<double>> index, Vec<double> b) {
  return Vec<double>(_mm512_maskz_permutex2var_pd(__mmask8(lanes), a.v, reinterpret_cast<__m512i>(index), b.v));
}

// The first count of half the lanes: a third of the time of storing a vector with its upper half left out.
template <bool upper, class S>
NNART_HD void store_half(S* p, Vec<ComputeType<S>> x, int64_t count) {
  auto lanes = __mmask8((1u << count) - 1);
  if constexpr (sizeof(S) == 4)
    _mm256_mask_storeu_ps(p, lanes, _mm512_extractf32x8_ps(x.v, upper));
  else if constexpr (sizeof(S) == 8)
    _mm256_mask_storeu_pd(p, lanes, _mm512_extractf64x4_pd(x.v, upper));
  else
    _mm_mask_storeu_epi16(p, lanes, _mm256_extracti128_si256(reinterpret_cast<__m256i>(narrow(Type<S>{}, x)), upper));
}

// Of stride 1, a load each: they cross cache lines, but any vector of a line can be had.
template <class S, int taps>
class LoadedTaps {
 public:
  static constexpr int count = taps;
  using V = Vec<ComputeType<S>>;

  LoadedTaps(const PlaneAxis& w, int64_t at) : first_(at + w.lowest), dilation_(w.dilation) {
    for (int k = 0; k < taps; ++k) {
      int64_t pixel = first_ + k * dilation_;
      where_[k] = lanes_between(-pixel, w.sources - pixel, V::size) & lanes_between(0, w.outputs - at, V::size);
    }
  }
  NNART_HD void operator()(const S* line, const S*, V (&x)[taps]) const {
#pragma GCC unroll 7
    for (int k = 0; k < taps; ++k) x[k] = load_where(where_[k], line + first_ + k * dilation_);
  }

 private:
  int64_t first_, dilation_;
  uint32_t where_[taps];
};

// Of stride 2, two loads for each two taps beside each other, whose pixels take turns.
template <class S, int taps>
class AlternatingTaps {
 public:
  static constexpr int count = taps;
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size;

  AlternatingTaps(const PlaneAxis& w, int64_t at)
      : first_(2 * at + w.lowest), outputs_(lanes_between(0, w.outputs - at, lanes)) {
    for (int i = 0; i < kLoads; ++i) {
      int64_t pixel = first_ + place(i);
      where_[i] = lanes_between(-pixel, w.sources - pixel, lanes);
    }
  }
  NNART_HD void operator()(const S* line, const S*, V (&x)[taps]) const {
#pragma GCC unroll 4
    for (int k = 0; k < taps; k += 2) {
      V a = load_where(where_[k], line + first_ + place(k)),
        b = load_where(where_[k + 1], line + first_ + place(k + 1));
      x[k] = shuffle_where(outputs_, a, kEven, b);
      if (k + 1 < taps) x[k + 1] = shuffle_where(outputs_, a, kEven + 1, b);
    }
  }

 private:
  using Index = RawVec<Bits<T>>;
  static constexpr int kLoads = (taps + 1) / 2 * 2;
  // From the first tap's pixel of the first output.
  NNART_HD static constexpr int64_t place(int i) { return i % 2 * lanes + i / 2 * 2; }
  template <int... i>
  static constexpr Index even_lanes(std::integer_sequence<int, i...>) {
    return Index{(2 * i)...};
  }
  static constexpr Index kEven = even_lanes(std::make_integer_sequence<int, lanes>{});

  int64_t first_;
  uint32_t outputs_, where_[kLoads];
};

// Of a line whose pixels and outputs fill a vector, or of two planes' (Note [pairs of planes]), whose pixels fill a
// vector each and whose outputs half of one: loaded once and shuffled for each tap.
template <class S, int taps, int planes>
class ShuffledTaps {
 public:
  static constexpr int count = taps;
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size, kOutputs = lanes / planes;

  NNART_HD static bool fit(const PlaneAxis& w) {
    return w.outputs <= kOutputs && least(w.sources, w.source(w.outputs - 1, taps - 1) + 1) <= lanes;
  }

  explicit ShuffledTaps(const PlaneAxis& w) : pixels_(lanes_between(0, w.sources, lanes)) {
    for (int k = 0; k < taps; ++k) {
      where_[k] = 0;
      for (int64_t j = 0; j < lanes; ++j) {
        int64_t plane = j / kOutputs, output = j % kOutputs, pixel = w.source(output, k);
        index_[k][j] = Bits<T>(pixel + plane * lanes);
        if (output < w.outputs && pixel >= 0 && pixel < w.sources) where_[k] |= 1u << j;
      }
    }
  }
  NNART_HD void operator()(const S* line, [[maybe_unused]] const S* other, V (&x)[taps]) const {
    V a = load_where(pixels_, line), b = a;
    if constexpr (planes == 2) b = load_where(pixels_, other);
#pragma GCC unroll 7
    for (int k = 0; k < taps; ++k) x[k] = shuffle_where(where_[k], a, index_[k], b);
  }

 private:
  uint32_t pixels_, where_[taps];
  RawVec<Bits<T>> index_[taps];
};

// Whether one load that is widened and shuffled is faster than one for each tap of stride 1.
template <class S, int taps>
NNART_HD bool pays_to_shuffle(const PlaneAxis& w) {
  return sizeof(S) == 2 && w.step == 1 && ShuffledTaps<S, taps, 1>::fit(w);
}

#endif

}  // namespace
}  // namespace nnart::cpu

// One tile of one tensor in the compute type C: memory of that type is used where it lies, everything else is brought
// into a buffer of the first-level cache and taken back, so that a rule's loop is there once for each rule and C.
#pragma once

#include <cmath>

#include "core/optimizer_args.h"
#include "cpu/optimizers/quantized.h"
#include "cpu/random.h"
#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

template <class C>
struct alignas(64) Buffer {
  C data[kOptimizerTile];
};

template <class C>
constexpr DType kDTypeOf = sizeof(C) == 4 ? DType::Float32 : DType::Float64;

inline int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::Float32:
      return 4;
    case DType::Float64:
      return 8;
    case DType::BFloat16:
    case DType::Float16:
      return 2;
  }
  return 0;
}

inline void* advance(void* p, DType dtype, int64_t n) { return static_cast<char*>(p) + n * bytes_of(dtype); }

// f(i, count) for each vector of n elements: count is the vector's size but at the end.
template <class C, class F>
NNART_HD void for_vectors(int64_t n, const F& f) {
  constexpr int64_t width = Vec<C>::size;
  int64_t i = 0;
  for (; i + width <= n; i += width) f(i, std::integral_constant<int64_t, width>{});
  if (i < n) f(i, n - i);
}
template <class S, class Count>
NNART_HD Vec<ComputeType<S>> load_some(const S* p, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>)
    return load_partial(p, count);
  else
    return load(p);
}
template <class S, class Count>
NNART_HD void store_some(S* p, Vec<ComputeType<S>> x, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>)
    store_partial(p, x, count);
  else
    store(p, x);
}

template <class S>
double sum_of_squares(const S* x, int64_t n) {
  using C = ComputeType<S>;
  constexpr int64_t width = Vec<C>::size;
  Vec<C> sums[4] = {Vec<C>(0.0), Vec<C>(0.0), Vec<C>(0.0), Vec<C>(0.0)};
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width)
    for (int k = 0; k < 4; ++k) {
      Vec<C> v = load(x + i + k * width);
      sums[k] = sums[k] + v * v;
    }
  for_vectors<C>(n - i, [&](int64_t at, auto count) {
    Vec<C> v = load_some(x + i + at, count);
    sums[0] = sums[0] + v * v;
  });
  double sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (std::isfinite(sum) || sizeof(C) == 8) return sum;
  sum = 0;  // squares of finite numbers can be too large for a float
  for (i = 0; i < n; ++i) sum += double(widen_one<C>(x + i)) * double(widen_one<C>(x + i));
  return sum;
}

// p[0, n) of any dtype in C, and back, rounded to nearest.
template <class C>
void widen_some(DType dtype, const void* p, int64_t n, C* out) {
  with_dtype(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* from = static_cast<const S*>(p);
    if constexpr (std::is_same_v<ComputeType<S>, C>)
      for_vectors<C>(n, [&](int64_t i, auto count) { store(out + i, load_some(from + i, count)); });
    else
      for (int64_t i = 0; i < n; ++i) out[i] = C(widen_one<ComputeType<S>>(from + i));
  });
}
template <class C>
void narrow_some(DType dtype, const C* x, int64_t n, void* p) {
  with_dtype(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* to = static_cast<S*>(p);
    if constexpr (std::is_same_v<ComputeType<S>, C>) {
      for_vectors<C>(n, [&](int64_t i, auto count) { store_some(to + i, load_some(x + i, count), count); });
    } else {
      for (int64_t i = 0; i < n; i += Vec<ComputeType<S>>::size) {
        ComputeType<S> lanes[Vec<ComputeType<S>>::size] = {};
        int64_t count = n - i < Vec<ComputeType<S>>::size ? n - i : Vec<ComputeType<S>>::size;
        for (int64_t k = 0; k < count; ++k) lanes[k] = ComputeType<S>(x[i + k]);
        store_partial(to + i, load(lanes), count);
      }
    }
  });
}

// The elements in C: where they lie if they are of that type, else in the buffer.
template <class C>
NNART_HD C* in_compute_type(void* p, DType dtype, int64_t n, Buffer<C>& buffer) {
  if (dtype == kDTypeOf<C>) return static_cast<C*>(p);
  widen_some(dtype, p, n, buffer.data);
  return buffer.data;
}

// The memory of a tile's 8-bit state: a code for each element and a scale for each block.
struct QuantizedState {
  uint8_t* codes;
  float* scales;
  bool positive;
  NNART_HD Decoder decoder(int64_t block) const { return {positive, scales[block / kQuantizedBlock]}; }
};

// From `block` on: where it ends, if n elements are all there are.
NNART_HD int64_t end_of_block(int64_t block, int64_t n) {
  return block + kQuantizedBlock < n ? block + kQuantizedBlock : n;
}

// x has room for whole vectors.
NNART_HD void dequantize(const QuantizedState& state, int64_t n, float* x) {
  for (int64_t block = 0; block < n; block += kQuantizedBlock) {
    Decoder decode = state.decoder(block);
    for_vectors<float>(end_of_block(block, n) - block,
                       [&](int64_t i, auto count) { store(x + block + i, decode(state.codes + block + i, count)); });
  }
}

template <bool positive>
NNART_HD void encode_tile(float* x, int64_t n, uint8_t* codes, const float* scales) {
  for (int64_t block = 0; block < n; block += kQuantizedBlock) {
    float scale = scales[block / kQuantizedBlock];
    Vec<float> inverse(scale >= 0x1p-126f ? 1 / scale : 0);  // of a smaller one it may be infinite
    int64_t i = block, end = end_of_block(block, n);
    for (; i + kEncoded <= end; i += kEncoded) encode<positive>(x + i, inverse, codes + i);
    if (i < end) {
      uint8_t rest[kEncoded];
      encode<positive>(x + i, inverse, rest);
      copy_some<kEncoded>(codes + i, rest, end - i);
    }
  }
}

// Encodes n elements, whose blocks' largest the scales are. x has room for a multiple of kEncoded; what is past n there
// is overwritten.
NNART_HD void quantize(float* x, int64_t n, const QuantizedState& state) {
  for (int64_t i = n; i % kEncoded != 0; ++i) x[i] = 0;
  state.positive ? encode_tile<true>(x, n, state.codes, state.scales)
                 : encode_tile<false>(x, n, state.codes, state.scales);
}

// What rounding to S takes from x, and x with that put back.
template <class S>
void split_some(const float* x, int64_t n, S* high, S* low) {
  for_vectors<float>(n, [&](int64_t i, auto count) {
    Vec<float> all = load_some(x + i, count);
    store_some(high + i, all, count);
    store_some(low + i, all - load_some(high + i, count), count);
  });
}
template <class S>
void join_some(const S* high, const S* low, int64_t n, float* x) {
  for_vectors<float>(
      n, [&](int64_t i, auto count) { store(x + i, load_some(high + i, count) + load_some(low + i, count)); });
}

// Rounds towards or away from zero with the probability that keeps the mean: of the bits that S has no place for, as
// many random ones are added, and the sum is cut.
template <class S>
NNART_HD Vec<float> round_at_random(Vec<float> value, RawU32 word) {
  constexpr bool half = std::is_same_v<S, Float16>;
  constexpr int lost = half ? 13 : 16;
  RawU32 random = word >> (32 - lost);
  RawU32 cut = (reinterpret_cast<RawU32>(value.v) + random) & ~((1u << lost) - 1);
  Vec<float> rounded(reinterpret_cast<RawVec<float>>(cut));
  if constexpr (half) {  // below its normal numbers Float16 is evenly spaced
    auto part = reinterpret_cast<RawVec<int32_t>>(random);
    Vec<float> units = abs(value) * Vec<float>(0x1p24) +
                       Vec<float>(__builtin_convertvector(part, RawVec<float>)) * Vec<float>(0x1p-13);
    auto whole = __builtin_convertvector(units.v, RawVec<int32_t>);
    Vec<float> even = Vec<float>(__builtin_convertvector(whole, RawVec<float>)) * Vec<float>(0x1p-24);
    rounded = select(abs(value) < Vec<float>(0x1p-14), copy_sign(even, value), rounded);
  }
  return select(abs(value) < Vec<float>(INFINITY), rounded, value);
}

// n elements, of which element 0 has word 4 first_block of the stream.
template <class S>
void round_stochastically(const float* x, int64_t n, S* to, uint64_t first_block, uint64_t key) {
  constexpr int64_t width = Vec<float>::size;
  for (int64_t step = 0; step < n; step += kWordsAStep, first_block += kWordsAStep / 4) {
    StepWords words = words_in_order(first_block, key);
    for (int k = 0; k < 4; ++k) {
      int64_t i = step + k * width;
      if (i >= n) break;
      Vec<float> rounded = round_at_random<S>(load(x + i), words.v[k]);
      if (n - i >= width)
        store(to + i, rounded);
      else
        store_partial(to + i, rounded, n - i);
    }
  }
}

}  // namespace
}  // namespace nnart::cpu

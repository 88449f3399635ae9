// Elements that are read and written at once: a vector of them, or of bfloat16 two, widened by a shift and a mask.
#pragma once

#include <type_traits>

#include "cpu/vec.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

// Element i of a pack is lane i of its one part, or of bfloat16 lane i / 2 of part i % 2.
template <class S>
struct Pack {
  using C = ComputeType<S>;
  static constexpr int parts = std::is_same_v<S, BFloat16> ? 2 : 1;
  static constexpr int64_t size = parts * Vec<C>::size;
  Vec<C> part[parts];

  NNART_HD static Pack all(double value) {
    Pack pack;
    for (auto& part : pack.part) part = Vec<C>(value);
    return pack;
  }
  NNART_HD static Pack read(const S* p) {
    if constexpr (parts == 2) {
      EvenOdd both = load_even_odd(p);
      return {both.even, both.odd};
    } else {
      return {load(p)};
    }
  }
  // The first count elements, the others 0.
  NNART_HD static Pack read(const S* p, int64_t count) {
    if (count >= size) return read(p);
    if constexpr (parts == 2) {
#if defined(__AVX512BW__)
      RawU32 pairs = reinterpret_cast<RawU32>(_mm512_maskz_loadu_epi16(__mmask32((uint64_t{1} << count) - 1), p));
      return {Vec<C>(reinterpret_cast<RawVec<C>>(pairs << 16)),
              Vec<C>(reinterpret_cast<RawVec<C>>(pairs & 0xffff0000))};
#else
      S elements[size] = {};
      std::memcpy(elements, p, size_t(count) * sizeof(S));
      return read(elements);
#endif
    } else {
      return {load_partial(p, count)};
    }
  }
  NNART_HD void write(S* p) const {
    if constexpr (parts == 2)
      store_even_odd(p, {part[0], part[1]});
    else
      store(p, part[0]);
  }
  NNART_HD void write(S* p, int64_t count) const {
    if (count >= size) return write(p);
    if constexpr (parts == 2) {
#if defined(__AVX512BW__)
      _mm512_mask_storeu_epi16(p, __mmask32((uint64_t{1} << count) - 1),
                               reinterpret_cast<__m512i>(join_even_odd({part[0], part[1]})));
#else
      S elements[size];
      write(elements);
      std::memcpy(p, elements, size_t(count) * sizeof(S));
#endif
    } else {
      store_partial(p, part[0], count);
    }
  }
};

// Calls visit(c, packs, lanes) for the channels from c on, four vectors of them at a time while there are as many and
// one pack after (with `pairs` two before that), the last with `lanes` channels; packs is a constant.
template <class S, bool pairs = false, class Visit>
NNART_HD void each_channels(int64_t channels, const Visit& visit) {
  using P = Pack<S>;
  using Many = std::integral_constant<int, 4 / P::parts>;
  int64_t c = 0;
  for (; c + Many::value * P::size <= channels; c += Many::value * P::size) visit(c, Many{}, P::size);
  if constexpr (pairs && Many::value > 2)
    if (c + 2 * P::size <= channels) {
      visit(c, std::integral_constant<int, 2>{}, P::size);
      c += 2 * P::size;
    }
  for (; c < channels; c += P::size) visit(c, std::integral_constant<int, 1>{}, least(P::size, channels - c));
}

}  // namespace
}  // namespace nnart::cpu

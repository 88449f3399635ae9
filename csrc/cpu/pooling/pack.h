// The offsets of a pack's elements in their windows.
#pragma once

#include "cpu/pack.h"
#include "cpu/prefetch.h"

namespace nnart::cpu {
namespace {

template <class C>
using IndexVec = RawVec<Bits<C>>;

// As many small whole numbers as a Vec<C> has lanes, kept as O: uint8_t, uint16_t or int32_t.
template <class C, class O>
using StoredIndex __attribute__((vector_size(kVectorBytes / sizeof(C) * sizeof(O)))) = O;

// From one width to the next and no further: GCC 12 takes wider steps lane by lane.
template <class Wide, class Narrow>
NNART_HD Wide widened(Narrow narrow) {
  constexpr int lanes = sizeof(Narrow) / sizeof(narrow[0]);
  if constexpr (sizeof(Wide) <= 2 * sizeof(Narrow)) {
    return __builtin_convertvector(narrow, Wide);
  } else if constexpr (sizeof(narrow[0]) == 1) {
    using Next __attribute__((vector_size(2 * sizeof(Narrow)))) = uint16_t;
    static_assert(sizeof(Next) == 2 * lanes);
    return widened<Wide>(__builtin_convertvector(narrow, Next));
  } else {
    using Next __attribute__((vector_size(2 * sizeof(Narrow)))) = uint32_t;
    return widened<Wide>(__builtin_convertvector(narrow, Next));
  }
}
template <class Narrow, class Wide>
NNART_HD Narrow narrowed(Wide wide) {
  if constexpr (sizeof(Wide) <= 2 * sizeof(Narrow)) {
    return __builtin_convertvector(wide, Narrow);
  } else if constexpr (sizeof(wide[0]) == 8) {
    using Next __attribute__((vector_size(sizeof(Wide) / 2))) = uint32_t;
    return narrowed<Narrow>(__builtin_convertvector(wide, Next));
  } else {
    using Next __attribute__((vector_size(sizeof(Wide) / 2))) = uint16_t;
    return narrowed<Narrow>(__builtin_convertvector(wide, Next));
  }
}

template <class C, class O>
NNART_HD IndexVec<C> read_index(const O* p) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4 && sizeof(O) == 1)
    return reinterpret_cast<IndexVec<C>>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4 && sizeof(O) == 1)
    return reinterpret_cast<IndexVec<C>>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
  StoredIndex<C, O> stored;
  std::memcpy(&stored, p, sizeof stored);
  return widened<IndexVec<C>>(stored);
}

// elements[i] = p[i] for i < count, which is less than there are; the others are 0.
template <int lanes, class O>
NNART_HD void read_some(O (&elements)[lanes], const O* p, int64_t count) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  if constexpr (lanes * sizeof(O) == 16 && sizeof(O) == 1)
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(elements), _mm_maskz_loadu_epi8((1u << count) - 1, p));
  if constexpr (lanes * sizeof(O) == 32 && sizeof(O) == 1)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(elements), _mm256_maskz_loadu_epi8((1u << count) - 1, p));
#endif
  std::memset(elements, 0, sizeof elements);
  copy_some<lanes / 2>(elements, p, count);
}
template <int lanes, class O>
NNART_HD void write_some(O* p, const O (&elements)[lanes], int64_t count) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  if constexpr (lanes * sizeof(O) == 16 && sizeof(O) == 1)
    return _mm_mask_storeu_epi8(p, (1u << count) - 1, _mm_loadu_si128(reinterpret_cast<const __m128i*>(elements)));
  if constexpr (lanes * sizeof(O) == 32 && sizeof(O) == 1)
    return _mm256_mask_storeu_epi8(p, (1u << count) - 1,
                                   _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements)));
#endif
  copy_some<lanes / 2>(p, elements, count);
}

template <class C, class O>
NNART_HD IndexVec<C> read_index(const O* p, int64_t count) {
  if (count >= Vec<C>::size) return read_index<C>(p);
  O elements[Vec<C>::size];
  read_some(elements, p, count);
  return read_index<C>(elements);
}
template <class C, class O>
NNART_HD void write_index(O* p, IndexVec<C> index, int64_t count) {
  StoredIndex<C, O> stored = narrowed<StoredIndex<C, O>>(index);
  if (count >= Vec<C>::size) {
    std::memcpy(p, &stored, sizeof stored);
    return;
  }
  O elements[Vec<C>::size];
  std::memcpy(elements, &stored, sizeof stored);
  write_some(p, elements, count);
}

// One tap, to be looked for among offsets. Bytes are compared as bytes where that gives a mask at once.
template <class C, class O>
struct TapMatch {
  Bits<C> tap;
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  __m128i bytes;
  NNART_HD explicit TapMatch(int64_t tap) : tap(Bits<C>(tap)), bytes(_mm_set1_epi8(char(tap))) {}
#else
  NNART_HD explicit TapMatch(int64_t tap) : tap(Bits<C>(tap)) {}
#endif

  // sum + term in the lanes whose offset is the tap.
  NNART_HD Vec<C> add(Vec<C> sum, Vec<C> term, const O* offsets) const {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
    if constexpr (sizeof(C) == 4 && sizeof(O) == 1) {
      __m128i found = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets));
      return Vec<C>(_mm512_mask_add_ps(sum.v, _mm_cmpeq_epi8_mask(found, bytes), sum.v, term.v));
    }
#endif
    Mask<C> mine{read_index<C>(offsets) == IndexVec<C>{} + tap};
    return select(mine, sum + term, sum);
  }
};

// One for each element of a pack.
template <class S>
struct PackIndex {
  using C = ComputeType<S>;
  using P = Pack<S>;
  using Pairs __attribute__((vector_size(kVectorBytes / 2))) = uint16_t;  // of bytes
  IndexVec<C> part[P::parts];

  template <class O>
  NNART_HD static PackIndex read(const O* p) {
    if constexpr (P::parts == 1) {
      return {read_index<C>(p)};
    } else if constexpr (sizeof(O) == 1) {
      Pairs pairs;
      std::memcpy(&pairs, p, sizeof pairs);
      IndexVec<C> wide = __builtin_convertvector(pairs, IndexVec<C>);
      return {wide & 0xff, wide >> 8};
    } else {
      PackIndex index;
      for (int i = 0; i < P::size; ++i) index.part[i % 2][i / 2] = Bits<C>(p[i]);
      return index;
    }
  }
  template <class O>
  NNART_HD static PackIndex read(const O* p, int64_t count) {
    if (count >= P::size) return read(p);
    O elements[P::size];
    read_some(elements, p, count);
    return read(elements);
  }
  template <class O>
  NNART_HD void write(O* p) const {
    if constexpr (P::parts == 1) {
      write_index<C>(p, part[0], P::size);
    } else if constexpr (sizeof(O) == 1) {
      Pairs pairs = __builtin_convertvector(part[0] | (part[1] << 8), Pairs);
      std::memcpy(p, &pairs, sizeof pairs);
    } else {
      for (int i = 0; i < P::size; ++i) p[i] = O(part[i % 2][i / 2]);
    }
  }
  template <class O>
  NNART_HD void write(O* p, int64_t count) const {
    if (count >= P::size) return write(p);
    O elements[P::size];
    write(elements);
    write_some(p, elements, count);
  }
};

}  // namespace
}  // namespace nnart::cpu

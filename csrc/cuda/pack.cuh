// Neighbouring elements that move together: as many as one memory instruction carries, or one where an address does not
// allow more.
#pragma once

#include "cuda/numeric.cuh"

namespace nnart::cuda {

constexpr int kAccessBytes = 16;

template <class S>
constexpr int kPackWidth = kAccessBytes / int(sizeof(S));

constexpr int pack_alignment(int bytes) { return bytes < kAccessBytes ? bytes : kAccessBytes; }

template <class S, int width>
struct alignas(pack_alignment(width* int(sizeof(S)))) Pack {
  S lanes[width];
};

// What one memory instruction moves.
template <int bytes>
struct AccessOf {
  using type = uint4;
};
template <>
struct AccessOf<8> {
  using type = uint2;
};
template <>
struct AccessOf<4> {
  using type = uint32_t;
};
template <>
struct AccessOf<2> {
  using type = uint16_t;
};
template <>
struct AccessOf<1> {
  using type = uint8_t;
};

template <int bytes>
using Access = typename AccessOf<bytes>::type;

// A pointer that came out of memory: the compiler is told that it is of the GPU's, of which it would know in an
// argument of the kernel, so that it need not take the slower access to memory of any kind.
template <class T>
__device__ __forceinline__ T* in_global_memory(T* p) {
  __builtin_assume(__isGlobal(p));
  return p;
}

// p is at a multiple of the pack's alignment.
template <int width, class S>
__device__ __forceinline__ Pack<S, width> load(const S* p) {
  Pack<S, width> pack;
  using A = Access<sizeof pack>;
#pragma unroll
  for (int i = 0; i < int(sizeof pack / sizeof(A)); ++i)
    reinterpret_cast<A*>(&pack)[i] = reinterpret_cast<const A*>(p)[i];
  return pack;
}
// By the instruction's own name: the compiler takes a plain assignment apart where other code has the lanes singly.
template <int width, class S>
__device__ __forceinline__ void store(S* p, const Pack<S, width>& pack) {
  using A = Access<sizeof pack>;
#pragma unroll
  for (int i = 0; i < int(sizeof pack / sizeof(A)); ++i)
    __stwb(reinterpret_cast<A*>(p) + i, reinterpret_cast<const A*>(&pack)[i]);
}

template <int width, class S>
__device__ __forceinline__ Pack<S, width> fill(S value) {
  Pack<S, width> pack;
#pragma unroll
  for (int k = 0; k < width; ++k) pack.lanes[k] = value;
  return pack;
}

// The lanes of a pack that exist: all of them at an aligned address, or those of [begin, end) at any.
struct Lanes {
  int begin, end;
  bool whole;
};

template <int width, class S>
__device__ __forceinline__ Pack<S, width> load(const S* p, Lanes lanes) {
  if (lanes.whole) return load<width>(p);
  Pack<S, width> pack{};
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (k >= lanes.begin && k < lanes.end) pack.lanes[k] = p[k];
  return pack;
}
template <int width, class S>
__device__ __forceinline__ void store(S* p, const Pack<S, width>& pack, Lanes lanes) {
  if (lanes.whole) return store(p, pack);
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (k >= lanes.begin && k < lanes.end) p[k] = pack.lanes[k];
}

// Elements, or one value that stands for all of them (Note [stride-0 gradients] in ops/checks.h).
template <class S>
struct Source {
  const S* data;
  bool one_value = false;
  template <int width>
  __device__ __forceinline__ Pack<S, width> at(int64_t i) const {
    return one_value ? fill<width>(*data) : load<width>(data + i);
  }
  template <int width>
  __device__ __forceinline__ Pack<S, width> at(int64_t i, Lanes lanes) const {
    return one_value ? fill<width>(*data) : load<width>(data + i, lanes);
  }
};

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kAccessBytes == 0; }
template <class S>
bool is_aligned(const Source<S>& source) {
  return source.one_value || is_aligned(source.data);
}
template <class... P>
bool are_aligned(const P&... p) {
  return (is_aligned(p) && ...);
}

}  // namespace nnart::cuda

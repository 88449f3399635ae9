// The elements of a tile that a thread has, in its registers: all storage types on one side, the compute type C on the
// other. A warp has a block of 8-bit state, in packs of four neighbours a lane.
#pragma once

#include "core/optimizer_args.h"
#include "cuda/channels.cuh"
#include "cuda/random.cuh"
#include "math/dynamic_map.h"

namespace nnart::cuda {

constexpr int kTileThreads = 128;
constexpr int kLanes = 4;
constexpr int kPacks = 2;
constexpr int kElements = kPacks * kLanes;
static_assert(kTileThreads * kElements == kOptimizerTile && kWarp * kElements == kQuantizedBlock);

// Where the packs of a thread begin in their tensor, and how many elements of each there are.
struct Place {
  int64_t first[kPacks];
  int count[kPacks];
};

__device__ __forceinline__ Place place_of(int64_t begin, int64_t n) {
  Place place;
  int64_t at = begin + int64_t(threadIdx.x / kWarp) * kQuantizedBlock + int64_t(threadIdx.x % kWarp) * kLanes;
#pragma unroll
  for (int u = 0; u < kPacks; ++u, at += kWarp * kLanes) {
    place.first[u] = at;
    place.count[u] = int(n - at < kLanes ? (n - at > 0 ? n - at : 0) : kLanes);
  }
  return place;
}

template <class S>
__device__ __forceinline__ bool is_pack_aligned(const S* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<S, kLanes>) == 0;
}

template <class S>
__device__ __forceinline__ Lanes lanes_of(const S* p, const Place& place, int u) {
  return {0, place.count[u], is_pack_aligned(p) && place.count[u] == kLanes};
}

// Elements as they lie in memory, of a type no larger than C: they are read before any is converted, so that the loads
// of all operands are under way together. Of a larger type they are in C.
template <class C>
struct Stored {
  Pack<C, kLanes> packs[kPacks];
};

template <class S, class C>
__device__ __forceinline__ void read(const S* p, const Place& place, Stored<C>& to) {
  p = in_global_memory(p);
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    auto pack = cuda::load<kLanes>(p + place.first[u], lanes_of(p, place, u));
    if constexpr (sizeof(S) <= sizeof(C)) {
      reinterpret_cast<Pack<S, kLanes>&>(to.packs[u]) = pack;
    } else {
#pragma unroll
      for (int k = 0; k < kLanes; ++k) to.packs[u].lanes[k] = C(pack.lanes[k]);
    }
  }
}
template <class C>
__device__ __forceinline__ void read(DType dtype, const void* p, const Place& place, Stored<C>& to) {
  with_dtype(dtype, [&](auto type) { read(static_cast<const typename decltype(type)::type*>(p), place, to); });
}

// f(e, stored element) for each element e of type S.
template <class S, class C, class F>
__device__ __forceinline__ void for_each(const Stored<C>& from, const F& f) {
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    f(e, reinterpret_cast<const Pack<S, kLanes>&>(from.packs[e / kLanes]).lanes[e % kLanes]);
}

template <class C>
__device__ __forceinline__ void in_compute_type(DType dtype, const Stored<C>& from, C (&to)[kElements]) {
  with_dtype(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if constexpr (sizeof(S) <= sizeof(C))
      for_each<S>(from, [&](int e, S x) { to[e] = C(widen(x)); });
    else
      for_each<C>(from, [&](int e, C x) { to[e] = x; });
  });
}

// Writes value(e) for each element e.
template <class S, class Value>
__device__ __forceinline__ void write(S* p, const Place& place, const Value& value) {
  p = in_global_memory(p);
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    Pack<S, kLanes> pack;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) pack.lanes[k] = value(u * kLanes + k);
    cuda::store(p + place.first[u], pack, lanes_of(p, place, u));
  }
}
template <class C>
__device__ __forceinline__ void write(DType dtype, void* p, const Place& place, const C (&x)[kElements]) {
  with_dtype(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    write(static_cast<S*>(p), place, [&](int e) { return narrow(Type<S>{}, ComputeType<S>(x[e])); });
  });
}

// ---- 8-bit state ----

static __device__ const math::DynamicMap kDynamicMaps[2] = {math::dynamic_map(0), math::dynamic_map(1)};

template <bool positive>
__device__ __forceinline__ void dequantize(const Stored<float>& codes, float scale, float (&to)[kElements]) {
  for_each<uint8_t>(
      codes, [&](int e, uint8_t code) { to[e] = math::decoded<positive>(kDynamicMaps[positive], code) * scale; });
}

// A warp's block. All of its lanes call this, those without elements too.
template <bool positive>
__device__ __forceinline__ void quantize(const float (&x)[kElements], const Place& place, uint8_t* codes,
                                         float* scales) {
  float largest = 0;
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    if (e % kLanes < place.count[e / kLanes]) largest = math::larger(largest, math::abs(x[e]));
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2)
    largest = math::larger(largest, __shfl_xor_sync(0xffffffff, largest, offset));
  if (threadIdx.x % kWarp == 0 && place.count[0] > 0)
    in_global_memory(scales)[place.first[0] / kQuantizedBlock] = largest;
  float inverse = largest >= 0x1p-126f ? 1 / largest : 0;  // of a smaller one it may be infinite
  write(codes, place, [&](int e) { return math::encoded<positive>(kDynamicMaps[positive], x[e] * inverse); });
}

// ---- rounding ----

// Towards or away from zero with the probability that keeps the mean: of the bits that S has no place for, as many
// random ones are added, and the sum is cut.
template <class S>
__device__ __forceinline__ float rounded_stochastically(float value, uint32_t word) {
  constexpr bool half = std::is_same_v<S, Float16>;
  constexpr int lost = half ? 13 : 16;
  uint32_t random = word >> (32 - lost);
  uint32_t cut = (__builtin_bit_cast(uint32_t, value) + random) & ~((1u << lost) - 1);
  float rounded = __builtin_bit_cast(float, cut), size = math::abs(value);
  if (half && size < 0x1p-14f) {  // below its normal numbers Float16 is evenly spaced
    float units = truncf(size * 0x1p24f + float(random) * 0x1p-13f);
    rounded = copysignf(units * 0x1p-24f, value);
  }
  return size < INFINITY ? rounded : value;
}

}  // namespace nnart::cuda

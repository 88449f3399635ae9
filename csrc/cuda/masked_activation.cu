// Activations whose derivative takes two values: the forward leaves one bit an element, from which the backward goes.
#include <type_traits>

#include "cuda/kernels.h"
#include "cuda/map.cuh"

namespace nnart::cuda {
namespace {

// Elements whose bits are a byte, and what a thread handles at a time, in every dtype.
constexpr int kBits = 8;

// Up to kBits elements from p on, lanes beyond being 0; in one piece only where aligned.
template <bool aligned, class S>
__device__ __forceinline__ Pack<S, kBits> read_byte(const S* p, int count) {
  if (aligned && count == kBits) return load<kBits>(p);
  Pack<S, kBits> pack{};
#pragma unroll
  for (int k = 0; k < kBits; ++k)
    if (k < count) pack.lanes[k] = p[k];
  return pack;
}
template <bool aligned, class S>
__device__ __forceinline__ void write_byte(S* p, const Pack<S, kBits>& pack, int count) {
  if (aligned && count == kBits) return store(p, pack);
#pragma unroll
  for (int k = 0; k < kBits; ++k)
    if (k < count) p[k] = pack.lanes[k];
}

template <class S, class F, bool aligned>
struct Forward {
  const S* x;
  S* y;
  uint8_t* mask;
  ComputeType<S> low;
  bool from_output;
  F activation;

  template <int width>
  __device__ __forceinline__ auto load(int64_t i) const {
    return read_byte<aligned>(x + i, width);
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Pack<S, kBits>& in) const {
    finish(i, in, width);
  }
  __device__ void tail(int64_t i, int64_t n) const {
    if (i < n) finish(i, read_byte<aligned>(x + i, int(n - i)), int(n - i));
  }
  __device__ __forceinline__ void finish(int64_t i, const Pack<S, kBits>& in, int count) const {
    using C = ComputeType<S>;
    Pack<S, kBits> out;
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < kBits; ++k) {
      C v = widen(in.lanes[k]), f = activation.forward(v);
      C slope = activation.backward(C(1), from_output ? f : v);
      out.lanes[k] = narrow(Type<S>{}, f);
      bits |= uint32_t(slope != low && k < count) << k;
    }
    write_byte<aligned>(y + i, out, count);
    mask[i / kBits] = uint8_t(bits);
  }
};

// Where a slope is zero so is the gradient, whatever grad_y is.
template <class S, bool aligned>
struct Backward {
  Source<S> grad_y;
  const uint8_t* mask;
  S* grad_x;
  ComputeType<S> low, high;

  struct Loaded {
    Pack<S, kBits> grad;
    uint8_t bits;
  };
  __device__ __forceinline__ Loaded read(int64_t i, int count) const {
    uint8_t bits = mask[i / kBits];
    if (grad_y.one_value) return {fill<kBits>(*grad_y.data), bits};
    return {read_byte<aligned>(grad_y.data + i, count), bits};
  }
  template <int width>
  __device__ __forceinline__ Loaded load(int64_t i) const {
    return read(i, width);
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Loaded& in) const {
    finish(i, in, width);
  }
  __device__ void tail(int64_t i, int64_t n) const {
    if (i < n) finish(i, read(i, int(n - i)), int(n - i));
  }
  __device__ __forceinline__ void finish(int64_t i, const Loaded& in, int count) const {
    using C = ComputeType<S>;
    Pack<S, kBits> out;
#pragma unroll
    for (int k = 0; k < kBits; ++k) {
      C grad = widen(in.grad.lanes[k]), otherwise = low == 0 ? C(0) : grad * low;
      out.lanes[k] = narrow(Type<S>{}, in.bits >> k & 1 ? grad * high : otherwise);
    }
    write_byte<aligned>(grad_x + i, out, count);
  }
};

template <class Launch>
void with_alignment(bool aligned, const Launch& launch) {
  if (aligned)
    launch(std::true_type{});
  else
    launch(std::false_type{});
}

}  // namespace

const char* launch(const MaskedActivationArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  Slopes slopes = slopes_of(args.activation, args.parameters);
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    Source<S> grad_y{static_cast<const S*>(args.grad_y), args.grad_y_is_one_value};
    if (args.grad_y) {
      with_alignment(are_aligned(grad_y, y), [&](auto aligned) {
        error =
            map<kBits>(Backward<S, aligned.value>{grad_y, args.mask, y, C(slopes.low), C(slopes.high)}, args.n, stream);
      });
      return;
    }
    with_two_slopes<C>(args.activation, args.parameters, [&](auto activation) {
      with_alignment(are_aligned(x, y), [&](auto aligned) {
        Forward<S, decltype(activation), aligned.value> body{
            x, y, args.mask, C(slopes.low), saves_output(args.activation), activation};
        error = map<kBits>(body, args.n, stream);
      });
    });
  });
  return error;
}

}  // namespace nnart::cuda

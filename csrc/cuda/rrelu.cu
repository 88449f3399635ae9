// Leaky ReLU with random slopes: forward and backward are the same product.
#include "cuda/divisor.cuh"
#include "cuda/kernels.h"
#include "cuda/map.cuh"
#include "cuda/random.cuh"

namespace nnart::cuda {
namespace {

template <class S>
struct RRelu {
  using C = ComputeType<S>;
  Source<S> x;
  const S* sign;
  S* y;
  const int64_t* seeds;
  Divisor part;  // its elements
  C lower, width_of_slopes;

  template <int width>
  struct Loaded {
    Pack<S, width> x, sign;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i) const {
    return {x.template at<width>(i), cuda::load<width>(sign + i)};
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Loaded<width>& in) const {
    Division of = divide(i, part);
    auto words = words_at<width>(uint64_t(of.rest), uint64_t(seeds[of.quotient]));
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C v = widen(in.x.lanes[k]), u = C(float(words.lanes[k] >> 8) * 0x1p-24f);
      out.lanes[k] = narrow(Type<S>{}, widen(in.sign.lanes[k]) > C(0) ? v : v * (lower + width_of_slopes * u));
    }
    cuda::store(y + i, out);
  }
};

}  // namespace

const char* launch(const RReluArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  int64_t n = args.parts * args.n;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    Source<S> x{static_cast<const S*>(args.x), args.x_is_one_value};
    auto* sign = static_cast<const S*>(args.sign);
    auto* y = static_cast<S*>(args.y);
    RRelu<S> body{x, sign, y, args.seeds, Divisor(args.n, n), C(args.lower), C(args.upper - args.lower)};
    bool whole = args.parts == 1 || args.n % kPackWidth<S> == 0;  // no pack reaches into the next part
    error = map<S>(body, n, whole && are_aligned(x, sign, y), stream);
  });
  return error;
}

}  // namespace nnart::cuda

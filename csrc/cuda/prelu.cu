// PReLU: one weight for all, or one for each channel. The backward sums what the weights get in the same pass.
#include "cuda/channels.cuh"
#include "cuda/kernels.h"

namespace nnart::cuda {
namespace {

template <class S_>
struct PRelu {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>;
  using Elements = Pack<S, width>;

  const S *x, *weight;
  const S* grad_y;  // null in the forward
  S* y;
  double* partial_sums;

  struct Loaded {
    Elements x, grad;
  };
  __device__ __forceinline__ Elements channel(int64_t c, bool one_channel, Lanes lanes) const {
    return one_channel ? fill<width>(weight[c]) : cuda::load<width>(weight + c, {lanes.begin, lanes.end, false});
  }
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    Loaded loaded{cuda::load<width>(x + i, lanes), {}};
    if (grad_y) loaded.grad = cuda::load<width>(grad_y + i, lanes);
    return loaded;
  }
  // x > 0 is false for NaN, so NaN takes the slope branch and stays NaN.
  __device__ __forceinline__ Pack<C, width> finish(int64_t i, const Loaded& in, const Elements& weights,
                                                   Lanes lanes) const {
    Elements out;
    Pack<C, width> terms;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C v = widen(in.x.lanes[k]), w = widen(weights.lanes[k]), grad = grad_y ? widen(in.grad.lanes[k]) : v;
      out.lanes[k] = narrow(Type<S>{}, v > C(0) ? grad : grad * w);
      terms.lanes[k] = v > C(0) ? C(0) : v * grad;
    }
    cuda::store(y + i, out, lanes);
    return terms;
  }
};

}  // namespace

int64_t scratch(const PReluArgs& args) { return sum_scratch({args.outer, args.channels, args.inner}); }

const char* launch(const PReluArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    PRelu<S> body{static_cast<const S*>(args.x), static_cast<const S*>(args.weight), static_cast<const S*>(args.grad_y),
                  static_cast<S*>(args.y), args.grad_y ? args.partial_sums : nullptr};
    error = map_channels(body, {args.outer, args.channels, args.inner}, are_aligned(body.x, body.grad_y, body.y),
                         static_cast<S*>(args.grad_weight), stream);
  });
  return error;
}

}  // namespace nnart::cuda

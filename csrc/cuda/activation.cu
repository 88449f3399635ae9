// Element-wise activations: the map loop over the functors of math/activations.h.
#include "cuda/kernels.h"
#include "cuda/map.cuh"

namespace nnart::cuda {
namespace {

template <class S, class F>
struct Forward {
  const S* x;
  S* y;
  F activation;

  template <int width>
  __device__ __forceinline__ auto load(int64_t i) const {
    return cuda::load<width>(x + i);
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Pack<S, width>& in) const {
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, activation.forward(widen(in.lanes[k])));
    cuda::store(y + i, out);
  }
};

template <class S, class F>
struct Backward {
  Source<S> grad_y;
  const S* saved;
  S* grad_x;
  F activation;

  template <int width>
  struct Loaded {
    Pack<S, width> grad, saved;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i) const {
    return {grad_y.template at<width>(i), cuda::load<width>(saved + i)};
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Loaded<width>& in) const {
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k)
      out.lanes[k] = narrow(Type<S>{}, activation.backward(widen(in.grad.lanes[k]), widen(in.saved.lanes[k])));
    cuda::store(grad_x + i, out);
  }
};

}  // namespace

const char* launch(const ActivationArgs& args, cudaStream_t stream) {
  if (args.residual || args.bias) return "no CUDA kernel adds a residual or a bias here";
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    Source<S> grad_y{static_cast<const S*>(args.grad_y), args.grad_y_is_one_value};
    auto backward = [&](auto activation) {
      error = map<S>(Backward<S, decltype(activation)>{grad_y, x, y, activation}, args.n, are_aligned(grad_y, x, y),
                     stream);
    };
    if (args.from_output && with_derivative_from_output<C>(args.activation, args.parameters, backward)) return;
    with_activation<C>(args.activation, args.parameters, [&](auto activation) {
      if (args.grad_y)
        backward(activation);
      else
        error = map<S>(Forward<S, decltype(activation)>{x, y, activation}, args.n, are_aligned(x, y), stream);
    });
  });
  return error;
}

}  // namespace nnart::cuda

// Element-wise activations: the map loop over the functors of math/activations.h.
#include "cuda/kernels.h"
#include "cuda/map.cuh"

namespace nnart::cuda {
namespace {

// Named functors, because a kernel's template argument cannot be a lambda of a host function in every nvcc.
template <class Activation>
struct Forward {
  Activation activation;
  template <class T>
  __device__ __forceinline__ T operator()(T x) const {
    return activation.forward(x);
  }
};

template <class Activation>
struct Backward {
  Activation activation;
  template <class T>
  __device__ __forceinline__ T operator()(T grad_y, T saved) const {
    return activation.backward(grad_y, saved);
  }
};

}  // namespace

const char* launch(const ActivationArgs& args, cudaStream_t stream) {
  if (args.residual) return "no CUDA kernel adds a residual";
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    auto* y = static_cast<S*>(args.y);
    auto* grad_y = static_cast<const S*>(args.grad_y);
    Elements<S> x{static_cast<const S*>(args.x)};
    auto backward = [&](auto activation) {
      using F = decltype(activation);
      if (args.grad_y_is_one_value)
        error = map(y, args.n, Backward<F>{activation}, stream, OneValue<S>{grad_y}, x);
      else
        error = map(y, args.n, Backward<F>{activation}, stream, Elements<S>{grad_y}, x);
    };
    if (args.from_output && with_derivative_from_output<C>(args.activation, args.parameters, backward)) return;
    with_activation<C>(args.activation, args.parameters, [&](auto activation) {
      if (grad_y)
        backward(activation);
      else
        error = map(y, args.n, Forward<decltype(activation)>{activation}, stream, x);
    });
  });
  return error;
}

}  // namespace nnart::cuda

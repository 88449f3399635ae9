// Gated activations, value f(gate): the forward reads both once, the backward reads three tensors and writes two. Which
// f it is is asked for each pack: the branch always goes the same way, and the kernels would otherwise be compiled some
// hundreds of times.
#include "cuda/divisor.cuh"
#include "cuda/kernels.h"
#include "cuda/map.cuh"

namespace nnart::cuda {
namespace {

// Where element i of y has its value and its gate: in rows of `run`, those of the operands `step` apart.
struct Rows {
  Divisor run;
  int64_t step;
  __device__ __forceinline__ int64_t place(int64_t i) const {
    if (step == run.number()) return i;
    Division row = divide(i, run);
    return row.quotient * step + row.rest;
  }
};

template <class S>
struct Forward {
  Rows rows;
  const S *value, *gate;
  S* y;
  Activation activation;
  ActivationParameters parameters;

  template <int width>
  struct Loaded {
    Pack<S, width> value, gate;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i) const {
    int64_t at = rows.place(i);
    return {cuda::load<width>(value + at), cuda::load<width>(gate + at)};
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Loaded<width>& in) const {
    Pack<S, width> out;
    with_activation<ComputeType<S>>(activation, parameters, [&](auto f) {
#pragma unroll
      for (int k = 0; k < width; ++k)
        out.lanes[k] = narrow(Type<S>{}, widen(in.value.lanes[k]) * f.forward(widen(in.gate.lanes[k])));
    });
    cuda::store(y + i, out);
  }
};

// Where f's derivative is read from its output, that is computed here in any case.
template <class S>
struct Backward {
  static constexpr int blocks = 2;  // of a multiprocessor: three tensors are read and two written
  Rows rows;
  Source<S> grad_y;
  const S *value, *gate;
  S *grad_value, *grad_gate;
  Activation activation;
  ActivationParameters parameters;
  bool from_output;

  template <int width>
  struct Loaded {
    Pack<S, width> grad, value, gate;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i) const {
    int64_t at = rows.place(i);
    return {grad_y.template at<width>(i), cuda::load<width>(value + at), cuda::load<width>(gate + at)};
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Loaded<width>& in) const {
    Pack<S, width> of_value, of_gate;
    with_activation<ComputeType<S>>(activation, parameters, [&](auto f) {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        auto grad = widen(in.grad.lanes[k]), v = widen(in.value.lanes[k]), g = widen(in.gate.lanes[k]);
        auto opened = f.forward(g);
        of_value.lanes[k] = narrow(Type<S>{}, grad * opened);
        of_gate.lanes[k] = narrow(Type<S>{}, f.backward(grad * v, from_output ? opened : g));
      }
    });
    int64_t at = rows.place(i);
    cuda::store(grad_value + at, of_value);
    cuda::store(grad_gate + at, of_gate);
  }
};

}  // namespace

const char* launch(const GatedArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  int64_t n = args.rows * args.run;
  Rows rows{Divisor(args.run, n), args.step};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto *value = static_cast<const S*>(args.value), *gate = static_cast<const S*>(args.gate);
    auto *y = static_cast<S*>(args.y), *grad_value = static_cast<S*>(args.grad_value),
         *grad_gate = static_cast<S*>(args.grad_gate);
    Source<S> grad_y{static_cast<const S*>(args.grad_y), args.grad_y_is_one_value};
    bool whole = args.step == args.run || args.run % kPackWidth<S> == 0;  // no pack reaches into the next row
    bool aligned = whole && are_aligned(value, gate);
    if (args.grad_y)
      error = map<S>(Backward<S>{rows, grad_y, value, gate, grad_value, grad_gate, args.activation, args.parameters,
                                 saves_output(args.activation)},
                     n, aligned && are_aligned(grad_y, grad_value, grad_gate), stream);
    else
      error = map<S>(Forward<S>{rows, value, gate, y, args.activation, args.parameters}, n, aligned && are_aligned(y),
                     stream);
  });
  return error;
}

}  // namespace nnart::cuda

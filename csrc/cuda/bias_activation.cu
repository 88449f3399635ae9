// y = residual + dropout(activation(x + bias)) in one pass over memory, and its gradients in another. Which parts there
// are, and which activation it is, is asked for each pack: the branches always go the same way, and the kernels would
// otherwise be compiled some hundreds of times.
#include "cuda/channels.cuh"
#include "cuda/kernels.h"
#include "cuda/random.cuh"

namespace nnart::cuda {
namespace {

template <class S_>
struct Fused {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>;
  using Elements = Pack<S, width>;
  using Computed = Pack<C, width>;

  Activation activation;
  ActivationParameters parameters;
  const S* bias;
  const int64_t* seed;
  uint32_t threshold;
  C scale;

  __device__ __forceinline__ Elements channel(int64_t c, bool one_channel, Lanes lanes) const {
    if (!bias) return fill<width>(narrow(Type<S>{}, C(0)));
    return one_channel ? fill<width>(bias[c]) : cuda::load<width>(bias + c, {lanes.begin, lanes.end, false});
  }
  // Multiplies values by 0 or scale as the decisions of their numbers say.
  __device__ __forceinline__ void drop(int64_t i, Computed& values) const {
    if (!seed) return;
    auto words = words_at<width>(uint64_t(i), uint64_t(*seed));
#pragma unroll
    for (int k = 0; k < width; ++k) values.lanes[k] *= words.lanes[k] >= threshold ? scale : C(0);
  }
};

template <class S_>
struct Forward : Fused<S_> {
  using S = S_;
  using typename Fused<S>::C;
  using typename Fused<S>::Elements;
  using typename Fused<S>::Computed;
  using Fused<S>::width;

  const S *x, *residual;
  S* y;
  static constexpr double* partial_sums = nullptr;

  struct Loaded {
    Elements x, residual;
  };
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    Loaded loaded{cuda::load<width>(x + i, lanes), {}};
    if (residual) loaded.residual = cuda::load<width>(residual + i, lanes);
    return loaded;
  }
  __device__ __forceinline__ Computed finish(int64_t i, const Loaded& in, const Elements& biases, Lanes lanes) const {
    Computed values;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      values.lanes[k] = widen(in.x.lanes[k]);
      if (this->bias) values.lanes[k] += widen(biases.lanes[k]);
    }
    with_activation<C>(this->activation, this->parameters, [&](auto function) {
#pragma unroll
      for (int k = 0; k < width; ++k) values.lanes[k] = function.forward(values.lanes[k]);
    });
    this->drop(i, values);
    Elements out;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      if (residual) values.lanes[k] += widen(in.residual.lanes[k]);
      out.lanes[k] = narrow(Type<S>{}, values.lanes[k]);
    }
    cuda::store(y + i, out, lanes);
    return values;
  }
};

// The gradient of an element's sum with the bias is its term of the bias's gradient.
template <class S_>
struct Backward : Fused<S_> {
  using S = S_;
  using typename Fused<S>::C;
  using typename Fused<S>::Elements;
  using typename Fused<S>::Computed;
  using Fused<S>::width;

  Source<S> grad_y;
  const S* saved;     // null for the identity
  bool wants_output;  // the derivative is read from the output, and saved is not that
  S* grad_x;
  double* partial_sums;

  struct Loaded {
    Elements grad, saved;
  };
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    Loaded loaded{grad_y.template at<width>(i, lanes), {}};
    if (saved) loaded.saved = cuda::load<width>(saved + i, lanes);
    return loaded;
  }
  __device__ __forceinline__ Computed finish(int64_t i, const Loaded& in, const Elements& biases, Lanes lanes) const {
    Computed grads;
#pragma unroll
    for (int k = 0; k < width; ++k) grads.lanes[k] = widen(in.grad.lanes[k]);
    this->drop(i, grads);
    if (saved) {
      with_activation<C>(this->activation, this->parameters, [&](auto function) {
#pragma unroll
        for (int k = 0; k < width; ++k) {
          C s = widen(in.saved.lanes[k]);
          if (this->bias) s += widen(biases.lanes[k]);
          if (wants_output) s = function.forward(s);
          grads.lanes[k] = function.backward(grads.lanes[k], s);
        }
      });
    }
    Elements out;
#pragma unroll
    for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, grads.lanes[k]);
    cuda::store(grad_x + i, out, lanes);
    return grads;
  }
};

// The sums alone.
template <class S_>
struct Sums {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>;
  static constexpr int unroll = 2 * kChannelUnroll;  // of one small load each

  Source<S> x;
  double* partial_sums;

  struct None {};
  __device__ __forceinline__ None channel(int64_t, bool, Lanes) const { return {}; }
  __device__ __forceinline__ Pack<S, width> load(int64_t i, Lanes lanes) const {
    return x.template at<width>(i, lanes);
  }
  __device__ __forceinline__ Pack<C, width> finish(int64_t, const Pack<S, width>& in, None, Lanes) const {
    Pack<C, width> values;
#pragma unroll
    for (int k = 0; k < width; ++k) values.lanes[k] = widen(in.lanes[k]);
    return values;
  }
};

}  // namespace

int64_t scratch(const BiasActivationArgs& args) { return sum_scratch({args.outer, args.channels, args.inner}); }

const char* launch(const BiasActivationArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  ChannelShape shape{args.outer, args.channels, args.inner};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    Fused<S> fused{args.activation, args.parameters, static_cast<const S*>(args.bias),
                   args.seed,       args.threshold,  ComputeType<S>(args.scale)};
    if (!args.grad_y) {
      auto* residual = static_cast<const S*>(args.residual);
      Forward<S> forward{fused, x, residual, y};
      error = map_channels(forward, shape, are_aligned(x, residual, y), static_cast<S*>(nullptr), stream);
      return;
    }
    Source<S> grad_y{static_cast<const S*>(args.grad_y), args.grad_y_is_one_value};
    auto* grad_bias = static_cast<S*>(args.grad_bias);
    if (!y) {
      error = map_channels(Sums<S>{grad_y, args.partial_sums}, shape, are_aligned(grad_y), grad_bias, stream);
      return;
    }
    bool wants_output = !args.saved_is_output && saves_output(args.activation);
    Backward<S> backward{fused, grad_y, x, wants_output, y, args.grad_bias ? args.partial_sums : nullptr};
    error = map_channels(backward, shape, are_aligned(grad_y, x, y), grad_bias, stream);
  });
  return error;
}

}  // namespace nnart::cuda

// Batch normalization with what follows it, y = f((x - mean) weight / sqrt(var + eps) + bias + residual), and its
// gradients: one sweep for the sums of a channel and one that uses them. A block's sums go to partial_sums in double,
// and are joined in an order that the sizes determine.
#include "cuda/batch_norm.cuh"
#include "cuda/kernels.h"

namespace nnart::cuda {
namespace {

// Calls set(lane, channel) for the lanes that a body knows the channels of.
template <int width, class Set>
__device__ __forceinline__ void each_channel(int64_t c, bool one_channel, Lanes lanes, const Set& set) {
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (one_channel || (k >= lanes.begin && k < lanes.end)) set(k, one_channel ? c : c + k);
}

// Distances from a channel's first element: a large mean takes no precision from a small variance.
template <class S>
struct Pivot {
  const S* x;
  int64_t inner;
  __device__ __forceinline__ ComputeType<S> operator()(int64_t c) const {
    auto first = widen(x[c * inner]);
    return first - first == 0 ? first : 0;
  }
};

template <class S_>
struct Moments {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>, terms = 2;
  using Computed = Pack<C, width>;

  const S* x;
  Pivot<S> pivot;
  double* partial_sums;

  __device__ __forceinline__ Computed channel(int64_t c, bool one_channel, Lanes lanes) const {
    Computed middle{};
    each_channel<width>(c, one_channel, lanes, [&](int k, int64_t channel) { middle.lanes[k] = pivot(channel); });
    return middle;
  }
  __device__ __forceinline__ Pack<S, width> load(int64_t i, Lanes lanes) const {
    return cuda::load<width>(x + i, lanes);
  }
  __device__ __forceinline__ TwoTerms<C, width> finish(int64_t, const Pack<S, width>& in, const Computed& middle,
                                                       Lanes) const {
    TwoTerms<C, width> terms;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C distance = widen(in.lanes[k]) - middle.lanes[k];
      terms.first.lanes[k] = distance;
      terms.second.lanes[k] = distance * distance;
    }
    return terms;
  }
};

// What forward and gradients have in common.
template <class S_>
struct Normal {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>;
  using Elements = Pack<S, width>;
  using Computed = Pack<C, width>;

  Activation activation;
  ActivationParameters parameters;
  NormNumbers<S> numbers;
  const S* x;

  struct Channels {
    Computed mean, scale, bias;
  };
  __device__ __forceinline__ Channels channel(int64_t c, bool one_channel, Lanes lanes) const {
    Channels of{};
    each_channel<width>(c, one_channel, lanes, [&](int k, int64_t channel) {
      of.mean.lanes[k] = numbers.mean[channel];
      of.scale.lanes[k] = numbers.scale(channel);
      of.bias.lanes[k] = numbers.given(numbers.bias, channel, C(0));
    });
    return of;
  }
};

template <class S_>
struct Forward : Normal<S_> {
  using S = S_;
  using typename Normal<S>::C;
  using typename Normal<S>::Elements;
  using typename Normal<S>::Computed;
  using typename Normal<S>::Channels;
  using Normal<S>::width;

  const S* residual;
  S* y;
  static constexpr double* partial_sums = nullptr;

  struct Loaded {
    Elements x, residual;
  };
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    Loaded loaded{cuda::load<width>(this->x + i, lanes), {}};
    if (residual) loaded.residual = cuda::load<width>(residual + i, lanes);
    return loaded;
  }
  __device__ __forceinline__ Computed finish(int64_t i, const Loaded& in, const Channels& of, Lanes lanes) const {
    Computed values;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      values.lanes[k] = (widen(in.x.lanes[k]) - of.mean.lanes[k]) * of.scale.lanes[k] + of.bias.lanes[k];
      if (residual) values.lanes[k] += widen(in.residual.lanes[k]);
    }
    Elements out;
    with_fused_activation<C>(this->activation, this->parameters, [&](auto function) {
#pragma unroll
      for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, function.forward(values.lanes[k]));
    });
    cuda::store(y + i, out, lanes);
    return values;
  }
};

// The gradient of u, what f was applied to, and its sums with and without the distances from the mean.
template <class S_>
struct Gradients : Normal<S_> {
  using S = S_;
  using typename Normal<S>::C;
  using typename Normal<S>::Elements;
  using typename Normal<S>::Computed;
  using typename Normal<S>::Channels;
  using Normal<S>::width;
  static constexpr int terms = 2;
  static constexpr int unroll = width > 4 ? 1 : kChannelUnroll;  // sums and numbers of eight channels take registers

  const S *grad_y, *output;  // output is null where f' is found by x
  bool wants_output;         // it is read from f, and that is not there
  S* grad_residual;          // may be null
  double* partial_sums;

  struct Loaded {
    Elements x, grad, output;
  };
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    Loaded loaded{cuda::load<width>(this->x + i, lanes), cuda::load<width>(grad_y + i, lanes), {}};
    if (output) loaded.output = cuda::load<width>(output + i, lanes);
    return loaded;
  }
  // The gradients of u, and the distances from the mean.
  __device__ __forceinline__ TwoTerms<C, width> gradients(const Loaded& in, const Channels& of) const {
    TwoTerms<C, width> result;
    with_fused_activation<C>(this->activation, this->parameters, [&](auto function) {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        C distance = widen(in.x.lanes[k]) - of.mean.lanes[k];
        C s = output ? widen(in.output.lanes[k]) : distance * of.scale.lanes[k] + of.bias.lanes[k];
        if (wants_output) s = function.forward(s);
        result.first.lanes[k] = function.backward(widen(in.grad.lanes[k]), s);
        result.second.lanes[k] = distance;
      }
    });
    return result;
  }
  __device__ __forceinline__ TwoTerms<C, width> finish(int64_t i, const Loaded& in, const Channels& of,
                                                       Lanes lanes) const {
    TwoTerms<C, width> result = gradients(in, of);
    Elements out;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      out.lanes[k] = narrow(Type<S>{}, result.first.lanes[k]);
      result.second.lanes[k] *= result.first.lanes[k];
    }
    if (grad_residual) cuda::store(grad_residual + i, out, lanes);
    return result;
  }
};

// The two numbers of each channel that grad_x takes from the sums.
template <class C>
struct Shares {
  C *slope, *shift;
};

template <class S_>
struct InputGradient {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr int width = kPackWidth<S>;
  using Elements = Pack<S, width>;
  using Computed = Pack<C, width>;
  static constexpr int unroll = Gradients<S>::unroll;

  Gradients<S> of_sums;  // its grad_residual, if there, has the gradients of u
  Shares<C> shares;
  S* grad_x;
  static constexpr double* partial_sums = nullptr;

  struct Channels {
    typename Gradients<S>::Channels normal;
    Computed slope, shift;
  };
  __device__ __forceinline__ Channels channel(int64_t c, bool one_channel, Lanes lanes) const {
    Channels of{of_sums.channel(c, one_channel, lanes), {}, {}};
    each_channel<width>(c, one_channel, lanes, [&](int k, int64_t channel) {
      of.slope.lanes[k] = shares.slope[channel];
      of.shift.lanes[k] = shares.shift[channel];
    });
    return of;
  }
  using Loaded = typename Gradients<S>::Loaded;
  __device__ __forceinline__ Loaded load(int64_t i, Lanes lanes) const {
    if (!of_sums.grad_residual) return of_sums.load(i, lanes);
    return {cuda::load<width>(of_sums.x + i, lanes), cuda::load<width>(of_sums.grad_residual + i, lanes), {}};
  }
  __device__ __forceinline__ Computed finish(int64_t i, const Loaded& in, const Channels& of, Lanes lanes) const {
    TwoTerms<C, width> grad;
    if (of_sums.grad_residual) {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        grad.first.lanes[k] = widen(in.grad.lanes[k]);
        grad.second.lanes[k] = widen(in.x.lanes[k]) - of.normal.mean.lanes[k];
      }
    } else {
      grad = of_sums.gradients(in, of.normal);
    }
    Elements out;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C value = grad.first.lanes[k] * of.normal.scale.lanes[k];
      value -= grad.second.lanes[k] * of.slope.lanes[k] + of.shift.lanes[k];
      out.lanes[k] = narrow(Type<S>{}, value);
    }
    cuda::store(grad_x + i, out, lanes);
    return grad.first;
  }
};

// From the sums of all pieces: the gradients of weight and bias, and what grad_x takes.
template <class S>
__global__ void __launch_bounds__(kChannelThreads)
    gradient_sums_kernel(const double* sums, int64_t pieces, int64_t channels, int columns, NormNumbers<S> numbers,
                         double elements, bool of_batch, void* grad_weight, void* grad_bias,
                         Shares<ComputeType<S>> shares) {
  using C = ComputeType<S>;
  auto* of_channel = shared_array<double, kWarp>();
  int64_t c = int64_t(blockIdx.x) * columns + threadIdx.x % columns;
  int height = kChannelThreads / columns;
  LaneSums<double, 1> sum, product;
  if (c < channels)
    for (int64_t piece = threadIdx.x / columns; piece < pieces; piece += height) {
      sum.sum[0] += sums[piece * channels + c];
      product.sum[0] += sums[(pieces + piece) * channels + c];
    }
  sum_columns(sum, columns, [&](int lane, double total) { of_channel[lane] = total; });
  __syncthreads();  // they are there, and the first sums have been read
  sum_columns(product, columns, [&](int lane, double total) {
    int64_t channel = int64_t(blockIdx.x) * columns + lane;
    if (channel >= channels) return;
    auto put = [&](void* where, double value) {
      if (!where) return;
      if (numbers.wide_weight)
        static_cast<C*>(where)[channel] = C(value);
      else
        static_cast<S*>(where)[channel] = narrow(Type<S>{}, C(value));
    };
    double inverse = numbers.inverse_deviation(channel);
    put(grad_bias, of_channel[lane]);
    put(grad_weight, total * inverse);
    double along = of_batch ? double(numbers.scale(channel)) / elements : 0;
    shares.slope[channel] = C(along * inverse * inverse * total);
    shares.shift[channel] = C(along * of_channel[lane]);
  });
}

template <class S>
const char* forward(const BatchNormArgs& args, const ChannelShape& shape, cudaStream_t stream) {
  using C = ComputeType<S>;
  auto* x = static_cast<const S*>(args.x);
  auto* residual = static_cast<const S*>(args.residual);
  auto* y = static_cast<S*>(args.y);
  if (args.of_batch) {
    Pivot<S> pivot{x, shape.inner};
    Moments<S> moments{x, pivot, args.partial_sums};
    if (const char* error = sweep_channels(moments, shape, are_aligned(x), stream)) return error;
    constexpr int width = kPackWidth<S>;
    Pieces sizes{kPlaneRun, shape.inner, ceil_div(shape.inner, kPlaneRun), false};
    if (shape.inner == 1) {
      RowCut cut = cut_rows(shape, width);
      sizes = {cut.rows, shape.outer, cut.pieces, false};
    }
    const char* error = find_moments(static_cast<const double*>(args.partial_sums), sum_pieces(shape, width),
                                     shape.channels, sizes, double(shape.outer * shape.inner), pivot,
                                     static_cast<C*>(args.mean), static_cast<C*>(args.var), stream);
    if (error) return error;
  }
  if (!y) return nullptr;
  Forward<S> forward{{args.activation, args.parameters, NormNumbers<S>(args), x}, residual, y};
  return sweep_channels(forward, shape, are_aligned(x, residual, y), stream);
}

template <class S>
const char* backward(const BatchNormArgs& args, const ChannelShape& shape, cudaStream_t stream) {
  using C = ComputeType<S>;
  auto* x = static_cast<const S*>(args.x);
  auto* grad_y = static_cast<const S*>(args.grad_y);
  auto* output = static_cast<const S*>(args.output);
  auto* grad_residual = static_cast<S*>(args.grad_residual);
  auto* grad_x = static_cast<S*>(args.y);
  double* partial_sums = args.partial_sums;
  int64_t pieces = sum_pieces(shape, kPackWidth<S>);
  auto* shares_of = reinterpret_cast<C*>(partial_sums + 2 * pieces * shape.channels);
  Shares<C> shares{shares_of, shares_of + shape.channels};
  bool wants_output = saves_output(args.activation) && !output;
  Gradients<S> gradients{{args.activation, args.parameters, NormNumbers<S>(args), x},
                         grad_y,
                         output,
                         wants_output,
                         grad_residual,
                         partial_sums};
  bool aligned = are_aligned(x, grad_y, output, grad_residual);
  if (const char* error = sweep_channels(gradients, shape, aligned, stream)) return error;
  int columns = power_of_two(shape.channels, kWarp);
  const char* error =
      launch_kernel(gradient_sums_kernel<S>, ceil_div(shape.channels, columns), kChannelThreads, stream,
                    static_cast<const double*>(partial_sums), pieces, shape.channels, columns, NormNumbers<S>(args),
                    double(shape.outer * shape.inner), args.of_batch, args.grad_weight, args.grad_bias, shares);
  if (error) return error;
  return sweep_channels(InputGradient<S>{gradients, shares, grad_x}, shape, aligned && is_aligned(grad_x), stream);
}

}  // namespace

// Two sums a piece, and two numbers a channel.
int64_t scratch(const BatchNormArgs& args) {
  return 2 * sum_scratch({args.outer, args.channels, args.inner}) + 2 * args.channels;
}

const char* launch(const BatchNormArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  ChannelShape shape{args.outer, args.channels, args.inner};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    error = args.grad_y ? backward<S>(args, shape, stream) : forward<S>(args, shape, stream);
  });
  return error;
}

}  // namespace nnart::cuda

// What the strategies of convolution share: how the tensors lie, what follows the sum, and their entries.
#pragma once

#include "core/args.h"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/activations.h"

namespace nnart::cuda {

// The strides of a tensor in elements; space is depth, height and width.
struct ConvStrides {
  int64_t batch, channel, space[3];

  explicit ConvStrides(const ConvOperand& operand) : batch(operand.batch), channel(operand.channel) {
    for (int a = 0; a < 3; ++a) space[a] = operand.space[a];
  }
  __device__ __forceinline__ int64_t at(int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) const {
    return n * batch + c * channel + d * space[0] + h * space[1] + w * space[2];
  }
};

// Whether `width` neighbouring channels can move together through a tensor.
inline bool in_packs(const ConvOperand& operand, int width, int element_bytes) {
  bool fits = operand.channel == 1 && operand.batch % width == 0 &&
              reinterpret_cast<uintptr_t>(operand.data) % uintptr_t(width * element_bytes) == 0;
  for (int64_t stride : operand.space) fits = fits && stride % width == 0;
  return fits;
}

// Whether neighbouring channels are neighbours in memory, so that a warp goes along them and not along a line.
inline bool is_channels_last(const ConvArgs& args) { return args.x.channel == 1 && args.y.channel == 1; }

// The activation of one value. Not inlined: a switch over all of them would stand in every kernel. Its parameters come
// one by one, in registers.
template <class C>
__device__ __attribute__((noinline)) C activated(Activation activation, double a, double b, double c, C x) {
  with_activation<C>(activation, {a, b, c}, [&](auto function) { x = function.forward(x); });
  return x;
}

template <class S>
struct Epilogue {
  const S *bias, *residual;  // may be null; the residual lies as the result does
  bool bias_in_packs;        // its first element is at a multiple of them
  Activation activation;
  ActivationParameters parameters;

  explicit Epilogue(const ConvArgs& args)
      : bias(static_cast<const S*>(args.bias)),
        residual(args.finish ? static_cast<const S*>(args.finish->residual) : nullptr),
        bias_in_packs(reinterpret_cast<uintptr_t>(args.bias) % kAccessBytes == 0),
        activation(args.finish ? args.finish->activation : Activation::Identity),
        parameters(args.finish ? args.finish->parameters : ActivationParameters{}) {}

  // Of `width` channels from c on, which is a multiple of it.
  template <int width>
  __device__ __forceinline__ void store(S* result, int64_t at, int64_t c, const ComputeType<S> (&sums)[width]) const {
    using C = ComputeType<S>;
    Pack<S, width> rest, out, biases;
    if (residual) rest = cuda::load<width>(residual + at);
    if (bias && bias_in_packs) biases = cuda::load<width>(bias + c);
    if (bias && !bias_in_packs)
#pragma unroll
      for (int k = 0; k < width; ++k) biases.lanes[k] = bias[c + k];
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C value = sums[k];
      if (bias) value += widen(biases.lanes[k]);
      if (residual) value += widen(rest.lanes[k]);
      if (activation == Activation::Relu)
        value = math::at_least(value, C(0));
      else if (activation != Activation::Identity)
        value = activated(activation, parameters.a, parameters.b, parameters.c, value);
      out.lanes[k] = narrow(Type<S>{}, value);
    }
    cuda::store(result + at, out);
  }
};

// One file each.
const char* depthwise(const ConvArgs& args, cudaStream_t stream);
const char* depthwise_wgrad(const ConvArgs& args, cudaStream_t stream);
const char* gemm(const ConvArgs& args, cudaStream_t stream);

// The numbers that partial_sums of the weight's gradient must have room for.
int64_t depthwise_scratch(const ConvArgs& args);
int64_t gemm_scratch(const ConvArgs& args);

}  // namespace nnart::cuda

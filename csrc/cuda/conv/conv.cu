// Convolution, by the strategy that the plan chose.
#include "cuda/batch_norm.cuh"
#include "cuda/conv/operands.cuh"
#include "cuda/kernels.h"

namespace nnart::cuda {
namespace {

// An axis of one element has no stride worth the name, and torch may give it any: 0 fits packs of every width.
ConvArgs without_idle_strides(ConvArgs args) {
  auto clear = [](int64_t size, int64_t& stride) {
    if (size == 1) stride = 0;
  };
  clear(args.batch, args.x.batch);
  clear(args.batch, args.y.batch);
  for (int a = 0; a < 3; ++a) {
    clear(args.axis[a].in, args.x.space[a]);
    clear(args.axis[a].out, args.y.space[a]);
    clear(args.axis[a].kernel, args.weight.space[a]);
  }
  return args;
}

// conv + bias, normalized, is conv scale + shift.
template <class S>
__global__ void __launch_bounds__(kChannelThreads)
    scales_kernel(NormNumbers<S> numbers, const S* bias, int64_t channels, ComputeType<S>* scales) {
  using C = ComputeType<S>;
  int64_t c = int64_t(blockIdx.x) * kChannelThreads + threadIdx.x;
  if (c >= channels) return;
  C scale = numbers.scale(c), before = bias ? widen(bias[c]) : C(0);
  scales[c] = scale;
  scales[channels + c] = (before - numbers.mean[c]) * scale + numbers.given(numbers.bias, c, C(0));
}

const char* find_scales(const ConvArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    error = launch_kernel(scales_kernel<S>, ceil_div(args.out_channels, kChannelThreads), kChannelThreads, stream,
                          NormNumbers<S>(*args.norm), static_cast<const S*>(args.bias), args.out_channels,
                          scales_of<ComputeType<S>>(args));
  });
  return error;
}

bool has_scales(const ConvArgs& args) { return args.norm && !args.norm->of_batch; }

}  // namespace

bool takes_norm(const ConvArgs& args, bool of_batch) {
  return args.pass == ConvPass::Forward && (args.strategy == ConvStrategy::Gemm || !of_batch);
}

// Whole bytes of it are of one pixel.
bool takes_mask(const ConvArgs& args) {
  return args.pass == ConvPass::Forward && args.strategy == ConvStrategy::Gemm && args.y.channel == 1 &&
         args.out_channels / args.groups % kMaskBits == 0 && are_aligned(args.y.data, beside(args));
}

bool takes_grad_bias(const ConvArgs& args) { return args.strategy == ConvStrategy::Gemm; }

const char* launch(const ConvArgs& given, cudaStream_t stream) {
  ConvArgs args = without_idle_strides(given);
  if (has_scales(args))
    if (const char* error = find_scales(args, stream)) return error;
  switch (args.strategy) {
    case ConvStrategy::Gemm:
      return gemm(args, stream);
    case ConvStrategy::Depthwise:
      return args.pass == ConvPass::Wgrad ? depthwise_wgrad(args, stream) : depthwise(args, stream);
    default:
      return "no CUDA kernel computes a convolution by this strategy";
  }
}

int64_t scratch(const ConvArgs& args) {
  if (has_scales(args)) return 2 * args.out_channels;
  if (args.norm) return gemm_moments_scratch(args);
  if (args.pass != ConvPass::Wgrad) return 0;
  return args.strategy == ConvStrategy::Depthwise ? depthwise_scratch(args) : gemm_scratch(args);
}

}  // namespace nnart::cuda

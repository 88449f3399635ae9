// Convolution, by the strategy that the plan chose.
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

}  // namespace

const char* launch(const ConvArgs& given, cudaStream_t stream) {
  ConvArgs args = without_idle_strides(given);
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
  if (args.pass != ConvPass::Wgrad) return 0;
  return args.strategy == ConvStrategy::Depthwise ? depthwise_scratch(args) : gemm_scratch(args);
}

}  // namespace nnart::cuda

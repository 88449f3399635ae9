// Convolution, by the strategy that the plan chose.
#include "cuda/conv/operands.cuh"
#include "cuda/kernels.h"

namespace nnart::cuda {

const char* launch(const ConvArgs& args, cudaStream_t stream) {
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

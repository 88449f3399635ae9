// Convolution in one to three dimensions and its gradients. The general strategy is here: an implicit GEMM that takes
// every stride, padding, dilation, group count and layout, and whose sums have one order whatever the number of
// threads.
#include "cpu/conv/correlate.h"
#include "cpu/conv/strategies.h"
#include "cpu/conv/wgrad.h"
#include "cpu/kernels.h"

namespace nnart::cpu {

template <>
void Kernels<Isa::NNART_ISA>::launch(const ConvArgs& args) {
  if (args.strategy == ConvStrategy::Depthwise) return ConvStrategies<Isa::NNART_ISA>::depthwise(args);
  if (args.strategy == ConvStrategy::Grouped) return ConvStrategies<Isa::NNART_ISA>::grouped(args);
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (args.pass == ConvPass::Wgrad)
      WeightGradient<S>(args).run();
    else
      Correlation<S>(args).run();
  });
}

}  // namespace nnart::cpu

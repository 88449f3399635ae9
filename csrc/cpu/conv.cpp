// Convolution in one to three dimensions and its gradients. The general strategy is here: an implicit GEMM that takes
// every stride, padding, dilation, group count and layout, and whose sums have one order whatever the number of
// threads.
#include "cpu/conv/correlate.h"
#include "cpu/conv/strategies.h"
#include "cpu/conv/wgrad.h"
#include "cpu/kernels.h"

namespace nnart::cpu {
namespace {

// With operands in pairs, or false where they would gain nothing or cannot be made.
bool by_pairs([[maybe_unused]] const ConvArgs& args) {
#if defined(__AVX512F__)
  if (args.dtype != DType::BFloat16 || !multiplies_pairs()) return false;
  if (args.pass == ConvPass::Wgrad) {
    WeightGradient<BFloat16, BFloat16> gradient(args);
    if (gradient.along_pixels) gradient.run();
    return gradient.along_pixels;
  }
  bool forward = args.pass == ConvPass::Forward;
  int64_t sums = (forward ? args.in_channels : args.out_channels) / args.groups;
  if (!takes_pairs(forward ? args.x : args.y, sums)) return false;
  Correlation<BFloat16, Pair>(args).run();
  return true;
#else
  return false;
#endif
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const ConvArgs& args) {
  if (args.strategy == ConvStrategy::Depthwise) return ConvStrategies<Isa::NNART_ISA>::depthwise(args);
  if (args.strategy == ConvStrategy::Grouped) return ConvStrategies<Isa::NNART_ISA>::grouped(args);
  if (by_pairs(args)) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (args.pass == ConvPass::Wgrad)
      WeightGradient<S>(args).run();
    else
      Correlation<S>(args).run();
  });
}

}  // namespace nnart::cpu

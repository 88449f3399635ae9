// Depthwise convolution: one filter a channel. Nothing is summed over channels, so the vectors run along them and the
// work is bound by how often the tensors are read. Channels-last tensors are read where they lie; tensors of another
// layout are copied, a block of channels at a time, in the L2 cache, unless depthwise_planes*.cpp take them.
#include "cpu/conv/depthwise_passes.h"
#include "cpu/conv/strategies.h"

namespace nnart::cpu {

template <>
void ConvStrategies<Isa::NNART_ISA>::depthwise(const ConvArgs& args) {
  bool taken = args.pass == ConvPass::Wgrad ? depthwise_planes_wgrad(args) : depthwise_planes(args);
  if (!taken) run_depthwise<Itself>(args);
}

}  // namespace nnart::cpu

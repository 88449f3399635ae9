// Groups of 2, 4 or 8 channels, in and out: the depthwise passes, with each channel reading all of its group (Note
// [mix] in depthwise_blocks.h). A GEMM of so few columns would leave most lanes idle.
#include "cpu/conv/depthwise_passes.h"
#include "cpu/conv/strategies.h"

namespace nnart::cpu {

template <>
void ConvStrategies<Isa::NNART_ISA>::grouped(const ConvArgs& args) {
  run_depthwise<Mixed>(args);
}

}  // namespace nnart::cpu

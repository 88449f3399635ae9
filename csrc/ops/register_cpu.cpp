// The CPU's half of the registry, in _C.
#include "cpu/kernels.h"
#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {

void launch(const ActivationArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const ConvArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxPoolArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxPoolBackwardArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const PReluArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const SgdArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const AdamWArgs& args, const Tensor&) { cpu::launch(args); }

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CPU, library) {
  Library m(library);
  register_activation(m);
  register_conv(m);
  register_optimizers(m);
  register_pooling(m);
  register_prelu(m);
}

}  // namespace nnart

// The CPU's half of the registry, in _C.
#include "cpu/kernels.h"
#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {

void launch(const ActivationArgs& args, const Tensor&) { cpu::launch(args); }

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CPU, m) { register_activation(m); }

}  // namespace nnart

// The door from ops/ to the kernels of one device. Both shared objects link the same ops; register_cpu.cpp defines
// these functions in _C, register_cuda.cpp in _cuda. `on` is a tensor of the call: its device and current stream are
// used.
#pragma once

#include "core/args.h"
#include "ops/checks.h"

namespace nnart {

void launch(const ActivationArgs&, const Tensor& on);
void launch(const ConvArgs&, const Tensor& on);
void launch(const MaxPoolArgs&, const Tensor& on);
void launch(const MaxPoolBackwardArgs&, const Tensor& on);
void launch(const PReluArgs&, const Tensor& on);
void launch(const SgdArgs&, const Tensor& on);
void launch(const AdamWArgs&, const Tensor& on);

}  // namespace nnart

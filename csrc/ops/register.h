// Each family names its kernels to the dispatcher in one function; register_cpu.cpp and register_cuda.cpp call those
// that their device has.
#pragma once

#include <torch/csrc/stable/library.h>

namespace nnart {

using Library = torch::stable::detail::StableLibrary;

void register_activation(Library&);
void register_conv(Library&);
void register_optimizers(Library&);
void register_pooling(Library&);
void register_prelu(Library&);

}  // namespace nnart

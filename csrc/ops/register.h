// Each family names its kernels to the dispatcher in one function; register_cpu.cpp, register_cuda.cpp and
// register_emulated.cpp call those that their device has.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace nnart {

// Note [two overloads]
// Every op is there twice, with one kernel. `nnart_ops::x` is what users, torch.compile and torch.export call: it has
// autograd and autocast. `nnart_ops::x.kernel` has neither, so that our own autograd Functions reach the kernel without
// a guard that excludes those keys for the call, which costs a small tensor 0.5 us each time.
constexpr const char* kKernelOverload = ".kernel";

using StableLibrary = torch::stable::detail::StableLibrary;

class Library {
 public:
  explicit Library(StableLibrary& library) : library_(library) {}
  template <class Function>
  void impl(const std::string& name, Function function) {
    library_.impl(name.c_str(), function);
    library_.impl((name + kKernelOverload).c_str(), function);
  }

 private:
  StableLibrary& library_;
};

void register_activation(Library&);
void register_masked_activation(Library&);
void register_optimizers(Library&);
void register_pooling(Library&);
void register_prelu(Library&);
void register_rrelu(Library&);
void register_bias_activation(Library&);
void register_batch_norm(Library&);
void register_dropout(Library&);
void register_gated(Library&);
void register_softmax(Library&);
void register_cross_entropy(Library&);

// All of those: the families that every device has.
inline void register_families(Library& m) {
  register_activation(m);
  register_masked_activation(m);
  register_optimizers(m);
  register_pooling(m);
  register_prelu(m);
  register_rrelu(m);
  register_bias_activation(m);
  register_batch_norm(m);
  register_dropout(m);
  register_gated(m);
  register_softmax(m);
  register_cross_entropy(m);
}

void register_conv(Library&);
void register_held_tensors(Library&);

}  // namespace nnart

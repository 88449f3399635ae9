// CUDA's half of the registry, in _cuda, which is loaded only beside a CUDA build of torch.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/kernels.h"
#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

// Runs launch on the tensor's device and its current stream, and turns a CUDA error into an exception.
template <class Args>
void launch_on(const Args& args, const Tensor& on) {
  torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  const char* error = cuda::launch(args, static_cast<cudaStream_t>(stream));
  check(error == nullptr, "CUDA kernel launch failed: ", error ? error : "");
}

// The ops of these families are in this object but not in its registry: nothing calls them for a CUDA tensor.
[[noreturn]] void no_kernel(const char* family) { throw std::logic_error(std::string(family) + " has no CUDA kernel"); }

}  // namespace

bool native_conv_is_fast(DType) { return true; }
int64_t vector_bytes() { return 0; }

void launch(const ActivationArgs& args, const Tensor& on) { launch_on(args, on); }

void launch(const MaskedActivationArgs&, const Tensor&) { no_kernel("masked_activation"); }
void launch(const ConvArgs&, const Tensor&) { no_kernel("conv"); }
void launch(const MaxPoolArgs&, const Tensor&) { no_kernel("max_pool"); }
void launch(const MaxPoolBackwardArgs&, const Tensor&) { no_kernel("max_pool_backward"); }
void launch(const MaxPoolIndicesArgs&, const Tensor&) { no_kernel("max_pool_indices"); }
void launch(const MaxUnpoolArgs&, const Tensor&) { no_kernel("max_unpool"); }
void launch(const AvgPoolArgs&, const Tensor&) { no_kernel("avg_pool"); }
void launch(const PReluArgs&, const Tensor&) { no_kernel("prelu"); }
void launch(const RReluArgs&, const Tensor&) { no_kernel("rrelu"); }
void launch(const BiasActivationArgs&, const Tensor&) { no_kernel("bias_activation"); }
void launch(const DropoutArgs&, const Tensor&) { no_kernel("dropout"); }
void launch(const GatedArgs&, const Tensor&) { no_kernel("gated"); }
void launch(const SoftmaxArgs&, const Tensor&) { no_kernel("softmax"); }
void launch(const CrossEntropyArgs&, const Tensor&) { no_kernel("cross_entropy"); }
void launch(const OptimizerArgs&, const Tensor&) { no_kernel("optimizer_step_"); }

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CUDA, library) {
  Library m(library);
  register_activation(m);
}

}  // namespace nnart

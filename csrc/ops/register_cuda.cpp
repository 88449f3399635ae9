// CUDA's half of the registry, in _cuda, which is loaded only beside a CUDA build of torch.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/kernels.h"
#include "ops/conv_plan.h"
#include "ops/launch.h"
#include "ops/register.h"
#include "ops/tf32.h"

namespace nnart {
namespace {

cudaStream_t stream_of(const Tensor& on) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Runs launch on the tensor's device and its current stream, and turns a CUDA error into an exception.
template <class Args>
void launch_on(const Args& args, const Tensor& on) {
  torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  const char* error = cuda::launch(args, stream_of(on));
  check(error == nullptr, "CUDA kernel launch failed: ", error ? error : "");
}

}  // namespace

bool native_conv_is_fast(DType) { return true; }
bool gemm_is_fast(DType) { return false; }
bool matmul_is_slow() { return false; }
int64_t vector_bytes() { return 0; }
bool keeps_table(const Tensor&) { return true; }

// Waiting is an error while a graph is captured.
bool can_wait_for(const Tensor& on) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream_of(on), &status) == cudaSuccess && status == cudaStreamCaptureStatusNone;
}
void wait_for(const Tensor& on) {
  cudaError_t error = cudaStreamSynchronize(stream_of(on));
  check(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
}

bool has_kernel(ConvStrategy strategy) { return strategy == ConvStrategy::Depthwise || strategy == ConvStrategy::Gemm; }
bool takes_norm(const ConvArgs& args, bool of_batch) { return cuda::takes_norm(args, of_batch); }
bool takes_mask(const ConvArgs& args) { return cuda::takes_mask(args); }
bool takes_grad_bias(const ConvArgs& args) { return cuda::takes_grad_bias(args); }

int64_t scratch(const PReluArgs& args) { return cuda::scratch(args); }
int64_t scratch(const BiasActivationArgs& args) { return cuda::scratch(args); }
int64_t scratch(const BatchNormArgs& args) { return cuda::scratch(args); }
int64_t scratch(const CrossEntropyArgs& args) { return cuda::scratch(args); }
int64_t scratch(const ConvArgs& args) { return cuda::scratch(args); }

void launch(const ActivationArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const MaskedActivationArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const MaxPoolArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const MaxPoolBackwardArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const MaxPoolIndicesArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const MaxUnpoolArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const AvgPoolArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const PReluArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const RReluArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const BiasActivationArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const BatchNormArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const DropoutArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const GatedArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const SoftmaxArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const CrossEntropyArgs& args, const Tensor& on) { launch_on(args, on); }
void launch(const OptimizerArgs& args, const Tensor& on) { launch_on(args, on); }

void launch(const ConvArgs& args, const Tensor& on) { launch_on(args, on); }

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CUDA, library) {
  Library m(library);
  register_families(m);
  register_conv(m);
}

}  // namespace nnart

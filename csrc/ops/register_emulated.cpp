// The registry of the emulated _C: CPU tensors go to the CUDA kernels, which csrc/emulation runs. Families without any
// go to the CPU's.
#include "core/optimizer_memory.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "ops/launch.h"
#include "ops/register.h"
#include "ops/tf32.h"

namespace nnart {
namespace {

template <class Args>
void launch_here(const Args& args) {
  const char* error = cuda::launch(args, nullptr);
  check(error == nullptr, "CUDA kernel launch failed: ", error ? error : "");
}

}  // namespace

bool native_conv_is_fast(DType dtype) { return dtype == DType::Float32; }
bool gemm_is_fast(DType dtype) { return dtype == DType::Float32; }
bool matmul_is_slow() { return false; }
int64_t vector_bytes() { return 16; }
bool keeps_table(const Tensor&) { return true; }
bool can_wait_for(const Tensor&) { return true; }
void wait_for(const Tensor&) {}  // a call returns when it is done

bool has_kernel(ConvStrategy) { return true; }
bool takes_norm(const ConvArgs& args, bool of_batch) { return cuda::takes_norm(args, of_batch); }
bool takes_mask(const ConvArgs& args) { return cuda::takes_mask(args); }
bool takes_grad_bias(const ConvArgs& args) { return cuda::takes_grad_bias(args); }

int64_t scratch(const PReluArgs& args) { return cuda::scratch(args); }
int64_t scratch(const BiasActivationArgs& args) { return cuda::scratch(args); }
int64_t scratch(const BatchNormArgs& args) { return cuda::scratch(args); }
int64_t scratch(const CrossEntropyArgs& args) { return cuda::scratch(args); }
int64_t scratch(const ConvArgs& args) { return cuda::scratch(args); }

// With a residual or a bias it is of a convolution that is not depthwise, and so the CPU's.
void launch(const ActivationArgs& args, const Tensor&) {
  if (args.residual || args.bias) return cpu::launch(args);
  launch_here(args);
}
void launch(const MaskedActivationArgs& args, const Tensor&) { launch_here(args); }
void launch(const MaxPoolArgs& args, const Tensor&) { launch_here(args); }
void launch(const MaxPoolBackwardArgs& args, const Tensor&) { launch_here(args); }
void launch(const MaxPoolIndicesArgs& args, const Tensor&) { launch_here(args); }
void launch(const MaxUnpoolArgs& args, const Tensor&) { launch_here(args); }
void launch(const AvgPoolArgs& args, const Tensor&) { launch_here(args); }
void launch(const PReluArgs& args, const Tensor&) { launch_here(args); }
void launch(const RReluArgs& args, const Tensor&) { launch_here(args); }
void launch(const BiasActivationArgs& args, const Tensor&) { launch_here(args); }
void launch(const BatchNormArgs& args, const Tensor&) { launch_here(args); }
void launch(const DropoutArgs& args, const Tensor&) { launch_here(args); }
void launch(const GatedArgs& args, const Tensor&) { launch_here(args); }
void launch(const SoftmaxArgs& args, const Tensor&) { launch_here(args); }
void launch(const CrossEntropyArgs& args, const Tensor&) { launch_here(args); }

void launch(const ConvArgs& args, const Tensor&) {
  if (args.strategy == ConvStrategy::Grouped) return cpu::launch(args);
  launch_here(args);
}

// The caller is one for a CPU: it waits for what the step decides, and counts steps in its own rows.
void launch(const OptimizerArgs& args, const Tensor&) {
  float decision[2] = {};
  OptimizerArgs here = args;
  here.decision = decision;
  launch_here(here);
  OptimizerMemory memory(args.table->memory, args);
  for (int64_t r = 0; r < args.row_count; ++r) args.rows[r].steps = memory.rows[r].steps;
  *args.result = {double(decision[0]), decision[1] == 0};
}

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CPU, library) {
  Library m(library);
  register_families(m);
  register_conv(m);
  register_held_tensors(m);
}

}  // namespace nnart

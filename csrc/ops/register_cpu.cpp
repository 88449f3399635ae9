// The CPU's half of the registry, in _C.
#include <array>

#include "cpu/kernels.h"
#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {

// oneDNN has bfloat16 kernels from AVX-512 on, float16 ones only where the CPU computes in float16, float64 ones never.
bool native_conv_is_fast(DType dtype) {
  return dtype == DType::Float32 || (dtype == DType::BFloat16 && cpu::isa() == cpu::Isa::avx512);
}

bool gemm_is_fast(DType dtype) {
  return dtype == DType::Float32 || (dtype == DType::BFloat16 && cpu::multiplies_pairs());
}

bool matmul_is_slow() { return cpu::isa() == cpu::Isa::avx512 && !cpu::halves_vectors(); }

int64_t vector_bytes() {
  switch (cpu::isa()) {
    case cpu::Isa::avx512:
      return 64;
    case cpu::Isa::avx2:
      return 32;
    case cpu::Isa::baseline:
      return 16;
  }
  return 0;
}

bool keeps_table(const Tensor& on) { return !on.is_cpu(); }

bool can_wait_for(const Tensor&) { return true; }
void wait_for(const Tensor&) {}  // a call returns when it is done

bool has_kernel(ConvStrategy) { return true; }
bool takes_norm(const ConvArgs&, bool) { return false; }
bool takes_mask(const ConvArgs&) { return false; }
bool takes_grad_bias(const ConvArgs& args) {
  return args.strategy == ConvStrategy::Depthwise || args.strategy == ConvStrategy::Grouped;
}
bool allows_tf32() { return false; }

int64_t scratch(const ConvArgs&) { return 0; }
int64_t scratch(const PReluArgs& args) { return prelu_tasks(args.outer, args.inner) * args.channels; }
int64_t scratch(const BiasActivationArgs& args) {
  return piece_count(args.outer, args.inner, args.channels) * args.channels;
}
int64_t scratch(const BatchNormArgs& args) {
  return args.inner == 1 ? 2 * piece_count(args.outer, 1, args.channels) * args.channels : 0;
}
int64_t scratch(const CrossEntropyArgs& args) { return 2 * loss_tasks(args.outer, args.classes, args.inner); }

void launch(const ActivationArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaskedActivationArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const ConvArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxPoolArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxPoolBackwardArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxPoolIndicesArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const MaxUnpoolArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const AvgPoolArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const PReluArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const RReluArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const BiasActivationArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const BatchNormArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const DropoutArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const GatedArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const SoftmaxArgs& args, const Tensor&) { cpu::launch(args); }
void launch(const CrossEntropyArgs& args, const Tensor&) { cpu::launch(args); }

// The plans of optim/ are in _C whatever their device: the dispatcher knows whose kernels are called.
void launch(const OptimizerArgs& args, const Tensor& on) {
  if (on.is_cpu()) return cpu::launch(args);
  std::array<StableIValue, 2> stack{torch::stable::detail::from(on),
                                    torch::stable::detail::from(reinterpret_cast<int64_t>(&args))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("nnart_ops::optimizer_launch_", "kernel", stack.data(), TORCH_ABI_VERSION));
}

STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CPU, library) {
  Library m(library);
  register_families(m);
  register_conv(m);
  register_held_tensors(m);
}

// What is held is held here, for the plans that are here.
STABLE_TORCH_LIBRARY_IMPL(nnart_ops, CUDA, library) {
  Library m(library);
  register_held_tensors(m);
}

}  // namespace nnart

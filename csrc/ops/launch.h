// The door from ops/ to the kernels of one device. Both shared objects link the same ops; register_cpu.cpp defines
// these functions in _C, register_cuda.cpp in _cuda. `on` is a tensor of the call: its device and current stream are
// used.
#pragma once

#include "core/args.h"
#include "ops/checks.h"

namespace nnart {

struct OptimizerArgs;

// Whether torch's own convolution of this dtype is vectorized on this machine: where it is not, it is slower by orders
// of magnitude.
bool native_conv_is_fast(DType dtype);

// Whether our GEMM multiplies this dtype at the rate that oneDNN does.
bool gemm_is_fast(DType dtype);

// Whether torch's matrix product of float32, outside oneDNN, falls behind the machine's rate: its library goes no wider
// than 32 bytes on AMD's processors.
bool matmul_is_slow();

// Whether this device has a kernel for a strategy of ours.
bool has_kernel(ConvStrategy);

// Whether this device's kernel of a convolution, whose y is known, does what its args' norm says, or writes its mask,
// or its grad_bias.
bool takes_norm(const ConvArgs&, bool of_batch);
bool takes_mask(const ConvArgs&);
bool takes_grad_bias(const ConvArgs&);

// Whether float32 convolutions on this device may multiply in TF32: torch's switch, as it stands.
bool allows_tf32();

// The bytes of a vector register in the kernels in use, 0 where they have none.
int64_t vector_bytes();

// Whether one may wait for the work of that tensor's device now, and the waiting.
bool can_wait_for(const Tensor& on);
void wait_for(const Tensor& on);

// Whether the kernels of that tensor's device want an optimizer's table in its memory.
bool keeps_table(const Tensor& on);

// The numbers that the args' partial_sums must have room for, on the device.
int64_t scratch(const PReluArgs&);
int64_t scratch(const BiasActivationArgs&);
int64_t scratch(const BatchNormArgs&);
int64_t scratch(const CrossEntropyArgs&);
int64_t scratch(const ConvArgs&);

void launch(const ActivationArgs&, const Tensor& on);
void launch(const MaskedActivationArgs&, const Tensor& on);
void launch(const ConvArgs&, const Tensor& on);
void launch(const MaxPoolArgs&, const Tensor& on);
void launch(const MaxPoolBackwardArgs&, const Tensor& on);
void launch(const MaxPoolIndicesArgs&, const Tensor& on);
void launch(const MaxUnpoolArgs&, const Tensor& on);
void launch(const AvgPoolArgs&, const Tensor& on);
void launch(const PReluArgs&, const Tensor& on);
void launch(const RReluArgs&, const Tensor& on);
void launch(const BiasActivationArgs&, const Tensor& on);
void launch(const BatchNormArgs&, const Tensor& on);
void launch(const DropoutArgs&, const Tensor& on);
void launch(const GatedArgs&, const Tensor& on);
void launch(const SoftmaxArgs&, const Tensor& on);
void launch(const CrossEntropyArgs&, const Tensor& on);
void launch(const OptimizerArgs&, const Tensor& on);

}  // namespace nnart

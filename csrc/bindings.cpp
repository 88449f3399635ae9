// The pybind11 module _C. Importing it loads this shared object, whose static initialisers register the ops; its
// functions report how it was built and keep what lives from step to step. Tensors reach C++ through torch.ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "build_facts.h"
#include "cpu/kernels.h"
#include "ops/conv_plan.h"

namespace nnart {
void bind_optimizers(pybind11::module_&);  // optimizer_bindings.cpp
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled half of nnart_ops: importing it registers torch.ops.nnart_ops.";
  m.def(
      "build_facts",
      [] {
        namespace build = nnart::build;
        pybind11::dict facts;
        facts["version"] = build::kVersion;
        facts["compiler"] = build::kCompiler;
        facts["build_type"] = build::kBuildType;
        facts["torch_built"] = build::kTorchBuilt;
        facts["torch_minimum"] = build::kTorchMinimum;
        facts["cuda_compiler"] = build::kCudaCompiler;
        facts["cuda_architectures"] = build::kCudaArchitectures;
        facts["cpu_isa_variants"] = build::kIsaVariants;
        return facts;
      },
      "How this binary was built: dict[str, str].");
  m.def(
      "cpu_isa", [] { return nnart::cpu::name_of(nnart::cpu::isa()); },
      "The instruction set in use: 'baseline', 'avx2' or 'avx512'.");
  m.def(
      "cpu_traits",
      [] {
        std::string traits;
        if (nnart::cpu::halves_vectors()) traits += "halves_vectors ";
        if (nnart::cpu::multiplies_pairs()) traits += "multiplies_pairs ";
        if (traits.empty()) return std::string("none");
        traits.pop_back();
        return traits;
      },
      "What else is true of the CPU with these instructions: 'halves_vectors', 'multiplies_pairs', both or 'none'.");
  pybind11::enum_<nnart::DType>(m, "DType")
      .value("float32", nnart::DType::Float32)
      .value("float64", nnart::DType::Float64)
      .value("bfloat16", nnart::DType::BFloat16)
      .value("float16", nnart::DType::Float16);
  pybind11::enum_<nnart::ConvPass>(m, "ConvPass")
      .value("forward", nnart::ConvPass::Forward)
      .value("dgrad", nnart::ConvPass::Dgrad)
      .value("wgrad", nnart::ConvPass::Wgrad);
  using Sizes = std::vector<int64_t>;
  m.def(
      "plan_is_native",
      [](nnart::DType dtype, bool channels_last, bool weight_channels_last, const Sizes& x, const Sizes& weight,
         const Sizes& stride, const Sizes& padding, const Sizes& dilation, int64_t groups, bool transposed,
         bool has_bias, const std::vector<nnart::ConvPass>& wanted) {
        return nnart::plan_is_native({dtype, channels_last, weight_channels_last, x, weight, stride, padding, dilation,
                                      groups, transposed, has_bias},
                                     wanted);
      },
      "Whether the plan leaves the wanted passes of a convolution to torch's own kernels; None while it is to "
      "measure.");
  nnart::bind_optimizers(m);
}

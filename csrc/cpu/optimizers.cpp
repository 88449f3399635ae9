// Optimizers: the multi-tensor loop over the rules of math/optimizers.h.
#include "math/optimizers.h"

#include "cpu/kernels.h"
#include "cpu/multi_tensor.h"

namespace nnart::cpu {
namespace {

template <class S, math::SgdTerms terms>
void update(const SgdArgs& args) {
  math::Sgd<ComputeType<S>, terms> rule(args.parameters);
  update_all<S, terms.momentum ? 3 : 2>(args.table, [&](int64_t) { return rule; });
}

template <class S, int operands>
void update(const AdamWArgs& args) {
  update_all<S, operands>(args.table, [&](int64_t row) { return math::AdamW<ComputeType<S>>(args.parameters[row]); });
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const SgdArgs& args) {
  if (args.table.n == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    bool decay = args.parameters.weight_decay != 0;
    if (!args.has_momentum)
      decay ? update<S, {true, false, false}>(args) : update<S, {false, false, false}>(args);
    else if (!args.parameters.nesterov)
      decay ? update<S, {true, true, false}>(args) : update<S, {false, true, false}>(args);
    else
      decay ? update<S, {true, true, true}>(args) : update<S, {false, true, true}>(args);
  });
}

template <>
void Kernels<Isa::NNART_ISA>::launch(const AdamWArgs& args) {
  if (args.table.n == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    args.amsgrad ? update<S, 5>(args) : update<S, 4>(args);
  });
}

}  // namespace nnart::cpu

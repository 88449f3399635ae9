// Batch normalization with what follows it, y = f((x - mean) weight / sqrt(var + eps) + bias + residual), and its
// gradients: one sweep for the sums of a channel and one that uses them.
#include "cpu/batch_norm/planes.h"
#include "cpu/batch_norm/rows.h"
#include "cpu/kernels.h"

namespace nnart::cpu {

template <>
void Kernels<Isa::NNART_ISA>::launch(const BatchNormArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    Scratch<C> numbers(Use::tables, Table<S>::size(args.channels));
    Table<S> table{args, numbers.data()};
    with_fused_activation<C>(args.activation, args.parameters, [&](auto activation) {
      Elementwise<S, decltype(activation)> elements(args, activation);
      if (args.inner == 1)
        Rows<S, decltype(activation)>{args, elements, table}.all();
      else
        Planes<S, decltype(activation)>{args, elements, table}.all();
    });
  });
}

}  // namespace nnart::cpu

// Element-wise activations: the map loop over the functors of math/activations.h.
#include "cpu/kernels.h"
#include "cpu/map.h"

namespace nnart::cpu {
namespace {

template <class S, class F>
void forward(const ActivationArgs& args, F activation) {
  auto* y = static_cast<S*>(args.y);
  Elements<S> x{static_cast<const S*>(args.x)};
  if (args.residual)
    map(
        y, args.n, [activation](auto a, auto b) { return activation.forward(a + b); }, x,
        Elements<S>{static_cast<const S*>(args.residual)});
  else
    map(y, args.n, [activation](auto a) { return activation.forward(a); }, x);
}

template <class S, class F>
void backward(const ActivationArgs& args, F activation) {
  auto derivative = [activation](auto grad_y, auto saved) { return activation.backward(grad_y, saved); };
  auto* grad_x = static_cast<S*>(args.y);
  auto* grad_y = static_cast<const S*>(args.grad_y);
  Elements<S> saved{static_cast<const S*>(args.x)};
  if (args.grad_y_is_one_value)
    map(grad_x, args.n, derivative, OneValue<S>(grad_y), saved);
  else
    map(grad_x, args.n, derivative, Elements<S>{grad_y}, saved);
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const ActivationArgs& args) {
  if (args.n == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    with_activation<ComputeType<S>>(args.activation, args.parameters, [&](auto activation) {
      if (args.grad_y)
        backward<S>(args, activation);
      else
        forward<S>(args, activation);
    });
  });
}

}  // namespace nnart::cpu

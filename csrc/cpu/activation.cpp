// Element-wise activations: the map loop over the functors of math/activations.h.
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

constexpr int64_t kBiasRow = 1024;

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

// f of rows that begin with the same bias: of one channel's pixels, or of pixels with all their channels.
template <class S, class F>
void forward_with_bias(const ActivationArgs& args, F activation) {
  auto* bias = static_cast<const S*>(args.bias);
  bool one_bias = args.bias_inner > 1;  // a row
  int64_t pixels = one_bias ? 0 : ceil_div(kBiasRow, args.bias_channels);
  int64_t row = one_bias ? args.bias_inner : pixels * args.bias_channels;
  Scratch<S> repeated(Use::bias, pixels * args.bias_channels);
  for (int64_t i = 0; i < pixels; ++i)
    std::memcpy(repeated.data() + i * args.bias_channels, bias, size_t(args.bias_channels) * sizeof(S));
  parallel_for(ceil_div(args.n, row), ceil_div(kMapGrainBlocks * kMapBlock, row), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      int64_t n = least(row, args.n - r * row);
      auto* y = static_cast<S*>(args.y) + r * row;
      Elements<S> x{static_cast<const S*>(args.x) + r * row};
      auto run = [&](auto value) {
        if (args.residual)
          map_range(
              y, 0, n, [activation](auto a, auto b, auto c) { return activation.forward(a + b + c); }, x, value,
              Elements<S>{static_cast<const S*>(args.residual) + r * row});
        else
          map_range(y, 0, n, [activation](auto a, auto b) { return activation.forward(a + b); }, x, value);
      };
      if (one_bias)
        run(OneValue<S>(bias + r % args.bias_channels));
      else
        run(Elements<S>{repeated.data()});
    }
  });
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
    auto from_output = [&](auto activation) { backward<S>(args, activation); };
    if (args.from_output && with_derivative_from_output<ComputeType<S>>(args.activation, args.parameters, from_output))
      return;
    with_activation<ComputeType<S>>(args.activation, args.parameters, [&](auto activation) {
      if (args.grad_y)
        backward<S>(args, activation);
      else if (args.bias)
        forward_with_bias<S>(args, activation);
      else
        forward<S>(args, activation);
    });
  });
}

}  // namespace nnart::cpu

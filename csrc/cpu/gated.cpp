// Gated activations, value f(gate): the forward reads both once, the backward reads three tensors and writes two.
#include "cpu/kernels.h"
#include "cpu/map.h"

namespace nnart::cpu {
namespace {

// Elements of a row that are a unit of work.
constexpr int64_t kGatedPiece = 4 * kMapBlock;

template <class V>
struct Gradients {
  V value, gate;
};

// The gradients of value and gate. Where f's derivative is read from its output, that is computed here in any case.
template <class F>
struct GatedBackward {
  F activation;
  bool from_output;

  template <class V>
  NNART_HD Gradients<V> operator()(V grad_y, V value, V gate) const {
    V opened = activation.forward(gate);
    return {grad_y * opened, activation.backward(grad_y * value, from_output ? opened : gate)};
  }
};

// A map with two results.
template <class S, class F, class Grad>
NNART_HD void backward_range(S* grad_value, S* grad_gate, bool past_caches, int64_t n, F f, Grad grad_y,
                             Elements<S> value, Elements<S> gate) {
  constexpr int64_t width = Working<S>::size;
  using C = ComputeType<S>;
  auto places = reinterpret_cast<uintptr_t>(grad_value) | reinterpret_cast<uintptr_t>(grad_gate);
  past_caches = past_caches && places % kVectorBytes == 0;
  int64_t i = 0;
  if constexpr (std::is_same_v<S, BFloat16>) {
    for (; i + 2 * width <= n; i += 2 * width) {
      EvenOdd grads = grad_y.pair_at(i), values = value.pair_at(i), gates = gate.pair_at(i);
      auto even = f(grad_y.of(grads, false), value.of(values, false), gate.of(gates, false));
      auto odd = f(grad_y.of(grads, true), value.of(values, true), gate.of(gates, true));
      store_even_odd(grad_value + i, {Vec<float>(even.value.v), Vec<float>(odd.value.v)}, past_caches);
      store_even_odd(grad_gate + i, {Vec<float>(even.gate.v), Vec<float>(odd.gate.v)}, past_caches);
    }
  }
  for (; i + width <= n; i += width) {
    auto both = f(grad_y.at(i), value.at(i), gate.at(i));
    if (past_caches) {
      store_past_caches(grad_value + i, Vec<C>(both.value.v));
      store_past_caches(grad_gate + i, Vec<C>(both.gate.v));
    } else {
      store_streaming(grad_value + i, Vec<C>(both.value.v));
      store_streaming(grad_gate + i, Vec<C>(both.gate.v));
    }
  }
  if (int64_t count = n - i; count > 0) {
    auto both = f(grad_y.partial(i, count), value.partial(i, count), gate.partial(i, count));
    store_partial(grad_value + i, Vec<C>(both.value.v), count);
    store_partial(grad_gate + i, Vec<C>(both.gate.v), count);
  }
}

template <class S, class F>
NNART_HD void run(const GatedArgs& args, F activation) {
  int64_t pieces = ceil_div(args.run, kGatedPiece), piece_size = least(args.run, kGatedPiece);
  bool from_output = saves_output(args.activation);
  auto all = [&](const auto& piece) {
    parallel_for(
        args.rows * pieces, ceil_div(kMapGrainBlocks * kMapBlock, piece_size), [&](int64_t first, int64_t last) {
          bool large = (last - first) * piece_size * int64_t(sizeof(S)) >= past_caches_bytes();
          for (int64_t task = first; task < last; ++task) {
            int64_t row = task / pieces, begin = task % pieces * kGatedPiece;
            piece(row * args.step + begin, row * args.run + begin, least(kGatedPiece, args.run - begin), large);
          }
          if (large) finish_stores();
        });
  };
  auto* value = static_cast<const S*>(args.value);
  auto* gate = static_cast<const S*>(args.gate);
  if (!args.grad_y) {
    auto product = [activation](auto v, auto g) { return v * activation.forward(g); };
    all([&](int64_t in, int64_t out, int64_t n, bool large) {
      map_range_stored(static_cast<S*>(args.y) + out, large, 0, n, product, Elements<S>{value + in},
                       Elements<S>{gate + in});
    });
    return;
  }
  auto* grad_y = static_cast<const S*>(args.grad_y);
  all([&](int64_t in, int64_t out, int64_t n, bool large) {
    auto derive = [&](auto grad) {
      backward_range(static_cast<S*>(args.grad_value) + in, static_cast<S*>(args.grad_gate) + in, large, n,
                     GatedBackward<F>{activation, from_output}, grad, Elements<S>{value + in}, Elements<S>{gate + in});
    };
    if (args.grad_y_is_one_value)
      derive(OneValue<S>(grad_y));
    else
      derive(Elements<S>{grad_y + out});
  });
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const GatedArgs& args) {
  if (args.rows * args.run == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    with_activation<ComputeType<S>>(args.activation, args.parameters,
                                    [&](auto activation) { run<S>(args, activation); });
  });
}

}  // namespace nnart::cpu

// y = value f(gate): `gated` and `gated_backward`.
#include <optional>
#include <tuple>
#include <vector>

#include "ops/activation.h"
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

using Optional = std::optional<Tensor>;

// What both passes do with their arguments. Where value and gate are halves of x, those of a row lie side by side.
struct Halves {
  GatedArgs args{};
  Tensor x, gate;
  std::vector<int64_t> y_sizes;
  size_t item = 0;  // bytes of an element

  Halves(const Tensor& x_, const Optional& gate_, const std::string& activation, const std::vector<double>& parameters,
         int64_t dim, bool gate_first, const Order& order, const char* op)
      : x(x_), gate(gate_ ? *gate_ : x_), y_sizes(x_.sizes().begin(), x_.sizes().end()) {
    args.dtype = dtype_of(x, op, "x");
    args.activation = activation_of(activation, op);
    args.parameters = parameters_of(parameters, op);
    check_order(order, x, op);
    item = args.dtype == DType::Float64 ? 8 : args.dtype == DType::Float32 ? 4 : 2;
    bool packed = !gate_;
    if (packed) {
      check(dim >= 0 && dim < x.dim(), op, ": dim must be a dimension of x, which has ", x.dim(), ", but is ", dim);
      check(x.size(dim) % 2 == 0, op, ": x must have an even size in dimension ", dim, ", but has sizes ", x.sizes());
      y_sizes[size_t(dim)] /= 2;
    } else {
      check_same_dtype(x, "x", gate, "gate", op);
      check_same_sizes(x, "x", gate, "gate", op);
    }
    x = laid_in(order, x);
    gate = packed ? x : laid_in(order, gate);
    args.rows = args.run = 1;
    bool before = packed;
    for (int64_t k = 0; k < x.dim(); ++k) {
      int64_t d = order.empty() ? k : order[size_t(k)];
      before = before && d != dim;
      (before ? args.rows : args.run) *= y_sizes[size_t(d)];
    }
    args.step = packed ? 2 * args.run : args.run;
    second_ = packed ? args.run : 0;
    gate_first_ = gate_first;
    args.value = value_of(x);
    args.gate = gate_of(gate);
  }

  void* value_of(const Tensor& t) const { return at(t, gate_first_ ? second_ : 0); }
  void* gate_of(const Tensor& t) const { return at(t, gate_first_ ? 0 : second_); }

 private:
  int64_t second_ = 0;
  bool gate_first_ = false;
  void* at(const Tensor& t, int64_t i) const { return static_cast<char*>(t.data_ptr()) + size_t(i) * item; }
};

Tensor gated(const Tensor& x, Optional gate, Text activation, std::vector<double> parameters, int64_t dim,
             bool gate_first, Order order) {
  Halves halves(x, gate, activation, parameters, dim, gate_first, order, "gated");
  Tensor y = poisoned(empty_in(order, Sizes(halves.y_sizes.data(), halves.y_sizes.size()), dtype_code(x), x));
  halves.args.y = y.data_ptr();
  if (y.numel() > 0) launch(halves.args, x);
  return y;
}

std::tuple<Tensor, Tensor> gated_backward(const Tensor& grad_y, const Tensor& x, Optional gate, Text activation,
                                          std::vector<double> parameters, int64_t dim, bool gate_first, Order order) {
  const char* op = "gated_backward";
  Halves halves(x, gate, activation, parameters, dim, gate_first, order, op);
  check_same_dtype(grad_y, "grad_y", x, "x", op);
  Sizes sizes = grad_y.sizes(), wanted(halves.y_sizes.data(), halves.y_sizes.size());
  bool fits = std::vector<int64_t>(sizes.begin(), sizes.end()) == halves.y_sizes;
  check(fits, op, ": grad_y must have the sizes ", Sizes(wanted), " of y, but has ", Sizes(sizes));
  static constexpr int64_t kNone = 0;
  Tensor grad_x = empty_in(order, x);
  Tensor grad_gate = gate ? empty_in(order, x) : empty_in({}, Sizes(&kNone, 1), dtype_code(x), x);
  halves.args.grad_y_is_one_value = is_one_value(grad_y);
  Tensor grad = halves.args.grad_y_is_one_value ? grad_y : laid_in(order, grad_y);
  halves.args.grad_y = grad.data_ptr();
  halves.args.grad_value = halves.value_of(grad_x);
  halves.args.grad_gate = halves.gate_of(gate ? grad_gate : grad_x);
  if (grad_y.numel() > 0) launch(halves.args, x);
  return {grad_x, grad_gate};
}

}  // namespace

void register_gated(Library& m) {
  m.impl("gated", TORCH_BOX((&gated)));
  m.impl("gated_backward", TORCH_BOX((&gated_backward)));
}

}  // namespace nnart

// y = residual + dropout(activation(x + bias)): `bias_activation` and `bias_activation_backward`, and `channel_sum`,
// the gradient of a bias by itself.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/activation.h"
#include "ops/channel_sum.h"
#include "ops/dropout.h"
#include "ops/launch.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

using Optional = std::optional<Tensor>;
constexpr int64_t kNone = 0;

// What both passes do with their arguments: like is x or the gradient of y.
BiasActivationArgs arguments(const Tensor& like, const Optional& seed, double p, const std::string& activation,
                             const std::vector<double>& parameters, int64_t dim, const Order& order, const char* op) {
  BiasActivationArgs args{};
  args.dtype = dtype_of(like, op, "x");
  args.activation = activation_of(activation, op);
  args.parameters = parameters_of(parameters, op);
  check_order(order, like, op);
  check(dim >= 0 && dim < std::max<int64_t>(like.dim(), 1), op, ": dim must be a dimension of x, which has ",
        like.dim(), ", but is ", dim);
  if (seed) {
    args.seed = static_cast<const int64_t*>(seed->data_ptr());
    args.threshold = threshold_of(p, op);
    args.scale = 1 / (1 - p);
  }
  auto [outer, channels, inner] = channels_of(like, dim, order);
  args.outer = outer;
  args.channels = channels;
  args.inner = inner;
  return args;
}

// Without a bias the elements are one long run.
void ignore_channels(BiasActivationArgs& args) {
  args.inner *= args.outer * args.channels;
  args.outer = args.channels = 1;
}

Tensor checked_bias(const Tensor& bias, const Tensor& x, int64_t channels, const char* op) {
  check_same_dtype(x, "x", bias, "bias", op);
  check(bias.dim() == 1 && bias.numel() == channels, op, ": bias must have one dimension of ", channels,
        " elements, but has sizes ", bias.sizes());
  return torch::stable::contiguous(bias);
}

Tensor bias_activation(const Tensor& x, Optional bias, Optional residual, Optional seed, double p, Text activation,
                       std::vector<double> parameters, int64_t dim, Order order) {
  const char* op = "bias_activation";
  if (seed) seed = checked_seed(*seed, x, true, op);
  BiasActivationArgs args = arguments(x, seed, p, activation, parameters, dim, order, op);
  Tensor ordered = laid_in(order, x), y = empty_in(order, x);
  args.x = ordered.data_ptr();
  args.y = y.data_ptr();
  if (bias) {
    bias = checked_bias(*bias, x, args.channels, op);
    args.bias = bias->data_ptr();
  } else {
    ignore_channels(args);
  }
  if (residual) {
    check_same_dtype(x, "x", *residual, "residual", op);
    check_same_sizes(*residual, "residual", x, "x", op);
    residual = laid_in(order, *residual);
    args.residual = residual->data_ptr();
  }
  if (x.numel() > 0) launch(args, x);
  return y;
}

std::tuple<Tensor, Tensor> bias_activation_backward(const Tensor& grad_y, Optional saved, Optional bias, Optional seed,
                                                    double p, Text activation, std::vector<double> parameters,
                                                    bool saved_is_output, bool wants_bias, int64_t dim, Order order) {
  const char* op = "bias_activation_backward";
  if (seed) seed = checked_seed(*seed, grad_y, true, op);
  BiasActivationArgs args = arguments(grad_y, seed, p, activation, parameters, dim, order, op);
  check(saved.has_value() || args.activation == Activation::Identity, op, ": the derivative of ", activation,
        " needs a saved tensor");
  Tensor grad_x = empty_in(order, grad_y);
  Sizes bias_size(wants_bias ? &args.channels : &kNone, 1);
  Tensor grad_bias = poisoned(empty_in({}, bias_size, dtype_code(grad_y), grad_y));
  args.grad_y_is_one_value = is_one_value(grad_y);
  Tensor grad = args.grad_y_is_one_value ? grad_y : laid_in(order, grad_y);
  args.grad_y = grad.data_ptr();
  args.y = grad_x.data_ptr();
  if (saved) {
    check_same_dtype(grad_y, "grad_y", *saved, "the saved tensor", op);
    check_same_sizes(grad_y, "grad_y", *saved, "the saved tensor", op);
    saved = laid_in(order, *saved);
    args.x = saved->data_ptr();
    args.saved_is_output = saved_is_output;
  }
  if (saved && bias && !saved_is_output) {
    bias = checked_bias(*bias, grad_y, args.channels, op);
    args.bias = bias->data_ptr();
  }
  if (!args.bias && !wants_bias) ignore_channels(args);
  if (grad_y.numel() == 0) {
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_bias};
  }
  Tensor partial_sums = scratch_on(grad_y, wants_bias ? scratch(args) : 0);
  if (wants_bias) {
    args.grad_bias = grad_bias.data_ptr();
    args.partial_sums = static_cast<double*>(partial_sums.data_ptr());
  }
  launch(args, grad_y);
  return {grad_x, grad_bias};
}

}  // namespace

Tensor channel_sum(const Tensor& x, int64_t dim) {
  const char* op = "channel_sum";
  check(dim >= 0 && dim < x.dim(), op, ": dim must be a dimension of x, which has ", x.dim(), ", but is ", dim);
  Order order;
  if (!lies_in(order, x)) {
    for (int64_t d = 0; d < x.dim(); ++d)
      if (d != dim) order.push_back(d);
    order.push_back(dim);
  }
  BiasActivationArgs args = arguments(x, {}, 0, "identity", {}, dim, order, op);
  Tensor sums = poisoned(empty_in({}, Sizes(&args.channels, 1), dtype_code(x), x));
  if (x.numel() == 0) return torch::stable::zero_(sums);
  args.grad_y_is_one_value = is_one_value(x);
  Tensor ordered = args.grad_y_is_one_value ? x : laid_in(order, x), partial_sums = scratch_on(x, scratch(args));
  args.grad_y = ordered.data_ptr();
  args.grad_bias = sums.data_ptr();
  args.partial_sums = static_cast<double*>(partial_sums.data_ptr());
  launch(args, x);
  return sums;
}

void register_bias_activation(Library& m) {
  m.impl("bias_activation", TORCH_BOX((&bias_activation)));
  m.impl("bias_activation_backward", TORCH_BOX((&bias_activation_backward)));
  m.impl("channel_sum", TORCH_BOX((&channel_sum)));
}

}  // namespace nnart

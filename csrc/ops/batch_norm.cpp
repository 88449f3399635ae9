// y = activation((x - mean) weight / sqrt(var + eps) + bias + residual): `batch_norm` and `batch_norm_backward`.
#include "ops/batch_norm.h"

#include <optional>
#include <tuple>
#include <vector>

#include "ops/activation.h"
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {

int32_t ChannelNumbers::wide() const {
  return dtype == aoti_torch_dtype_float64() ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
}

void ChannelNumbers::check_sizes(const Tensor& given, const char* name) const {
  check(given.dim() == 1 && given.size(0) == channels, op, ": ", name, " must have the sizes [", channels,
        "], one for each channel, but has ", given.sizes());
}

Tensor ChannelNumbers::statistic(const Tensor& given, const char* name) const {
  check_sizes(given, name);
  check(dtype_code(given) == wide(), op, ": ", name, " must be float32, or float64 if x is");
  return torch::stable::contiguous(given);
}

Tensor ChannelNumbers::number(const Tensor& given, const char* name) const {
  check_sizes(given, name);
  check(dtype_code(given) == wide() || dtype_code(given) == dtype, op, ": ", name,
        " must have the dtype of x, or float32 where that has 16 bits");
  return torch::stable::contiguous(given);
}

Tensor ChannelNumbers::fresh(const Tensor& like, bool wanted, int32_t dtype) const {
  int64_t size = wanted ? channels : 0;
  return poisoned(empty_in({}, Sizes(&size, 1), dtype, like));
}

void ChannelNumbers::put(BatchNormArgs& args, std::optional<Tensor>& weight, std::optional<Tensor>& bias) const {
  if (weight) weight = number(*weight, "weight");
  if (bias) bias = number(*bias, "bias");
  check(!weight || !bias || dtype_code(*weight) == dtype_code(*bias), op, ": weight and bias must have one dtype");
  const std::optional<Tensor>& either = weight ? weight : bias;
  args.wide_weight = either && dtype_code(*either) == wide();
  args.weight = weight ? weight->data_ptr() : nullptr;
  args.bias = bias ? bias->data_ptr() : nullptr;
}

namespace {

using Optional = std::optional<Tensor>;
constexpr int64_t kChannelDim = 1;

// A call of either pass: its arguments, and the tensors that they point into.
struct BatchNorm {
  BatchNormArgs args{};
  Tensor x;
  Optional weight, bias;
  ChannelNumbers numbers;
  Optional partial_sums;

  BatchNorm(const Tensor& given_x, const Optional& given_weight, const Optional& given_bias, double eps,
            const std::string& activation, const std::vector<double>& parameters, const Order& order, const char* op)
      : x(given_x), weight(given_weight), bias(given_bias), numbers{0, dtype_code(x), op} {
    args.dtype = dtype_of(x, op, "x");
    args.activation = activation_of(activation, op);
    args.parameters = parameters_of(parameters, op);
    bool is_fused = with_fused_activation<double>(args.activation, args.parameters, [](auto) {});
    check(is_fused, op, ": no kernel has ", activation, " in it; apply it to the result");
    args.eps = eps;
    check(x.dim() >= 2, op, ": x must have its channels in dimension 1, but has sizes ", x.sizes());
    check_order(order, x, op);
    auto [outer, channels, inner] = channels_of(x, kChannelDim, order);
    args.outer = outer;
    args.channels = numbers.channels = channels;
    args.inner = inner;
    x = laid_in(order, x);
    args.x = x.data_ptr();
    numbers.put(args, weight, bias);
    if (int64_t doubles = scratch(args)) {
      partial_sums = scratch_on(x, doubles);
      args.partial_sums = static_cast<double*>(partial_sums->data_ptr());
    }
  }

  // What has the sizes and the dtype of x, as x lies.
  Tensor beside(const Order& order, const Tensor& given, const char* name) const {
    check_same_dtype(x, "x", given, name, numbers.op);
    check_same_sizes(given, name, x, "x", numbers.op);
    return laid_in(order, given);
  }
};

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, Optional weight, Optional bias, Optional residual,
                                              Optional mean, Optional var, double eps, bool of_batch, Text activation,
                                              std::vector<double> parameters, Order order) {
  const char* op = "batch_norm";
  BatchNorm call(x, weight, bias, eps, activation, parameters, order, op);
  BatchNormArgs& args = call.args;
  check(mean.has_value() == var.has_value(), op, ": mean and var must be given both or neither");
  check(mean || of_batch, op, ": mean and var must be given where they are not those of x");
  const ChannelNumbers& numbers = call.numbers;
  args.of_batch = !mean;
  Tensor found_mean = numbers.fresh(x, args.of_batch, numbers.wide()),
         found_var = numbers.fresh(x, args.of_batch, numbers.wide());
  Tensor used_mean = mean ? numbers.statistic(*mean, "mean") : found_mean;
  Tensor used_var = var ? numbers.statistic(*var, "var") : found_var;
  args.mean = used_mean.data_ptr();
  args.var = used_var.data_ptr();
  if (residual) {
    residual = call.beside(order, *residual, "residual");
    args.residual = residual->data_ptr();
  }
  Tensor y = empty_in(order, x);
  args.y = y.data_ptr();
  check(x.numel() > 0 || !args.of_batch, op, ": no elements of x to find a mean of");
  if (x.numel() > 0) launch(args, x);
  return {y, found_mean, found_var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad_y, const Tensor& x, Optional weight,
                                                               Optional bias, Optional output, const Tensor& mean,
                                                               const Tensor& var, double eps, bool of_batch,
                                                               bool wants_residual, Text activation,
                                                               std::vector<double> parameters, Order order) {
  const char* op = "batch_norm_backward";
  BatchNorm call(x, weight, bias, eps, activation, parameters, order, op);
  BatchNormArgs& args = call.args;
  args.of_batch = of_batch;
  Tensor used_mean = call.numbers.statistic(mean, "mean"), used_var = call.numbers.statistic(var, "var");
  args.mean = used_mean.data_ptr();
  args.var = used_var.data_ptr();
  Tensor grad = call.beside(order, grad_y, "grad_y");
  args.grad_y = grad.data_ptr();
  if (output) {
    output = call.beside(order, *output, "output");
    args.output = output->data_ptr();
  }
  Tensor grad_x = empty_in(order, x);
  args.y = grad_x.data_ptr();
  int64_t none = 0;
  Tensor grad_residual = wants_residual ? empty_in(order, x) : empty_in({}, Sizes(&none, 1), dtype_code(x), x);
  if (wants_residual) args.grad_residual = grad_residual.data_ptr();
  auto for_numbers = [&](const Optional& given) {
    return call.numbers.fresh(x, given.has_value(), given ? dtype_code(*given) : call.numbers.wide());
  };
  Tensor grad_weight = for_numbers(weight), grad_bias = for_numbers(bias);
  if (weight) args.grad_weight = grad_weight.data_ptr();
  if (bias) args.grad_bias = grad_bias.data_ptr();
  if (x.numel() > 0) {
    launch(args, x);
  } else {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
  }
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

}  // namespace

void register_batch_norm(Library& m) {
  m.impl("batch_norm", TORCH_BOX((&batch_norm)));
  m.impl("batch_norm_backward", TORCH_BOX((&batch_norm_backward)));
}

}  // namespace nnart

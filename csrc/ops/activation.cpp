// Element-wise activations: `name`, `name_` (in place) and `name_backward` for each functor of math/activations.h.
#include "ops/activation.h"

#include <string>
#include <utility>
#include <vector>

#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

void run_forward(Activation activation, ActivationParameters parameters, DType dtype, const Tensor& x,
                 const Tensor& y) {
  ActivationArgs args{};
  args.activation = activation;
  args.parameters = parameters;
  args.dtype = dtype;
  args.n = x.numel();
  args.x = x.data_ptr();
  args.y = y.data_ptr();
  launch(args, x);
}

// Parameters is one double for each number in the schema, in its order.
template <Activation activation, class... Parameters>
Tensor forward(const Tensor& x, Parameters... parameters) {
  DType dtype = dtype_of(x, "activation", "x");
  Tensor ordered = dense(x);
  Tensor y = empty_as(ordered);
  run_forward(activation, {parameters...}, dtype, ordered, y);
  return y;
}

template <Activation activation, class... Parameters>
void forward_(const Tensor& x, Parameters... parameters) {
  DType dtype = dtype_of(x, "activation", "x");
  Tensor ordered = dense(x);
  run_forward(activation, {parameters...}, dtype, ordered, ordered);
  if (ordered.data_ptr() != x.data_ptr()) {
    Tensor target = x;
    torch::stable::copy_(target, ordered);
  }
}

template <Activation activation, bool from_output = false, class... Parameters>
Tensor backward(const Tensor& grad_y, const Tensor& saved, Parameters... parameters) {
  check_same_sizes(grad_y, "grad_y", saved, "the saved tensor", "activation backward");
  check_same_dtype(grad_y, "grad_y", saved, "the saved tensor", "activation backward");
  DType dtype = dtype_of(saved, "activation backward", "the saved tensor");
  Tensor ordered = dense(saved);
  Tensor grad_x = empty_as(ordered);
  bool one_value = is_one_value(grad_y);
  Tensor grad = one_value ? grad_y : in_order_of(ordered, grad_y);
  ActivationArgs args{};
  args.activation = activation;
  args.parameters = {parameters...};
  args.dtype = dtype;
  args.n = saved.numel();
  args.x = ordered.data_ptr();
  args.grad_y = grad.data_ptr();
  args.grad_y_is_one_value = one_value;
  args.from_output = from_output;
  args.y = grad_x.data_ptr();
  if (args.n > 0) launch(args, saved);
  return grad_x;
}

// By name, in the order of registration.
std::vector<std::pair<std::string, Activation>>& names() {
  static std::vector<std::pair<std::string, Activation>> names{{"identity", Activation::Identity}};
  return names;
}

template <Activation activation, class... Parameters>
void add(Library& m, const std::string& name) {
  names().emplace_back(name, activation);
  m.impl(name, TORCH_BOX((&forward<activation, Parameters...>)));
  m.impl(name + "_", TORCH_BOX((&forward_<activation, Parameters...>)));
  m.impl(name + "_backward", TORCH_BOX((&backward<activation, false, Parameters...>)));
}

// Of an activation whose formula reads its input.
template <Activation activation, class... Parameters>
void add_from_output(Library& m, const std::string& name) {
  m.impl(name + "_backward_from_output", TORCH_BOX((&backward<activation, true, Parameters...>)));
}

}  // namespace

Activation activation_of(const std::string& name, const char* op) {
  std::string known;
  for (const auto& [other, activation] : names()) {
    if (other == name) return activation;
    known += (known.empty() ? "" : ", ") + other;
  }
  check(false, op, ": there is no activation '", name, "'; known are ", known);
  return Activation::Identity;
}

ActivationParameters parameters_of(const std::vector<double>& numbers, const char* op) {
  check(numbers.size() <= 3, op, ": an activation has at most 3 parameters, but parameters has ", numbers.size());
  ActivationParameters parameters;
  double* places[] = {&parameters.a, &parameters.b, &parameters.c};
  for (size_t k = 0; k < numbers.size(); ++k) *places[k] = numbers[k];
  return parameters;
}

void register_activation(Library& m) {
  using enum Activation;
  add<Relu>(m, "relu");
  add<LeakyRelu, double>(m, "leaky_relu");
  add<Threshold, double, double>(m, "threshold");
  add<Hardtanh, double, double>(m, "hardtanh");
  add<Hardsigmoid>(m, "hardsigmoid");
  add<Hardswish>(m, "hardswish");
  add<Hardshrink, double>(m, "hardshrink");
  add<Softshrink, double>(m, "softshrink");
  add<Elu, double, double, double>(m, "elu");
  add<Sigmoid>(m, "sigmoid");
  add<LogSigmoid>(m, "logsigmoid");
  add<Softplus, double, double>(m, "softplus");
  add<Softsign>(m, "softsign");
  add<Tanh>(m, "tanh");
  add<Tanhshrink>(m, "tanhshrink");
  add<Gelu>(m, "gelu");
  add<GeluTanh>(m, "gelu_tanh");
  add<Silu>(m, "silu");
  add<Mish>(m, "mish");
  add_from_output<Elu, double, double, double>(m, "elu");
  add_from_output<LogSigmoid>(m, "logsigmoid");
  add_from_output<Softplus, double, double>(m, "softplus");
}

}  // namespace nnart

// Convolution: `conv`, `conv_transpose`, `conv_wgrad`, each the derivative of another, in one to three dimensions. x
// and y may lack the batch dimension.
#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "ops/activation.h"
#include "ops/batch_norm.h"
#include "ops/channel_sum.h"
#include "ops/conv_geometry.h"
#include "ops/conv_native.h"
#include "ops/conv_operands.h"
#include "ops/conv_tuning.h"
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

// All of the arguments but the operands.
ConvArgs problem(ConvPass pass, const Geometry& g, DType dtype, bool channels_last) {
  ConvArgs args{};
  args.pass = pass;
  args.dtype = dtype;
  args.batch = g.batched ? g.x_size[0] : 1;
  args.groups = g.groups;
  args.in_channels = g.in_channels();
  args.out_channels = g.out_channels();
  for (int64_t a = 0; a < 3; ++a) args.axis[a] = {1, 1, 1, 1, 0, 1};
  for (int64_t a = 0; a < g.dims; ++a)
    args.axis[3 - g.dims + a] = {
        g.in(a), g.out(a), g.kernel(a), g.stride[size_t(a)], g.padding[size_t(a)], g.dilation[size_t(a)]};
  args.channels_last = channels_last;
  return args;
}

// Whether torch's convolution can be called, and is a choice: without vectors it is slower by orders of magnitude, but
// for float64, where it is a matrix product.
bool native_takes(const Geometry& g, DType dtype) {
  bool one_padding = std::equal(g.padding.begin(), g.padding.begin() + g.dims, g.padding.begin() + g.dims);
  return g.batched && one_padding && (native_conv_is_fast(dtype) || dtype == DType::Float64);
}

ConvPlan plan_by_rules(const ConvCall& call) {
  return plan_of(call.args, call.native_takes_it && native_conv_is_fast(call.args.dtype));
}

// The result of `by`, which computes the call by the strategy in its arguments: the planned one, or the fastest.
template <class By>
Tensor planned(const ConvCall& call, const Tensor& on, const By& by) {
  auto run = [&](ConvStrategy strategy) {
    ConvArgs args = call.args;
    args.strategy = strategy;
    args.tf32 = args.dtype == DType::Float32 && strategy == ConvStrategy::Gemm && allows_tf32();
    return by(args);
  };
  std::optional<ConvPlan> plan;
  if (on.numel() > 0 && tunes(call)) {
    plan = measured_plan(call);
    if (!plan) plan = measure(call, on, run);
  }
  if (!plan) plan = plan_by_rules(call);
  last_conv_plan() = *plan;
  return run(plan->strategy);
}

NativeGeometry native_geometry(const Geometry& g) {
  return {g.stride, Ints(g.padding.begin(), g.padding.begin() + g.dims), g.dilation, g.groups};
}

// Computes what has been placed.
void run(ConvArgs& args, const Tensor& on) {
  int64_t doubles = scratch(args);
  std::optional<Tensor> sums;
  if (doubles > 0) sums = scratch_on(on, doubles);
  args.partial_sums = sums ? static_cast<double*>(sums->data_ptr()) : nullptr;
  launch(args, on);
}

// Whether the kernel applies what follows the convolution; those of this library do.
bool finishes(ConvStrategy strategy) { return strategy != ConvStrategy::Native && strategy != ConvStrategy::Matmul; }

// What follows the convolution, by name.
struct Finish {
  std::optional<Tensor> residual;
  std::string activation = "identity";
  std::vector<double> parameters;
  bool wants_mask = false;        // of the activation's derivative
  BatchNormArgs* norm = nullptr;  // before all of it, with its numbers of channels; of the batch: alone
  std::optional<Tensor> mask = {};
  std::optional<Tensor> of_output = {};  // the activation's derivative where it gave this is multiplied with, not more

  // Brings what stands beside y into its order and returns the kernel's arguments, or an error.
  ActivationArgs on(const Tensor& y, DType dtype, const std::string& op) {
    auto bring = [&](std::optional<Tensor>& other, const char* name) {
      if (!other) return;
      check_same_sizes(*other, name, y, "the output", op.c_str());
      check_same_dtype(*other, name, y, "the output", op.c_str());
      other = in_order_of(y, *other);
    };
    bring(residual, "residual");
    bring(of_output, "x");
    ActivationArgs args{};
    args.activation = activation_of(activation, op.c_str());
    args.parameters = parameters_of(parameters, op.c_str());
    args.dtype = dtype;
    args.n = y.numel();
    args.x = args.y = y.data_ptr();
    args.residual = residual ? residual->data_ptr() : nullptr;
    if (of_output) {
      args.grad_y = args.x;
      args.x = of_output->data_ptr();
    }
    if (wants_mask) {
      check(slopes_of(args.activation, args.parameters).high != 0, op, ": the derivative of ", activation,
            " takes more than two values");
      int64_t bytes = (y.numel() + 7) / 8;
      mask = empty_in({}, Sizes(&bytes, 1), aoti_torch_dtype_uint8(), y);
    }
    return args;
  }
  uint8_t* bits() const { return mask ? static_cast<uint8_t*>(mask->data_ptr()) : nullptr; }
};

// y, which has a channel for each of the bias's or the norm's numbers, as outer x channels x inner.
Channels channels_in(const Tensor& y, int64_t channels, const Geometry& g, bool channels_last) {
  int64_t outer = channels_last ? y.numel() / channels : (g.batched ? y.size(0) : 1);
  return {outer, channels, channels_last ? 1 : y.numel() / (outer * channels)};
}

// Runs the batch normalization with the finish behind it in place, or finds the moments of y.
void normalize(BatchNormArgs norm, const ActivationArgs& finish, const Tensor& y, const Channels& shape) {
  norm.outer = shape.outer;
  norm.channels = shape.channels;
  norm.inner = shape.inner;
  norm.x = y.data_ptr();
  norm.y = norm.of_batch ? nullptr : y.data_ptr();
  norm.residual = finish.residual;
  norm.activation = finish.activation;
  norm.parameters = finish.parameters;
  std::optional<Tensor> sums;
  if (int64_t doubles = scratch(norm)) sums = scratch_on(y, doubles);
  norm.partial_sums = sums ? static_cast<double*>(sums->data_ptr()) : nullptr;
  launch(norm, y);
}

// Brings y, which torch has computed or our kernel does here, to its end: what the finish says, and the bias, which
// bias_after leaves to a pass behind it. As much of it as can be is left to the kernel.
void finish_result(ConvArgs& args, const Tensor& y, const std::optional<Tensor>& bias, bool bias_after, Finish* finish,
                   const Geometry& g) {
  Finish none;
  Finish& what = finish ? *finish : none;
  ActivationArgs after = what.on(y, args.dtype, g.op), before = after;
  if (y.numel() == 0) return;
  bool by_kernel = finishes(args.strategy), in_kernel = by_kernel && !bias_after;
  args.finish = finish && in_kernel ? &before : nullptr;
  bool norm_after = what.norm && !(in_kernel && takes_norm(args, what.norm->of_batch));
  bool mask_after = what.mask && !(in_kernel && takes_mask(args));
  if (norm_after || mask_after) before.activation = Activation::Identity;
  if (norm_after) before.residual = nullptr;
  args.norm = norm_after ? nullptr : what.norm;
  args.mask = mask_after ? nullptr : what.bits();
  args.bias = bias && !bias_after ? bias->data_ptr() : nullptr;
  if (by_kernel) run(args, y);
  bool is_done = in_kernel || (!before.residual && before.activation == Activation::Identity);
  if (bias_after) {
    Channels shape = channels_in(y, bias->size(0), g, args.channels_last);
    before.bias = bias->data_ptr();
    before.bias_channels = shape.channels;
    before.bias_inner = shape.inner;
  }
  if (!is_done || bias_after) launch(before, y);
  if (norm_after) normalize(*what.norm, after, y, channels_in(y, g.out_channels(), g, args.channels_last));
  if (mask_after) {
    MaskedActivationArgs masked{};
    masked.activation = after.activation;
    masked.parameters = after.parameters;
    masked.dtype = args.dtype;
    masked.n = after.n;
    masked.x = masked.y = y.data_ptr();
    masked.mask = what.bits();
    launch(masked, y);
  }
}

ConvCall call_of(const ConvArgs& args, const Geometry& g, const Tensor& weight, const std::optional<Tensor>& bias,
                 const Finish* finish) {
  bool orders_differ = weight.size(1) > 1 && weight.numel() > weight.size(0) * weight.size(1);
  return {args,
          native_takes(g, args.dtype),
          orders_differ && prefers_channels_last(weight),
          bias.has_value(),
          finish && finish->residual,
          finish ? finish->activation.c_str() : "identity"};
}

Tensor convolve(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints stride, Ints padding,
                Ints dilation, int64_t groups, Finish* finish) {
  int64_t dims = int64_t(stride.size());
  Geometry g{"conv" + std::to_string(dims) + "d",
             dims,
             groups,
             x.dim() == dims + 2,
             to_vector(x.sizes()),
             to_vector(weight.sizes()),
             stride,
             padding,
             dilation};
  check_operands(g, x.sizes(), weight.sizes());
  check_sizes(g);
  check_same_dtype(x, "input", weight, "weight", g.op.c_str());
  bias = bias_of(bias, g.out_channels(), x, weight, g.op);
  bool channels_last = output_is_channels_last(x, g.batched, weight);
  ConvArgs args = problem(ConvPass::Forward, g, dtype_of(x, g.op.c_str(), "input"), channels_last);
  return planned(call_of(args, g, weight, bias, finish), x, [&](ConvArgs& args) {
    bool is_matmul = args.strategy == ConvStrategy::Matmul;
    bool is_torch = is_matmul || args.strategy == ConvStrategy::Native;
    Tensor y = is_matmul  ? matmul_conv(x, weight, channels_last)
               : is_torch ? native_conv(x, weight, bias, native_geometry(g))
                          : empty_in_layout(g.y_size(), channels_last, g.batched, x);
    if (!is_torch) place(args, g, x, weight, y);
    finish_result(args, y, bias, bias && is_matmul, finish, g);
    return y;
  });
}

Tensor conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints stride, Ints padding, Ints dilation,
            int64_t groups) {
  return convolve(x, weight, bias, stride, padding, dilation, groups, nullptr);
}

Tensor conv_activation(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                       std::optional<Tensor> residual, Ints stride, Ints padding, Ints dilation, int64_t groups,
                       Text activation, std::vector<double> parameters) {
  Finish finish{residual, activation, parameters};
  return convolve(x, weight, bias, stride, padding, dilation, groups, &finish);
}

std::tuple<Tensor, Tensor> conv_masked_activation(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                  std::optional<Tensor> residual, Ints stride, Ints padding,
                                                  Ints dilation, int64_t groups, Text activation,
                                                  std::vector<double> parameters) {
  Finish finish{residual, activation, parameters, true};
  Tensor y = convolve(x, weight, bias, stride, padding, dilation, groups, &finish);
  return {y, *finish.mask};
}

void check_batch(const Tensor& x, const Ints& stride, const char* op) {
  check(x.dim() == int64_t(stride.size()) + 2, op, ": x must have a batch dimension, but has sizes ", x.sizes());
}

std::tuple<Tensor, Tensor, Tensor> conv_moments(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "conv_moments";
  BatchNormArgs norm{};
  norm.dtype = dtype_of(x, op, "x");
  norm.of_batch = true;
  ChannelNumbers numbers{weight.size(0), dtype_code(x), op};
  Tensor mean = numbers.fresh(x, true, numbers.wide()), var = numbers.fresh(x, true, numbers.wide());
  norm.mean = mean.data_ptr();
  norm.var = var.data_ptr();
  Finish finish;
  finish.norm = &norm;
  check_batch(x, stride, op);
  Tensor y = convolve(x, weight, bias, stride, padding, dilation, groups, &finish);
  check(y.numel() > 0, op, ": no elements of y to find a mean of");
  return {y, mean, var};
}

Tensor conv_batch_norm(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                       std::optional<Tensor> norm_weight, std::optional<Tensor> norm_bias,
                       std::optional<Tensor> residual, const Tensor& mean, const Tensor& var, double eps, Ints stride,
                       Ints padding, Ints dilation, int64_t groups, Text activation, std::vector<double> parameters) {
  const char* op = "conv_batch_norm";
  BatchNormArgs norm{};
  norm.dtype = dtype_of(x, op, "x");
  norm.eps = eps;
  bool is_fused =
      with_fused_activation<double>(activation_of(activation, op), parameters_of(parameters, op), [](auto) {});
  check(is_fused, op, ": no kernel has ", activation, " in it; apply it to the result");
  ChannelNumbers numbers{weight.size(0), dtype_code(x), op};
  numbers.put(norm, norm_weight, norm_bias);
  Tensor used_mean = numbers.statistic(mean, "mean"), used_var = numbers.statistic(var, "var");
  norm.mean = used_mean.data_ptr();
  norm.var = used_var.data_ptr();
  Finish finish{residual, activation, parameters};
  finish.norm = &norm;
  check_batch(x, stride, op);
  return convolve(x, weight, bias, stride, padding, dilation, groups, &finish);
}

// y has y_size, which says what the sizes of x leave open, and is the gradient of the input of a convolution with the
// same numbers that makes x of it.
Tensor convolve_transposed(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints y_size, Ints stride,
                           Ints padding, Ints dilation, int64_t groups, Finish* finish) {
  int64_t dims = int64_t(stride.size());
  bool batched = x.dim() == dims + 2;
  Geometry g{"conv_transpose" + std::to_string(dims) + "d",
             dims,
             groups,
             batched,
             y_size,
             to_vector(weight.sizes()),
             stride,
             padding,
             dilation};
  check_operands(g, x.sizes(), weight.sizes());
  Sizes shown = weight.sizes();
  int64_t in_channels = weight.size(0), out_channels = weight.size(1) * groups;
  check(in_channels >= groups && in_channels % groups == 0, g.op, ": Given groups=", groups,
        ", expected weight to be divisible by ", groups, " at dimension 0, but got weight of size ", Sizes(shown),
        "; in_channels must be a multiple of groups");
  if (x.size(batched) != in_channels)
    check(false, g.op, ": input has ", plural(x.size(batched), "channel"), ", but weight of shape ", Sizes(shown),
          " expects ", in_channels, " (weight.shape[0]), and input has shape ", x.sizes(),
          channel_advice(x.sizes(), dims, in_channels));
  check(int64_t(y_size.size()) == x.dim() && y_size[batched] == out_channels, g.op, ": y_size must have ", x.dim(),
        " elements, of which the channels are ", out_channels, " (weight.shape[1] * groups), but is ",
        Sizes(y_size.data(), y_size.size()));
  for (int64_t a = 0; a < dims; ++a)
    check(x.size(a + 1 + batched) > 0, g.op,
          ": Only zero batch inputs are supported, but got input shape: ", x.sizes());
  check_sizes(g);
  check_output_sizes(g, x.sizes(), "input");
  check_same_dtype(x, "input", weight, "weight", g.op.c_str());
  bias = bias_of(bias, out_channels, x, weight, g.op);

  bool channels_last = output_is_channels_last(x, batched, weight);
  ConvArgs args = problem(ConvPass::Dgrad, g, dtype_of(x, g.op.c_str(), "input"), channels_last);
  bool has_elements = numel_of(y_size) > 0;
  return planned(call_of(args, g, weight, bias, finish), x, [&](ConvArgs& args) {
    bool is_matmul = args.strategy == ConvStrategy::Matmul && has_elements;
    bool is_torch = is_matmul || (args.strategy == ConvStrategy::Native && has_elements);
    bool bias_after = bias && is_torch && (is_matmul || !native_adds_bias(args));
    Tensor y = is_matmul  ? matmul_conv_transpose(x, weight, channels_last)
               : is_torch ? native_conv_transpose(x, weight, bias_after ? std::nullopt : bias, native_geometry(g),
                                                  output_padding(g))
                          : empty_in_layout(y_size, channels_last, batched, x);
    if (!is_torch && place(args, g, y, weight, x)) bias_after = bias.has_value();
    finish_result(args, y, bias, bias_after, finish, g);
    return y;
  });
}

Tensor conv_transpose(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints y_size, Ints stride,
                      Ints padding, Ints dilation, int64_t groups) {
  return convolve_transposed(x, weight, bias, y_size, stride, padding, dilation, groups, nullptr);
}

Tensor conv_transpose_activation(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                 std::optional<Tensor> residual, Ints y_size, Ints stride, Ints padding, Ints dilation,
                                 int64_t groups, Text activation, std::vector<double> parameters) {
  Finish finish{residual, activation, parameters};
  return convolve_transposed(x, weight, bias, y_size, stride, padding, dilation, groups, &finish);
}

// The derivative of the activation that gave x, where its output says what that is.
Finish derivative_at(const Tensor& x, const std::string& activation, const std::vector<double>& parameters,
                     const char* op) {
  bool is_known =
      with_known_from_output<double>(activation_of(activation, op), parameters_of(parameters, op), [](auto) {});
  check(is_known, op, ": the output of ", activation, " does not say what its derivative is");
  Finish finish{std::nullopt, activation, parameters};
  finish.of_output = x;
  return finish;
}

Tensor conv_dgrad_activation(const Tensor& grad_y, const Tensor& weight, const Tensor& x, Ints stride, Ints padding,
                             Ints dilation, int64_t groups, Text activation, std::vector<double> parameters) {
  Finish finish = derivative_at(x, activation, parameters, "conv_dgrad_activation");
  return convolve_transposed(grad_y, weight, std::nullopt, to_vector(x.sizes()), stride, padding, dilation, groups,
                             &finish);
}

Tensor conv_transpose_dgrad_activation(const Tensor& grad_y, const Tensor& weight, const Tensor& x, Ints stride,
                                       Ints padding, Ints dilation, int64_t groups, Text activation,
                                       std::vector<double> parameters) {
  Finish finish = derivative_at(x, activation, parameters, "conv_transpose_dgrad_activation");
  return convolve(grad_y, weight, std::nullopt, stride, padding, dilation, groups, &finish);
}

bool same_strides(const Tensor& a, const Tensor& b) {
  Sizes of_a = a.strides(), of_b = b.strides();
  return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end());
}

// grad_weight lies as a batch of x does, which is how a network in that layout has its weights, too; autograd brings it
// into another order where the parameter has one. If grad_bias is not null, it becomes the sum of each channel of
// grad_y.
Tensor find_wgrad(const Tensor& grad_y, const Tensor& x, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                  int64_t groups, std::optional<Tensor>* grad_bias) {
  int64_t dims = int64_t(stride.size());
  check(dims >= 1 && dims <= 3 && int64_t(kernel_size.size()) == dims,
        "conv_wgrad: kernel_size and stride must have 1 to 3 elements each, but have ", kernel_size.size(), " and ",
        dims);
  bool batched = x.dim() == dims + 2;
  check((batched || x.dim() == dims + 1) && grad_y.dim() == x.dim(), "conv_wgrad: x and grad_y must have ", dims + 1,
        " or ", dims + 2, " dimensions, but have shapes ", x.sizes(), " and ", grad_y.sizes());
  check(groups > 0, "conv_wgrad: groups must be at least 1, but is ", groups);
  Ints weight_size{grad_y.size(batched), x.size(batched) / groups};
  weight_size.insert(weight_size.end(), kernel_size.begin(), kernel_size.end());
  Geometry g{"conv" + std::to_string(dims) + "d backward",
             dims,
             groups,
             batched,
             to_vector(x.sizes()),
             weight_size,
             stride,
             padding,
             dilation};
  check_numbers(g);
  check_sizes(g);
  check_output_sizes(g, grad_y.sizes(), "grad_y");
  check_same_dtype(grad_y, "grad_y", x, "x", g.op.c_str());
  bool channels_last = batched && prefers_channels_last(x);
  auto empty = [&] { return empty_in_layout(weight_size, channels_last, true, grad_y); };
  if (numel_of(weight_size) == 0 || grad_y.numel() == 0) {
    if (grad_bias) *grad_bias = channel_sum(grad_y, batched);
    Tensor zeros = empty();
    return torch::stable::zero_(zeros);
  }
  // Native wants a weight for its sizes and order: the result's memory is not there twice.
  Tensor outline = outline_in_layout(weight_size, channels_last, x.numel() < grad_y.numel() ? grad_y : x);
  ConvArgs args = problem(ConvPass::Wgrad, g, dtype_of(grad_y, g.op.c_str(), "grad_y"), channels_last);
  return planned(call_of(args, g, outline, std::nullopt, nullptr), x, [&](ConvArgs& args) {
    bool is_matmul = args.strategy == ConvStrategy::Matmul;
    if (is_matmul || args.strategy == ConvStrategy::Native) {
      if (grad_bias) *grad_bias = channel_sum(grad_y, batched);
      Tensor result = is_matmul ? matmul_conv_wgrad(grad_y, x, channels_last)
                                : native_conv_wgrad(grad_y, x, outline, native_geometry(g));
      if (same_strides(result, outline)) return result;
      Tensor grad_weight = empty();
      return torch::stable::copy_(grad_weight, result);
    }
    Tensor grad_weight = empty();
    place(args, g, x, grad_weight, grad_y);
    args.grad_bias = nullptr;
    if (grad_bias && takes_grad_bias(args)) {
      int64_t channels = g.out_channels();
      *grad_bias = poisoned(empty_in({}, Sizes(&channels, 1), dtype_code(grad_y), grad_y));
      args.grad_bias = (*grad_bias)->data_ptr();
    } else if (grad_bias) {
      *grad_bias = channel_sum(grad_y, batched);
    }
    run(args, grad_y);
    return grad_weight;
  });
}

Tensor conv_wgrad(const Tensor& grad_y, const Tensor& x, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                  int64_t groups) {
  return find_wgrad(grad_y, x, kernel_size, stride, padding, dilation, groups, nullptr);
}

std::tuple<Tensor, Tensor> conv_wgrad_bias(const Tensor& grad_y, const Tensor& x, Ints kernel_size, Ints stride,
                                           Ints padding, Ints dilation, int64_t groups) {
  std::optional<Tensor> grad_bias;
  Tensor grad_weight = find_wgrad(grad_y, x, kernel_size, stride, padding, dilation, groups, &grad_bias);
  return {grad_weight, *grad_bias};
}

}  // namespace

// Seconds that a convolution through our Python takes longer than torch's own, within a network, where each call finds
// the interpreter's code and ours out of the caches.
constexpr double kPythonOfForward = 2e-5, kPythonOfTraining = 1.5e-4;

std::optional<bool> plan_is_native(const ConvProblem& p, const std::vector<ConvPass>& wanted) {
  int64_t dims = int64_t(p.stride.size());
  bool batched = int64_t(p.x_size.size()) == dims + 2;
  if (!batched || int64_t(p.weight_size.size()) != dims + 2) return false;
  Geometry g{"conv", dims, p.groups, batched, p.x_size, p.weight_size, p.stride, p.padding, p.dilation};
  try {
    check_numbers(g);
    check_sizes(g);
  } catch (const std::runtime_error&) {
    return false;
  }
  double gain = 0;
  for (ConvPass pass : wanted) {
    ConvArgs args = problem(pass, g, p.dtype, p.channels_last);
    bool adds_bias = p.has_bias && pass == (p.transposed ? ConvPass::Dgrad : ConvPass::Forward);
    ConvCall call{args, native_takes(g, p.dtype), p.weight_channels_last, adds_bias, false, "identity"};
    std::optional<ConvPlan> plan = tunes(call) ? measured_plan(call) : plan_by_rules(call);
    if (!plan) return std::nullopt;
    if (adds_bias && p.transposed && !native_adds_bias(args)) return false;
    if (plan->strategy != ConvStrategy::Native) gain += plan->gain;
  }
  return gain < (wanted.size() > 1 ? kPythonOfTraining : kPythonOfForward);
}

void register_conv(Library& m) {
  m.impl("conv", TORCH_BOX((&conv)));
  m.impl("conv_activation", TORCH_BOX((&conv_activation)));
  m.impl("conv_masked_activation", TORCH_BOX((&conv_masked_activation)));
  m.impl("conv_moments", TORCH_BOX((&conv_moments)));
  m.impl("conv_batch_norm", TORCH_BOX((&conv_batch_norm)));
  m.impl("conv_transpose", TORCH_BOX((&conv_transpose)));
  m.impl("conv_transpose_activation", TORCH_BOX((&conv_transpose_activation)));
  m.impl("conv_dgrad_activation", TORCH_BOX((&conv_dgrad_activation)));
  m.impl("conv_transpose_dgrad_activation", TORCH_BOX((&conv_transpose_dgrad_activation)));
  m.impl("conv_wgrad", TORCH_BOX((&conv_wgrad)));
  m.impl("conv_wgrad_bias", TORCH_BOX((&conv_wgrad_bias)));
}

}  // namespace nnart

// Every schema of the library, grouped by family. Kernels are registered in ops/, fake kernels, autograd and autocast
// in Python (nnart_ops/autograd).
#include <string>

#include "ops/register.h"

namespace {

// Defines each schema twice (Note [two overloads] in ops/register.h).
struct Schemas {
  nnart::StableLibrary& library;
  void def(const std::string& schema) {
    library.def(schema.c_str());
    library.def(std::string(schema).insert(schema.find('('), nnart::kKernelOverload).c_str());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY(nnart_ops, library) {
  Schemas m{library};
  // Element-wise activations. x and y have the same sizes; `saved` is what the formula's derivative reads: the input x,
  // but the output y for relu, sigmoid and tanh.
  m.def("relu(Tensor x) -> Tensor");
  m.def("relu_(Tensor(a!) x) -> ()");
  m.def("relu_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("leaky_relu(Tensor x, float negative_slope) -> Tensor");
  m.def("leaky_relu_(Tensor(a!) x, float negative_slope) -> ()");
  m.def("leaky_relu_backward(Tensor grad_y, Tensor saved, float negative_slope) -> Tensor");
  m.def("threshold(Tensor x, float threshold, float value) -> Tensor");
  m.def("threshold_(Tensor(a!) x, float threshold, float value) -> ()");
  m.def("threshold_backward(Tensor grad_y, Tensor saved, float threshold, float value) -> Tensor");
  m.def("hardtanh(Tensor x, float min_val, float max_val) -> Tensor");
  m.def("hardtanh_(Tensor(a!) x, float min_val, float max_val) -> ()");
  m.def("hardtanh_backward(Tensor grad_y, Tensor saved, float min_val, float max_val) -> Tensor");
  m.def("hardsigmoid(Tensor x) -> Tensor");
  m.def("hardsigmoid_(Tensor(a!) x) -> ()");
  m.def("hardsigmoid_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("hardswish(Tensor x) -> Tensor");
  m.def("hardswish_(Tensor(a!) x) -> ()");
  m.def("hardswish_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("hardshrink(Tensor x, float lambd) -> Tensor");
  m.def("hardshrink_(Tensor(a!) x, float lambd) -> ()");
  m.def("hardshrink_backward(Tensor grad_y, Tensor saved, float lambd) -> Tensor");
  m.def("softshrink(Tensor x, float lambd) -> Tensor");
  m.def("softshrink_(Tensor(a!) x, float lambd) -> ()");
  m.def("softshrink_backward(Tensor grad_y, Tensor saved, float lambd) -> Tensor");
  m.def("elu(Tensor x, float alpha, float scale, float input_scale) -> Tensor");
  m.def("elu_(Tensor(a!) x, float alpha, float scale, float input_scale) -> ()");
  m.def("elu_backward(Tensor grad_y, Tensor saved, float alpha, float scale, float input_scale) -> Tensor");
  m.def("sigmoid(Tensor x) -> Tensor");
  m.def("sigmoid_(Tensor(a!) x) -> ()");
  m.def("sigmoid_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("logsigmoid(Tensor x) -> Tensor");
  m.def("logsigmoid_(Tensor(a!) x) -> ()");
  m.def("logsigmoid_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("softplus(Tensor x, float beta, float threshold) -> Tensor");
  m.def("softplus_(Tensor(a!) x, float beta, float threshold) -> ()");
  m.def("softplus_backward(Tensor grad_y, Tensor saved, float beta, float threshold) -> Tensor");
  m.def("softsign(Tensor x) -> Tensor");
  m.def("softsign_(Tensor(a!) x) -> ()");
  m.def("softsign_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("tanh(Tensor x) -> Tensor");
  m.def("tanh_(Tensor(a!) x) -> ()");
  m.def("tanh_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("tanhshrink(Tensor x) -> Tensor");
  m.def("tanhshrink_(Tensor(a!) x) -> ()");
  m.def("tanhshrink_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("gelu(Tensor x) -> Tensor");
  m.def("gelu_(Tensor(a!) x) -> ()");
  m.def("gelu_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("gelu_tanh(Tensor x) -> Tensor");
  m.def("gelu_tanh_(Tensor(a!) x) -> ()");
  m.def("gelu_tanh_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("silu(Tensor x) -> Tensor");
  m.def("silu_(Tensor(a!) x) -> ()");
  m.def("silu_backward(Tensor grad_y, Tensor saved) -> Tensor");
  m.def("mish(Tensor x) -> Tensor");
  m.def("mish_(Tensor(a!) x) -> ()");
  m.def("mish_backward(Tensor grad_y, Tensor saved) -> Tensor");

  // The same derivatives from y: alpha is not negative, threshold at least 20.
  m.def("elu_backward_from_output(Tensor grad_y, Tensor y, float alpha, float scale, float input_scale) -> Tensor");
  m.def("logsigmoid_backward_from_output(Tensor grad_y, Tensor y) -> Tensor");
  m.def("softplus_backward_from_output(Tensor grad_y, Tensor y, float beta, float threshold) -> Tensor");
  // An activation whose derivative takes two values, by its op's name, and in uint8 one bit an element, the first in
  // the lowest, that says which. Elements count in the order in which y lies.
  m.def("masked_activation(Tensor x, str activation, float[] parameters, int[] order) -> (Tensor, Tensor)");
  m.def(
      "masked_activation_backward(Tensor grad_y, Tensor mask, str activation, float[] parameters, int[] order) -> "
      "Tensor");

  // y = x where x > 0, else weight x; weight has one element or one for each index of dimension 1.
  m.def("prelu(Tensor x, Tensor weight) -> Tensor");
  m.def("prelu_backward(Tensor grad_y, Tensor x, Tensor weight) -> (Tensor, Tensor)");

  // y = x where sign > 0, else x times a number drawn from [lower, upper); seed and order as dropout's, below.
  m.def("rrelu(Tensor x, Tensor sign, Tensor seed, float lower, float upper, int[] order) -> Tensor");

  // y = scale x + kept with probability 1 - p, else 0 x + dropped. seed is one number, or one for each of as many equal
  // parts of dimension 0. order has the dimensions from the outermost to the innermost, in which decisions are numbered
  // and y lies; empty means as they are. by_channel makes one decision for each index of dimensions 0 and 1.
  m.def(
      "dropout(Tensor x, Tensor seed, float p, float scale, float kept, float dropped, bool by_channel, int[] order) "
      "-> Tensor");
  m.def(
      "dropout_(Tensor(a!) x, Tensor seed, float p, float scale, float kept, float dropped, bool by_channel, int[] "
      "order) -> ()");

  // y = residual + dropout(activation(x + bias)): bias along dimension dim, dropout if there is a seed, as above.
  m.def(
      "bias_activation(Tensor x, Tensor? bias, Tensor? residual, Tensor? seed, float p, str activation, float[] "
      "parameters, int dim, int[] order) -> Tensor");
  // The gradients of x and the bias, the latter empty if it is not wanted. saved is x, or y if so said, or nothing for
  // the identity; bias is read if saved is x.
  m.def(
      "bias_activation_backward(Tensor grad_y, Tensor? saved, Tensor? bias, Tensor? seed, float p, str activation, "
      "float[] parameters, bool saved_is_output, bool wants_bias, int dim, int[] order) -> (Tensor, Tensor)");
  // The sums over all dimensions but one.
  m.def("channel_sum(Tensor x, int dim) -> Tensor");

  // y = activation((x - mean) weight / sqrt(var + eps) + bias + residual), channels in dimension 1. Without mean and
  // var they are those of x over all other dimensions, and are given back; else nothing is, and of_batch says whether
  // they are those. Statistics are in float32, float64 for float64; weight and bias in that or in the dtype of x. The
  // activation is one of a few.
  m.def(
      "batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? mean, Tensor? var, float eps, bool "
      "of_batch, str activation, float[] parameters, int[] order) -> (Tensor, Tensor, Tensor)");
  // The gradients of x, weight, bias and residual, empty for what is not there or not wanted. of_batch: mean and var
  // are those of x. output is y where there was a residual and is an activation.
  m.def(
      "batch_norm_backward(Tensor grad_y, Tensor x, Tensor? weight, Tensor? bias, Tensor? output, Tensor mean, Tensor "
      "var, float eps, bool of_batch, bool wants_residual, str activation, float[] parameters, int[] order) -> "
      "(Tensor, Tensor, Tensor, Tensor)");

  // y = value f(gate), f an activation with its parameters. Without gate, both are halves of x along dim, the gate the
  // second one unless gate_first. y and the gradients lie in the order; that of gate is empty if there is none.
  m.def(
      "gated(Tensor x, Tensor? gate, str activation, float[] parameters, int dim, bool gate_first, int[] order) -> "
      "Tensor");
  m.def(
      "gated_backward(Tensor grad_y, Tensor x, Tensor? gate, str activation, float[] parameters, int dim, bool "
      "gate_first, int[] order) -> (Tensor, Tensor)");

  // Softmax along dim, or its logarithm; y is contiguous.
  m.def("softmax(Tensor x, int dim, bool log) -> Tensor");
  m.def("softmax_backward(Tensor grad_y, Tensor y, int dim, bool log) -> Tensor");
  // Cross-entropy of x, (C) or (N, C, ...), with int64 labels or probabilities of x's sizes and dtype; reduction is
  // none, mean or sum; order is x's. Gives the loss, two statistics of each row, and what a mean divides by, all in
  // float32 (float64 for float64); the backward reads them.
  m.def(
      "cross_entropy(Tensor x, Tensor target, Tensor? weight, str reduction, int ignore_index, float label_smoothing, "
      "int[] order) -> (Tensor, Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor grad_loss, Tensor x, Tensor target, Tensor? weight, Tensor statistics, Tensor "
      "total_weight, str reduction, int ignore_index, float label_smoothing, int[] order) -> Tensor");
  m.def(
      "cross_entropy_backward_(Tensor grad_loss, Tensor(a!) x, Tensor target, Tensor? weight, Tensor statistics, "
      "Tensor total_weight, str reduction, int ignore_index, float label_smoothing, int[] order) -> ()");

  // Convolution of (N, C, L), (N, C, H, W) or (N, C, D, H, W). padding has the amount before each axis, then after
  // each; y_size and kernel_size say what the sizes of the operands leave open.
  m.def(
      "conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  // y = activation(conv(x, weight) + bias + residual); activation is an op's name or "identity", parameters its
  // numbers.
  m.def(
      "conv_activation(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] "
      "dilation, int groups, str activation, float[] parameters) -> Tensor");
  // The same with one bit an element that says which of its two values the activation's derivative has, as
  // masked_activation has it, in the order of y.
  m.def(
      "conv_masked_activation(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, "
      "int[] dilation, int groups, str activation, float[] parameters) -> (Tensor, Tensor)");
  // conv, and the mean and the variance of each channel of y.
  m.def(
      "conv_moments(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> "
      "(Tensor, Tensor, Tensor)");
  // y = activation((conv(x, weight) + bias - mean) norm_weight / sqrt(var + eps) + norm_bias + residual), numbers and
  // activations as batch_norm's.
  m.def(
      "conv_batch_norm(Tensor x, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, Tensor? "
      "residual, "
      "Tensor mean, Tensor var, float eps, int[] stride, int[] padding, int[] dilation, int groups, str activation, "
      "float[] parameters) -> Tensor");
  // The gradient of conv's input, with x for that of its output and y_size for the input's sizes.
  m.def(
      "conv_transpose(Tensor x, Tensor weight, Tensor? bias, SymInt[] y_size, int[] stride, int[] padding, int[] "
      "dilation, int groups) -> Tensor");
  m.def(
      "conv_transpose_activation(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, SymInt[] y_size, int[] "
      "stride, int[] padding, int[] dilation, int groups, str activation, float[] parameters) -> Tensor");
  // The gradient of z, of conv(activation(z), weight) = y: conv_transpose times the activation's derivative. x is
  // activation(z), which says what the derivative is. And the same of conv_transpose.
  m.def(
      "conv_dgrad_activation(Tensor grad_y, Tensor weight, Tensor x, int[] stride, int[] padding, int[] dilation, int "
      "groups, str activation, float[] parameters) -> Tensor");
  m.def(
      "conv_transpose_dgrad_activation(Tensor grad_y, Tensor weight, Tensor x, int[] stride, int[] padding, int[] "
      "dilation, int groups, str activation, float[] parameters) -> Tensor");
  m.def(
      "conv_wgrad(Tensor grad_y, Tensor x, SymInt[] kernel_size, int[] stride, int[] padding, int[] dilation, int "
      "groups) -> Tensor");
  // That and the channel_sum of grad_y, the gradient of the bias.
  m.def(
      "conv_wgrad_bias(Tensor grad_y, Tensor x, SymInt[] kernel_size, int[] stride, int[] padding, int[] dilation, int "
      "groups) -> (Tensor, Tensor)");

  // Pooling over the last one to three axes of (N, C, ...) or (C, ...). An offset is the place of an output's maximum
  // in its window, (kd kernel_h + kh) kernel_w + kw, in uint8 for windows of up to 256 elements, int16 (its bits an
  // unsigned number) up to 65536 and int32 above; an index is its place in x's plane. x_size has the pooled axes alone.
  // In the ops that take offsets or gradients, a kernel_size without elements stands for adaptive windows.
  m.def("max_pool(Tensor x, int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode) -> Tensor");
  m.def(
      "max_pool_with_offsets(Tensor x, int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode) "
      "-> (Tensor, Tensor)");
  m.def("adaptive_max_pool(Tensor x, SymInt[] output_size) -> Tensor");
  m.def("adaptive_max_pool_with_offsets(Tensor x, SymInt[] output_size) -> (Tensor, Tensor)");
  m.def(
      "max_pool_indices(Tensor offsets, SymInt[] x_size, int[] kernel_size, int[] stride, int[] padding, int[] "
      "dilation) -> Tensor");
  m.def(
      "max_pool_backward(Tensor grad_y, Tensor offsets, SymInt[] x_size, int[] kernel_size, int[] stride, int[] "
      "padding, int[] dilation) -> Tensor");
  m.def("max_unpool(Tensor x, Tensor indices, SymInt[] output_size) -> Tensor");
  // divisor is 0 where the windows' own sizes divide.
  m.def(
      "avg_pool(Tensor x, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad, int "
      "divisor) -> Tensor");
  m.def("adaptive_avg_pool(Tensor x, SymInt[] output_size) -> Tensor");
  m.def(
      "avg_pool_backward(Tensor grad_y, SymInt[] x_size, int[] kernel_size, int[] stride, int[] padding, bool "
      "ceil_mode, bool count_include_pad, int divisor) -> Tensor");

  // Optimizers. optimizer_step_: one step of the rule for all params; hyper are the rule's numbers in the order of its
  // Hyper (math/optimizers.h), lr first; states are all params' first state, then their second, ...; scalars
  // likewise, of one element; steps are one-element tensors that the op increments. hold_tensors_ hands tensors to the
  // next call of _C; optimizer_launch_ runs the kernels of on's device for a plan there, args being an address or 0.
  m.def(
      "optimizer_step_(str rule, float[] hyper, float weight_decay, bool decoupled, bool maximize, Tensor(a!)[] "
      "params, Tensor[] grads, Tensor(b!)[] states, Tensor(c!)[] scalars, Tensor(d!)[] steps) -> ()");
  m.def("hold_tensors_(Tensor(a!)[] tensors) -> ()");
  m.def("optimizer_launch_(Tensor on, int args) -> ()");
}

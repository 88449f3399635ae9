// Every schema of the library, grouped by family. Kernels are registered in ops/, fake kernels, autograd and autocast in
// Python (nnart_ops/autograd).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(nnart_ops, m) {
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
}

// PReLU (He et al. 2015, arXiv:1502.01852): `prelu` and `prelu_backward`.
#include <tuple>

#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"

namespace nnart {
namespace {

// x in an order of elements where a channel's weight serves a run of them.
struct Arranged {
  Tensor x;
  int64_t outer, channels, inner;
};

Arranged arrange(const Tensor& x, const Tensor& weight, const char* op) {
  check_same_dtype(x, "x", weight, "weight", op);
  int64_t weights = weight.numel(), channels = x.dim() >= 2 ? x.size(1) : 1;
  check(weight.dim() <= 1, op, ": weight must have 0 or 1 dimensions, but has sizes ", weight.sizes());
  check(weights == 1 || weights == channels, op, ": weight must have 1 element or one for each of the ", channels,
        " channels of x, but has ", weights);
  if (weights == 1) {
    Tensor ordered = dense(x);
    return {ordered, 1, 1, ordered.numel()};
  }
  if (x.numel() == 0) return {dense(x), 0, weights, 1};
  // Channels-last, in any number of dimensions: the channels are innermost and the others keep their order.
  Sizes sizes = x.sizes(), strides = x.strides();
  int64_t expected = weights;
  bool channels_last = x.dim() > 2 && strides[1] == 1;
  for (int64_t d = x.dim() - 1; d >= 0; --d) {
    if (d == 1) continue;
    channels_last = channels_last && (strides[d] == expected || sizes[d] == 1);
    expected *= sizes[d];
  }
  if (channels_last) return {x, x.numel() / weights, weights, 1};
  Tensor ordered = torch::stable::contiguous(x);
  return {ordered, x.size(0), weights, x.numel() / weights / x.size(0)};
}

PReluArgs arguments(const Arranged& arranged, const Tensor& weight, const Tensor& y) {
  PReluArgs args{};
  args.dtype = dtype_of(arranged.x, "prelu", "x");
  args.outer = arranged.outer;
  args.channels = arranged.channels;
  args.inner = arranged.inner;
  args.x = arranged.x.data_ptr();
  args.weight = weight.data_ptr();
  args.y = y.data_ptr();
  return args;
}

Tensor prelu(const Tensor& x, const Tensor& weight) {
  Arranged arranged = arrange(x, weight, "prelu");
  Tensor y = empty_as(arranged.x), w = dense(weight);
  PReluArgs args = arguments(arranged, w, y);
  if (x.numel() > 0) launch(args, x);
  return y;
}

std::tuple<Tensor, Tensor> prelu_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight) {
  check_same_sizes(grad_y, "grad_y", x, "x", "prelu_backward");
  check_same_dtype(grad_y, "grad_y", x, "x", "prelu_backward");
  Arranged arranged = arrange(x, weight, "prelu_backward");
  Tensor grad_x = empty_as(arranged.x), w = dense(weight), grad_weight = empty_as(w);
  Tensor grad = in_order_of(arranged.x, grad_y);
  PReluArgs args = arguments(arranged, w, grad_x);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_weight);
    return {grad_x, grad_weight};
  }
  Tensor partial_sums = scratch_on(x, scratch(args));
  args.grad_y = grad.data_ptr();
  args.grad_weight = grad_weight.data_ptr();
  args.partial_sums = static_cast<double*>(partial_sums.data_ptr());
  launch(args, x);
  return {grad_x, grad_weight};
}

}  // namespace

void register_prelu(Library& m) {
  m.impl("prelu", TORCH_BOX((&prelu)));
  m.impl("prelu_backward", TORCH_BOX((&prelu_backward)));
}

}  // namespace nnart

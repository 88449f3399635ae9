// Softmax and its logarithm: `softmax` and `softmax_backward`.
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"

namespace nnart {
namespace {

SoftmaxArgs arguments(const Tensor& x, int64_t dim, bool log, const char* op) {
  SoftmaxArgs args{};
  args.dtype = dtype_of(x, op, "x");
  args.log = log;
  args.outer = args.classes = args.inner = 1;
  if (x.dim() == 0) dim = -1;  // a scalar is a row of one
  check(dim >= -1 && dim < x.dim() && (x.dim() == 0 || dim >= 0), op, ": dim must be a dimension of x, which has ",
        x.dim(), ", but is ", dim);
  for (int64_t d = 0; d < x.dim(); ++d) (d < dim ? args.outer : d > dim ? args.inner : args.classes) *= x.size(d);
  return args;
}

Tensor softmax(const Tensor& x, int64_t dim, bool log) {
  SoftmaxArgs args = arguments(x, dim, log, "softmax");
  Tensor ordered = laid_in({}, x), y = empty_in(Order{}, x);
  args.x = ordered.data_ptr();
  args.y = y.data_ptr();
  if (x.numel() > 0) launch(args, x);
  return y;
}

Tensor softmax_backward(const Tensor& grad_y, const Tensor& y, int64_t dim, bool log) {
  const char* op = "softmax_backward";
  check_same_dtype(grad_y, "grad_y", y, "y", op);
  check_same_sizes(grad_y, "grad_y", y, "y", op);
  SoftmaxArgs args = arguments(y, dim, log, op);
  Tensor ordered = laid_in({}, y), grad = laid_in({}, grad_y), grad_x = empty_in(Order{}, y);
  args.x = ordered.data_ptr();
  args.grad_y = grad.data_ptr();
  args.y = grad_x.data_ptr();
  if (y.numel() > 0) launch(args, y);
  return grad_x;
}

}  // namespace

void register_softmax(Library& m) {
  m.impl("softmax", TORCH_BOX((&softmax)));
  m.impl("softmax_backward", TORCH_BOX((&softmax_backward)));
}

}  // namespace nnart

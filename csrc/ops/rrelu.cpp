// Leaky ReLU with random slopes (Xu et al. 2015, arXiv:1505.00853): `rrelu`, which is its own backward.
#include "ops/dropout.h"
#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

Tensor rrelu(const Tensor& x, const Tensor& sign, const Tensor& seed, double lower, double upper, Order order) {
  check_same_dtype(x, "x", sign, "sign", "rrelu");
  check_same_sizes(x, "x", sign, "sign", "rrelu");
  check_order(order, x, "rrelu");
  RReluArgs args{};
  args.dtype = dtype_of(x, "rrelu", "x");
  Tensor seeds = checked_seed(seed, x, false, "rrelu"), y = empty_in(order, x), ordered_sign = laid_in(order, sign);
  args.x_is_one_value = is_one_value(x);
  Tensor ordered = args.x_is_one_value ? x : laid_in(order, x);
  args.parts = seeds.numel();
  args.n = x.numel() / args.parts;
  args.seeds = static_cast<const int64_t*>(seeds.data_ptr());
  args.lower = lower;
  args.upper = upper;
  args.x = ordered.data_ptr();
  args.sign = ordered_sign.data_ptr();
  args.y = y.data_ptr();
  if (x.numel() > 0) launch(args, x);
  return y;
}

}  // namespace

void register_rrelu(Library& m) { m.impl("rrelu", TORCH_BOX((&rrelu))); }

}  // namespace nnart

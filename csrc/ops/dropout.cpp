// `dropout` (Srivastava et al. 2014, Journal of Machine Learning Research 15) and `dropout_` (in place), of elements or
// channels, with zeros or with alpha dropout's values (Klambauer et al. 2017, arXiv:1706.02515).
#include "ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

struct Rule {
  double p, scale, kept, dropped;
};

// Fills y, which lies in the order, from x, which does too or is one value.
void run(const Tensor& x, const Tensor& y, const Tensor& seed, Rule rule, bool by_channel, const Order& order) {
  Sizes sizes = y.sizes();
  DropoutArgs args{};
  args.dtype = dtype_of(y, "dropout", "x");
  args.threshold = threshold_of(rule.p, "dropout");
  args.parts = seed.numel();
  args.batch = args.pixels = args.inner = 1;
  args.channels = y.numel() / args.parts;
  if (by_channel) {
    check(y.dim() >= 2, "dropout: x must have 2 dimensions or more to drop channels, but has sizes ", Sizes(sizes));
    bool last = !order.empty();
    for (size_t k = 0; k < order.size(); ++k)
      check(order[k] == (k + 1 == order.size() ? 1 : int64_t(k + (k > 0))),
            "dropout: to drop channels, order must be empty or have dimension 1 last and the others as they are");
    args.batch = sizes[0] / args.parts;
    args.channels = sizes[1];
    int64_t& places = last ? args.pixels : args.inner;
    for (size_t d = 2; d < sizes.size(); ++d) places *= sizes[d];
  }
  if (y.numel() == 0) return;
  args.seeds = static_cast<const int64_t*>(seed.data_ptr());
  args.scale = rule.scale;
  args.kept = rule.kept;
  args.dropped = rule.dropped;
  args.x_is_one_value = is_one_value(x);
  args.x = x.data_ptr();
  args.y = y.data_ptr();
  launch(args, y);
}

Tensor dropout(const Tensor& x, const Tensor& seed, double p, double scale, double kept, double dropped,
               bool by_channel, Order order) {
  dtype_of(x, "dropout", "x");
  check_order(order, x, "dropout");
  Tensor seeds = checked_seed(seed, x, false, "dropout"), y = empty_in(order, x);
  run(is_one_value(x) ? x : laid_in(order, x), y, seeds, {p, scale, kept, dropped}, by_channel, order);
  return y;
}

void dropout_(const Tensor& x, const Tensor& seed, double p, double scale, double kept, double dropped, bool by_channel,
              Order order) {
  dtype_of(x, "dropout_", "x");
  check_order(order, x, "dropout_");
  Tensor seeds = checked_seed(seed, x, false, "dropout_"), y = laid_in(order, x);
  run(y, y, seeds, {p, scale, kept, dropped}, by_channel, order);
  if (y.data_ptr() == x.data_ptr()) return;
  Tensor target = x;
  torch::stable::copy_(target, y);
}

}  // namespace

Tensor checked_seed(const Tensor& seed, const Tensor& x, bool one_alone, const char* op) {
  check(seed.scalar_type() == ScalarType::Long, op, ": seed must have dtype int64");
  int64_t count = seed.numel();
  bool divides = count == 1 || (!one_alone && count > 0 && x.dim() > 0 && x.size(0) % count == 0);
  check(seed.dim() <= 1 && divides, op, ": seed must be one number",
        one_alone ? "" : " or one for each of as many equal parts of dimension 0 of x", ", but seed has sizes ",
        seed.sizes(), " and x has ", x.sizes());
  return torch::stable::contiguous(seed);
}

uint32_t threshold_of(double p, const char* op) {
  check(p >= 0 && p < 1, op, ": p must be at least 0 and less than 1, but is ", p);
  return uint32_t(std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1));
}

void register_dropout(Library& m) {
  m.impl("dropout", TORCH_BOX((&dropout)));
  m.impl("dropout_", TORCH_BOX((&dropout_)));
}

}  // namespace nnart

// Cross-entropy from the logits: `cross_entropy`, `cross_entropy_backward` and `cross_entropy_backward_`.
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

using Optional = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

Reduction reduction_of(const std::string& name, const char* op) {
  if (name == "none") return Reduction::None;
  if (name == "mean") return Reduction::Mean;
  check(name == "sum", op, ": reduction must be none, mean or sum, but is '", name, "'");
  return Reduction::Sum;
}

// The order of the rows: x's without the classes.
Order order_of_rows(const Order& order, int64_t class_dim) {
  Order rows;
  for (int64_t d : order)
    if (d != class_dim) rows.push_back(d - (d > class_dim));
  return rows;
}

// What both passes do with their arguments; the tensors are kept until the kernel has run.
struct Rows {
  CrossEntropyArgs args{};
  Tensor x, target;
  Optional weight;
  Ints sizes;  // x's without the classes
  Order order;
  int32_t compute_dtype;

  Rows(const Tensor& x_, const Tensor& target_, const Optional& weight_, const std::string& reduction,
       int64_t ignore_index, double label_smoothing, const Order& x_order, const char* op)
      : x(x_), target(target_), weight(weight_) {
    check(x.dim() >= 1, op, ": x must have a dimension of classes, but is a scalar");
    check_order(x_order, x, op);
    int64_t class_dim = x.dim() == 1 ? 0 : 1;
    args.dtype = dtype_of(x, op, "x");
    compute_dtype = args.dtype == DType::Float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    args.reduction = reduction_of(reduction, op);
    args.ignore_index = ignore_index;
    args.label_smoothing = label_smoothing;
    order = order_of_rows(x_order, class_dim);
    args.outer = args.inner = 1;
    args.classes = x.size(class_dim);
    check(args.classes <= std::numeric_limits<int32_t>::max(), op, ": there may be 2^31 - 1 classes, but x has ",
          args.classes);
    bool before = true;
    for (int64_t k = 0; k < x.dim(); ++k) {
      int64_t d = x_order.empty() ? k : x_order[size_t(k)];
      before = before && d != class_dim;
      if (d != class_dim) (before ? args.outer : args.inner) *= x.size(d);
      if (k != class_dim) sizes.push_back(x.size(k));
    }
    x = laid_in(x_order, x);
    args.x = x.data_ptr();
    if (target.scalar_type() == ScalarType::Long) {
      Sizes given = target.sizes();
      check(Ints(given.begin(), given.end()) == sizes, op, ": labels must have the sizes ",
            Sizes(sizes.data(), sizes.size()), " of x without its classes, but have ", Sizes(given));
      target = laid_in(order, target);
      args.labels = static_cast<const int64_t*>(target.data_ptr());
      // An empty tensor has no address, and that there are labels is what the kernel needs to know.
      static constexpr int64_t kNone = 0;
      if (!args.labels) args.labels = &kNone;
    } else {
      check_same_dtype(x, "x", target, "target", op);
      check_same_sizes(x, "x", target, "target", op);
      target = laid_in(x_order, target);
      args.probabilities = target.data_ptr();
    }
    if (weight) {
      check_same_dtype(x, "x", *weight, "weight", op);
      check(weight->dim() == 1 && weight->size(0) == args.classes, op, ": weight must have the sizes [", args.classes,
            "], one for each class, but has ", weight->sizes());
      weight = dense(*weight);
      args.weight = weight->data_ptr();
    }
  }

  void use_statistics(const Tensor& statistics, const Tensor& total_weight) {
    char* data = static_cast<char*>(statistics.data_ptr());
    args.largest = data;
    args.log_sum = data + args.outer * args.inner * (args.dtype == DType::Float64 ? 8 : 4);
    args.total_weight = total_weight.data_ptr();
  }

  void run(const char* op) {
    int64_t wrong_label = kNoLabel;
    args.wrong_label = &wrong_label;
    Tensor partial_sums = scratch_on(x, scratch(args));
    args.partial_sums = static_cast<double*>(partial_sums.data_ptr());
    launch(args, x);
    check(wrong_label == kNoLabel, op, ": Target ", wrong_label, " is out of bounds: there are ", args.classes,
          " classes, 0 to ", args.classes - 1, ", and ignore_index is ", args.ignore_index);
  }

 private:
  static constexpr int64_t kNoLabel = std::numeric_limits<int64_t>::min();
};

std::tuple<Tensor, Tensor, Tensor> cross_entropy(const Tensor& x, const Tensor& target, Optional weight, Text reduction,
                                                 int64_t ignore_index, double label_smoothing, Order order) {
  const char* op = "cross_entropy";
  Rows rows(x, target, weight, reduction, ignore_index, label_smoothing, order, op);
  CrossEntropyArgs& args = rows.args;
  bool each = args.reduction == Reduction::None;
  auto make = [&](const Order& by, const Ints& sizes) {
    return empty_in(by, Sizes(sizes.data(), sizes.size()), rows.compute_dtype, x);
  };
  Tensor loss = each ? make(rows.order, rows.sizes) : make({}, {});
  Tensor statistics = make({}, {2, args.outer * args.inner}), total_weight = make({}, {});
  for (const Tensor& t : {loss, statistics, total_weight}) poisoned(t);
  rows.use_statistics(statistics, total_weight);
  args.loss = loss.data_ptr();
  rows.run(op);
  return {loss, statistics, total_weight};
}

// Writes the gradient to grad_x, or over x if that is null.
void backward_into(Tensor* grad_x, const Tensor& grad_loss, const Tensor& x, const Tensor& target,
                   const Optional& weight, const Tensor& statistics, const Tensor& total_weight,
                   const std::string& reduction, int64_t ignore_index, double label_smoothing, const Order& order,
                   const char* op) {
  Rows rows(x, target, weight, reduction, ignore_index, label_smoothing, order, op);
  Sizes size = statistics.sizes();
  check(size.size() == 2 && size[0] == 2 && size[1] == rows.args.outer * rows.args.inner, op,
        ": statistics must have the sizes [2, ", rows.args.outer * rows.args.inner, "], but has ", Sizes(size));
  for (const Tensor* t : {&grad_loss, &statistics, &total_weight})
    check(dtype_code(*t) == rows.compute_dtype, op,
          ": grad_loss, statistics and total_weight must be float32, or float64 if x is");
  bool each = rows.args.reduction == Reduction::None;
  Sizes given = grad_loss.sizes();
  check(Ints(given.begin(), given.end()) == (each ? rows.sizes : Ints{}), op,
        ": grad_loss must have the sizes of the loss, but has ", Sizes(given));
  Tensor grad = laid_in(each ? rows.order : Order{}, grad_loss), kept = dense(statistics);
  rows.use_statistics(kept, total_weight);
  rows.args.grad = grad.data_ptr();
  rows.args.y = grad_x ? grad_x->data_ptr() : rows.x.data_ptr();
  if (x.numel() > 0) rows.run(op);
  if (!grad_x && rows.x.data_ptr() != x.data_ptr()) {
    Tensor into = x;
    torch::stable::copy_(into, rows.x);
  }
}

Tensor cross_entropy_backward(const Tensor& grad_loss, const Tensor& x, const Tensor& target, Optional weight,
                              const Tensor& statistics, const Tensor& total_weight, Text reduction,
                              int64_t ignore_index, double label_smoothing, Order order) {
  check_order(order, x, "cross_entropy_backward");
  Tensor grad_x = empty_in(order, x);
  backward_into(&grad_x, grad_loss, x, target, weight, statistics, total_weight, reduction, ignore_index,
                label_smoothing, order, "cross_entropy_backward");
  return grad_x;
}

void cross_entropy_backward_(const Tensor& grad_loss, const Tensor& x, const Tensor& target, Optional weight,
                             const Tensor& statistics, const Tensor& total_weight, Text reduction, int64_t ignore_index,
                             double label_smoothing, Order order) {
  backward_into(nullptr, grad_loss, x, target, weight, statistics, total_weight, reduction, ignore_index,
                label_smoothing, order, "cross_entropy_backward_");
}

}  // namespace

void register_cross_entropy(Library& m) {
  m.impl("cross_entropy", TORCH_BOX((&cross_entropy)));
  m.impl("cross_entropy_backward", TORCH_BOX((&cross_entropy_backward)));
  m.impl("cross_entropy_backward_", TORCH_BOX((&cross_entropy_backward_)));
}

}  // namespace nnart

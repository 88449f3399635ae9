// Optimizers: `sgd_` and `adamw_`, one step for a list of parameters of one dtype.
#include <cmath>
#include <vector>

#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

using Tensors = std::vector<Tensor>;

// The operands of the multi-tensor loop, each in the order of its parameter's elements. What had to be copied for that
// and is written by the kernel goes back in finish().
class Operands {
 public:
  Operands(const Tensors& params, const Tensors& grads, const char* op) : op_(op) {
    check_length(params, grads, "grads");
    for (size_t i = 0; i < params.size(); ++i) {
      Tensor param = dense(params[i]);
      keep(params[i], param);
      references_.push_back(param);
      TensorRow row{};
      row.data[0] = param.data_ptr();
      row.first = n_;
      row.n = param.numel();
      n_ += row.n;
      rows_.push_back(row);
    }
    add(grads, "grads", false);
  }

  void add_state(const Tensors& state, const char* name) {
    check_length(references_, state, name);
    add(state, name, true);
  }

  TensorTable table() const { return {rows_.data(), int64_t(rows_.size()), n_}; }

  void finish() {
    for (auto& [target, copy] : copies_) torch::stable::copy_(target, copy);
  }

 private:
  struct Copy {
    Tensor target, copy;
  };

  void check_length(const Tensors& params, const Tensors& list, const char* name) const {
    check(params.size() == list.size(), op_, ": params and ", name, " must have the same length, but have ",
          params.size(), " and ", list.size());
  }

  void keep(const Tensor& given, const Tensor& ordered) {
    if (given.data_ptr() == ordered.data_ptr()) return;
    copies_.push_back({given, ordered});
  }

  void add(const Tensors& list, const char* name, bool written) {
    ++operand_;
    for (size_t i = 0; i < list.size(); ++i) {
      check_same_sizes(references_[i], "the parameter", list[i], name, op_);
      check_same_dtype(references_[0], "params", list[i], name, op_);
      check_same_dtype(references_[0], "params", references_[i], "params", op_);
      Tensor ordered = in_order_of(references_[i], list[i]);
      if (written)
        keep(list[i], ordered);
      else
        references_alive_.push_back(ordered);
      rows_[i].data[operand_] = ordered.data_ptr();
    }
  }

  const char* op_;
  int operand_ = 0;
  int64_t n_ = 0;
  std::vector<TensorRow> rows_;
  Tensors references_, references_alive_;
  std::vector<Copy> copies_;
};

void sgd_(Tensors params, Tensors grads, Tensors momentum_buffers, double lr, double momentum, double dampening,
          double weight_decay, bool nesterov, bool maximize) {
  if (params.empty()) return;
  Operands operands(params, grads, "sgd_");
  SgdArgs args{};
  args.has_momentum = !momentum_buffers.empty();
  if (args.has_momentum) operands.add_state(momentum_buffers, "momentum_buffers");
  check(args.has_momentum || momentum == 0, "sgd_: momentum is ", momentum, " but momentum_buffers is empty");
  args.dtype = dtype_of(params[0], "sgd_", "params");
  args.parameters = {lr, momentum, dampening, weight_decay, nesterov, maximize};
  args.table = operands.table();
  if (args.table.n > 0) launch(args, params[0]);
  operands.finish();
}

// Adds one to a counter of float32 or float64 and returns it.
double increment(const Tensor& step) {
  check(step.numel() == 1, "adamw_: each of steps must have one element, but has ", step.numel());
  switch (dtype_of(step, "adamw_", "steps")) {
    case DType::Float32:
      return *static_cast<float*>(step.data_ptr()) += 1;
    case DType::Float64:
      return *static_cast<double*>(step.data_ptr()) += 1;
    case DType::BFloat16:
    case DType::Float16:
      break;
  }
  check(false, "adamw_: steps must have dtype float32 or float64");
  return 0;
}

void adamw_(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors max_exp_avg_sqs,
            Tensors steps, double lr, double beta1, double beta2, double eps, double weight_decay, bool maximize) {
  if (params.empty()) return;
  check(steps.size() == params.size(), "adamw_: params and steps must have the same length, but have ", params.size(),
        " and ", steps.size());
  Operands operands(params, grads, "adamw_");
  operands.add_state(exp_avgs, "exp_avgs");
  operands.add_state(exp_avg_sqs, "exp_avg_sqs");
  AdamWArgs args{};
  args.amsgrad = !max_exp_avg_sqs.empty();
  if (args.amsgrad) operands.add_state(max_exp_avg_sqs, "max_exp_avg_sqs");
  args.dtype = dtype_of(params[0], "adamw_", "params");

  std::vector<AdamWParameters> parameters;
  double step_before = 0;
  for (const Tensor& step : steps) {
    double t = increment(step);
    // Tensors that have seen as many steps share the corrections, two powers.
    if (t == step_before) {
      parameters.push_back(parameters.back());
      continue;
    }
    step_before = t;
    double correction1 = 1 - std::pow(beta1, t), correction2 = 1 - std::pow(beta2, t);
    parameters.push_back(
        {1 - lr * weight_decay, beta1, beta2, eps, lr / correction1, 1 / std::sqrt(correction2), maximize});
  }
  args.parameters = parameters.data();
  args.table = operands.table();
  if (args.table.n > 0) launch(args, params[0]);
  operands.finish();
}

}  // namespace

void register_optimizers(Library& m) {
  m.impl("sgd_", TORCH_BOX((&sgd_)));
  m.impl("adamw_", TORCH_BOX((&adamw_)));
}

}  // namespace nnart

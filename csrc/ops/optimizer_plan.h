// The table of an optimizer's step, kept from step to step: which tensors it updates, where they lie and by what rule.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/optimizer_args.h"
#include "ops/checks.h"

namespace nnart {

using Tensors = std::vector<Tensor>;

// What a row has besides the parameter and its gradient, and the order in which its tensors come: parameter, gradient,
// states, scales of those that are 8-bit, master, compensation, average, step, scalars, the rows' variance.
struct RowLayout {
  int states = 0;
  std::vector<int> quantized;  // which states are 8-bit
  std::vector<int> positive;   // which of them have no sign
  bool master = false, compensation = false, ema = false, step = false;
  int scalars = 0;
  bool factored = false;  // the state has a variance for each column, and one for each row comes last of all
  int tensors() const {
    return 2 + states + int(quantized.size()) + master + compensation + ema + step + scalars + factored;
  }
};

// Throws for a name that is no rule's.
OptimizerRule rule_named(const std::string& name);
// How many numbers the rule's Hyper has, and how many tensors of state: of its parameter's size, and
// of one element.
int hyper_count(OptimizerRule);
int state_count(OptimizerRule);
int scalar_count(OptimizerRule);

class OptimizerPlan {
 public:
  OptimizerPlan() = default;
  OptimizerPlan(const OptimizerPlan&) = delete;
  OptimizerPlan& operator=(const OptimizerPlan&) = delete;
  ~OptimizerPlan();

  // Groups are numbered in the order in which they are added.
  void add_group(const OptimizerGroup& group) { groups_.push_back(group); }
  OptimizerGroup& group(size_t i) { return groups_[i]; }
  size_t group_count() const { return groups_.size(); }

  // Rows of one layout, their tensors one row after the other. steps: how many the rows have taken, where they have no
  // tensor that says so. Checks dtypes and sizes; what does not lie in its parameter's order is copied, and the plan is
  // then good for one step only.
  void add_rows(int group, const RowLayout& layout, const Tensors& tensors, double steps);

  // Whether every tensor of the row but the gradient still lies where it lay, in the same order.
  bool is_current(size_t row) const;
  bool serves_one_step() const { return copied_; }

  size_t row_count() const { return rows_.size(); }
  // The sizes of a row's parameter, then its strides.
  const int64_t* geometry(size_t row) const { return geometry_.data() + first_geometry_[row]; }
  size_t dims(size_t row) const { return (first_geometry_[row + 1] - first_geometry_[row]) / 2; }
  DType grad_dtype(size_t row) const { return rows_[row].grad_dtype; }
  void set_grad(size_t row, void* data) {
    table_.changed = table_.changed || rows_[row].grad != data;
    rows_[row].grad = data;
  }
  // Where all rows are; -1 on the CPU.
  int32_t gpu() const { return gpu_.value_or(-1); }

  // One step, with everything of args but the table filled in by the caller. On a GPU the result is in its memory
  // alone.
  OptimizerResult run(OptimizerArgs args);

 private:
  struct Place {
    Tensor tensor;
    void* data;
  };
  struct Copy {
    Tensor target, copy;
  };

  Tensor in_order(const Tensor& reference, const Tensor& t, bool written);
  void check_overlaps();
  void check_device(const Tensor& t);
  void prepare_table(OptimizerArgs& args);

  std::vector<OptimizerGroup> groups_;
  std::vector<OptimizerRow> rows_;
  Tensors params_, alive_;
  // Of all rows one after the other, and where each row's begin: what its tensors' places are, and the sizes and
  // strides of its parameter.
  std::vector<Place> places_;
  std::vector<int64_t> geometry_;
  std::vector<size_t> first_place_ = {0}, first_geometry_ = {0};
  std::vector<Copy> copies_;
  int64_t tiles_ = 0;
  FactorWork factors_{};
  bool copied_ = false, overlap_ = false, overlap_is_known_ = false;
  std::optional<int32_t> gpu_;
  // On a GPU: its copy of the table, and of the groups what it was last given.
  std::optional<Tensor> memory_;
  OptimizerTable table_{};
  std::vector<OptimizerGroup> groups_there_;
};

}  // namespace nnart

// A row's rule with the numbers of one step: built and scaled in the same way on every device.
#pragma once

#include <cstring>
#include <new>

#include "core/optimizer_args.h"

namespace nnart {

NNART_HD double read_scalar(const void* p, DType dtype) {
  return dtype == DType::Float64 ? *static_cast<const double*>(p) : *static_cast<const float*>(p);
}
NNART_HD void write_scalar(void* p, DType dtype, double x) {
  if (dtype == DType::Float64)
    *static_cast<double*>(p) = x;
  else
    *static_cast<float*>(p) = float(x);
}

// The distance from 1 to the next number.
NNART_HD double epsilon_of(DType dtype) {
  switch (dtype) {
    case DType::Float32:
      return 0x1p-23;
    case DType::Float64:
      return 0x1p-52;
    case DType::BFloat16:
      return 0x1p-7;
    case DType::Float16:
      return 0x1p-10;
  }
  return 0;
}

// Takes over what the learning rate is where it lies.
NNART_HD void read_lr(OptimizerGroup& group) {
  if (!group.lr) return;
  double lr = read_scalar(group.lr, group.lr_dtype);
  group.hyper[0] = lr;
  group.kept = 1 - lr * group.decoupled_decay;
}

// Counts the step of a row and gives its number.
NNART_HD double next_step(OptimizerRow& row) {
  if (!row.step) return row.steps += 1;
  double t = read_scalar(row.step, row.scalar_dtype) + 1;
  write_scalar(row.step, row.scalar_dtype, t);
  return t;
}

// Calls visit with the class of the row's rule.
template <class Visit>
NNART_HD void with_rule_of(const OptimizerRow& row, const OptimizerGroup& group, const Visit& visit) {
  row.param_dtype == DType::Float64 ? with_rule<double>(group.rule, visit) : with_rule<float>(group.rule, visit);
}

// Builds the rule of step t in memory, and takes the rule's own scalars a step further.
NNART_HD void build_rule(OptimizerRow& row, const OptimizerGroup& group, double t, void* memory) {
  math::OptimizerScalars scalars{
      {}, row.scalar_dtype == DType::Float32, epsilon_of(row.param_dtype), row.row_variance != nullptr};
  for (int k = 0; k < 2; ++k)
    if (row.scalar[k]) scalars.value[k] = read_scalar(row.scalar[k], row.scalar_dtype);
  with_rule_of(row, group, [&](auto type) {
    using Rule = typename decltype(type)::type;
    static_assert(sizeof(Rule) <= kRuleBytes && sizeof(typename Rule::Hyper) <= sizeof group.hyper);
    typename Rule::Hyper hyper;
    memcpy(&hyper, group.hyper, sizeof hyper);
    row.rule = new (memory) Rule(hyper, t, scalars);
  });
  for (int k = 0; k < 2; ++k)
    if (row.scalar[k]) write_scalar(row.scalar[k], row.scalar_dtype, scalars.value[k]);
}

// Gives a layer-wise rule its norms, from their squares.
NNART_HD void scale_rule(const OptimizerRow& row, const OptimizerGroup& group, double param_square,
                         double measured_square) {
  with_rule_of(row, group, [&](auto type) {
    using Rule = typename decltype(type)::type;
    if constexpr (is_layer_wise<Rule>)
      static_cast<Rule*>(const_cast<void*>(row.rule))
          ->scale(::sqrt(param_square), ::sqrt(measured_square), double(row.n));
  });
}

}  // namespace nnart

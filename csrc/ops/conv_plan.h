// Which strategy computes a convolution: one rule table for all three passes.
#pragma once

#include <string>
#include <vector>

#include "core/args.h"

namespace nnart {

struct ConvPlan {
  ConvStrategy strategy;
  const char* reason;
};

// native_takes_it: whether torch's own convolution can be called for this problem, and is vectorized for its dtype.
ConvPlan plan_of(const ConvArgs& args, bool native_takes_it);

// Whether native adds the bias of a transposed convolution without a slow pass of its own, up to 18 times as long.
bool native_adds_bias(const ConvArgs&);

// A convolution by its sizes, as `nnart_ops::conv` takes them, and how its tensors lie.
struct ConvProblem {
  DType dtype;
  bool channels_last;
  std::vector<int64_t> x_size, weight_size, stride, padding, dilation;
  int64_t groups;
  bool has_bias;  // added by the dgrad, which is a transposed convolution then
};

// Whether the plan leaves all the wanted passes to native. Then the Python functions call it directly, autograd and
// all, which saves a small problem some 10 us. False for sizes that are no convolution.
bool plan_is_native(const ConvProblem&, const std::vector<ConvPass>& wanted);

// What plan_of said last in this thread, for nnart_ops.explain.
const ConvPlan& last_conv_plan();

const char* name_of(ConvStrategy strategy);

// From now on every convolution that the strategy `name` takes is computed by it; "auto" gives the choice back to the
// rules. False if there is no such strategy.
bool force_conv_strategy(const std::string& name);

// What is forced, or "auto".
const char* forced_conv_strategy();

}  // namespace nnart

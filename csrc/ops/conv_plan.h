// Which strategy computes a convolution: one rule table for all three passes.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/args.h"

// What Python calls by ctypes, in _C and in _cuda alike: each has a planner of its own.
#define NNART_FOR_PYTHON extern "C" __attribute__((visibility("default")))

namespace nnart {

struct ConvPlan {
  ConvStrategy strategy;
  const char* reason;
  // Seconds that it takes less than native, measured or guessed.
  double gain = std::numeric_limits<double>::infinity();
};

// native_takes_it: whether torch's own convolution can be called for this problem, and is vectorized for its dtype.
ConvPlan plan_of(const ConvArgs& args, bool native_takes_it);

// All that take the problem and compute it rightly.
std::vector<ConvStrategy> strategies_for(const ConvArgs& args, bool native_takes_it);

// Whether native adds the bias of a transposed convolution without a slow pass of its own, up to 18 times as long.
bool native_adds_bias(const ConvArgs&);

// A convolution by its sizes, as `nnart_ops::conv` takes them, and how its tensors lie.
struct ConvProblem {
  DType dtype;
  bool channels_last, weight_channels_last;
  std::vector<int64_t> x_size, weight_size, stride, padding, dilation;
  int64_t groups;
  bool transposed, has_bias;  // the bias is added by the forward, or by the dgrad if transposed
};

// Whether the plan leaves all the wanted passes to native, or they gain less than our Python costs. Then the Python
// functions call it directly, autograd and all. False for sizes that are no convolution; nothing while one of the
// passes is still to be measured.
std::optional<bool> plan_is_native(const ConvProblem&, const std::vector<ConvPass>& wanted);

// The plan that this thread went by last, for nnart_ops.explain.
ConvPlan& last_conv_plan();

const char* name_of(ConvStrategy strategy);
std::optional<ConvStrategy> strategy_named(const std::string& name);

// From now on every convolution that the strategy `name` takes is computed by it; "auto" gives the choice back to the
// rules. False if there is no such strategy.
bool force_conv_strategy(const std::string& name);

// What is forced, or "auto".
const char* forced_conv_strategy();

}  // namespace nnart

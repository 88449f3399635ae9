// Which strategy computes a convolution: one rule table for all three passes.
#pragma once

#include <string>

#include "core/args.h"

namespace nnart {

struct ConvPlan {
  ConvStrategy strategy;
  const char* reason;
};

// native_takes_it: whether torch's own convolution can be called for this problem, and is vectorized for its dtype.
ConvPlan plan_of(const ConvArgs& args, bool native_takes_it);

// What plan_of said last in this thread, for nnart_ops.explain.
const ConvPlan& last_conv_plan();

const char* name_of(ConvStrategy strategy);

// From now on every convolution that the strategy `name` takes is computed by it; "auto" gives the choice back to the
// rules. False if there is no such strategy.
bool force_conv_strategy(const std::string& name);

// What is forced, or "auto".
const char* forced_conv_strategy();

}  // namespace nnart

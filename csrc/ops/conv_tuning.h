// The measured choice of a strategy. While tuning is on, the first call of a problem runs every strategy that takes it,
// and it and all later calls take the fastest. Python keeps the choices for other processes (nnart_ops/_tuning.py).
#pragma once

#include <functional>
#include <optional>

#include "ops/checks.h"
#include "ops/conv_plan.h"

namespace nnart {

// What the time of a call depends on.
struct ConvCall {
  const ConvArgs& args;  // but for its operands
  bool native_takes_it;
  bool weight_channels_last, has_bias, has_residual;
  const char* activation;
};

// Whether the call's strategy is to be measured: tuning is on, none is forced, and there are several.
bool tunes(const ConvCall&);

// What was measured for such a call, here or in another process that kept it.
std::optional<ConvPlan> measured_plan(const ConvCall&);

// The fastest of the call's strategies, or nothing where time cannot be taken. `run` computes it, and `on` is one of
// its tensors. Native is given up for no less than 3 %, so that noise does not.
std::optional<ConvPlan> measure(const ConvCall&, const Tensor& on, const std::function<void(ConvStrategy)>& run);

}  // namespace nnart

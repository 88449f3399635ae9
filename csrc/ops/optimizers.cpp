// Optimizers: `optimizer_step_`, one step of any rule for a list of parameters; `hold_tensors_`, by which an
// OptimizerPlan gets its tensors; and `optimizer_launch_`, by which a plan reaches the kernels of another shared
// object.
#include <cmath>

#include "ops/held_tensors.h"
#include "ops/launch.h"
#include "ops/optimizer_plan.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

thread_local Tensors held;

void hold_tensors_(Tensors tensors) { held = std::move(tensors); }

// args is the address of an OptimizerArgs, or 0 for nothing to do.
void optimizer_launch_(Tensor on, int64_t args) {
  if (args) launch(*reinterpret_cast<const OptimizerArgs*>(args), on);
}

void optimizer_step_(Text rule, std::vector<double> hyper, double weight_decay, bool decoupled, bool maximize,
                     Tensors params, Tensors grads, Tensors states, Tensors scalars, Tensors steps) {
  OptimizerGroup group{};
  group.rule = rule_named(rule);
  check(int(hyper.size()) == hyper_count(group.rule), "optimizer_step_: ", rule, " has ", hyper_count(group.rule),
        " hyperparameters, but hyper has ", hyper.size());
  std::copy(hyper.begin(), hyper.end(), group.hyper);
  group.weight_decay = decoupled ? 0 : weight_decay;
  group.kept = decoupled ? 1 - hyper[0] * weight_decay : 1;
  group.sign = maximize ? -1 : 1;
  group.max_value = INFINITY;
  OptimizerPlan plan;
  plan.add_group(group);
  RowLayout layout;
  layout.states = state_count(group.rule);
  layout.step = true;
  layout.scalars = scalar_count(group.rule);
  size_t n = params.size();
  auto check_length = [&](const Tensors& list, size_t expected, const char* name) {
    check(list.size() == expected, "optimizer_step_: ", n, " params of rule ", rule, " need ", expected, " ", name,
          ", but there are ", list.size());
  };
  check_length(grads, n, "grads");
  check_length(states, n * size_t(layout.states), "states");
  check_length(scalars, n * size_t(layout.scalars), "scalars");
  check_length(steps, n, "steps");
  for (size_t i = 0; i < n; ++i) {
    Tensors row = {params[i], grads[i]};
    for (size_t k = 0; k < size_t(layout.states); ++k) row.push_back(states[k * n + i]);
    row.push_back(steps[i]);
    for (size_t k = 0; k < size_t(layout.scalars); ++k) row.push_back(scalars[k * n + i]);
    plan.add_rows(0, layout, row, 0);
  }
  OptimizerArgs args{};
  args.grad_factor = 1;
  args.max_norm = INFINITY;
  args.norm = -1;
  plan.run(args);
}

}  // namespace

Tensors take_held_tensors() { return std::move(held); }

void register_held_tensors(Library& m) { m.impl("hold_tensors_", TORCH_BOX((&hold_tensors_))); }

void register_optimizers(Library& m) {
  m.impl("optimizer_launch_", TORCH_BOX((&optimizer_launch_)));
  m.impl("optimizer_step_", TORCH_BOX((&optimizer_step_)));
}

}  // namespace nnart

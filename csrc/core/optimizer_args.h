// What an optimizer's step is: the rule, the tensors as rows of one table, and what happens to an element besides the
// rule. One table holds all tensors of all groups; it lives from step to step, and only what changed is written again.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/factors.h"
#include "math/optimizers.h"

namespace nnart {

enum class OptimizerRule : int32_t {
  Sgd,
  SgdMomentum,
  SgdNesterov,
  Adam,
  AdamAmsgrad,
  Adagrad,
  RmsProp,
  RmsPropMomentum,
  RmsPropCentered,
  RmsPropCenteredMomentum,
  Adadelta,
  Adamax,
  NAdam,
  RAdam,
  Asgd,
  Rprop,
  Lion,
  Lamb,
  Lars,
  LarsNesterov,
  Adafactor,
};

constexpr int kMaxStates = 3;
constexpr int kMaxHyper = 6;

// Elements in a unit of work. A row begins with a unit of its own, so that what is summed within one, and the blocks of
// 8-bit state, do not depend on the rows before.
constexpr int64_t kOptimizerTile = 1024;

// Elements that share a scale in 8-bit state.
constexpr int64_t kQuantizedBlock = 256;

// How a low-precision parameter takes a float32 result.
enum class Rounding : int32_t { Nearest, Stochastic };

struct OptimizerGroup {
  OptimizerRule rule;
  double hyper[kMaxHyper];  // the rule's Hyper, field by field
  double weight_decay;      // the L2 penalty's factor
  double kept;              // 1 - lr weight_decay where the decay is decoupled, else 1
  double sign;              // -1 to maximize
  double max_value;         // gradients are clamped to +- this; infinity where they are not
  double ema_decay;
  bool zero_grad;
  Rounding rounding;
  // A learning rate in a GPU's memory: hyper[0] and kept are of it. Null where the host knows it.
  const void* lr;
  DType lr_dtype;
  double decoupled_decay;
};

// One tensor. What a tensor has not is null.
struct OptimizerRow {
  void *param, *grad;
  void* state[kMaxStates];
  float* scale[kMaxStates];  // 8-bit state: the largest magnitude of each block
  void* master;              // the parameter in float32, of which param is a copy
  void* compensation;        // what rounding took from param, in param's dtype
  void* ema;                 // in the compute type
  void* step;                // steps taken so far, one element
  void* scalar[2];           // the rule's own one-element state
  DType param_dtype, grad_dtype, scalar_dtype;
  DType state_dtype[kMaxStates];
  bool positive[kMaxStates];  // 8-bit state without a sign
  int32_t group;
  int64_t n, first_tile;
  // Of a batch of matrices whose second moments are factored: state[0] has a variance for each column, this one for
  // each row, in the parameter's dtype.
  void* row_variance;
  int64_t rows, columns;
  void* inverse_mean;  // 1 / max(mean, eps1) of each matrix's row_variance; where, is set by the launch
  // On a GPU: how the variances are averaged, and the work of all rows before.
  FactorCut factors;
  FactorWork first_factors;
  double steps;      // steps taken, where there is no tensor for it
  const void* rule;  // the rule with this step's numbers; set by the launch
};

struct OptimizerResult {
  double grad_norm;  // of all gradients, unscaled, before clipping
  bool finite;       // false: nothing was changed
};

// What a plan keeps in a GPU's memory from step to step (core/optimizer_memory.h), and what the host knows of it.
struct OptimizerTable {
  void* memory;
  bool filled;    // the rows are there
  bool changed;   // gradients or groups are others than at the last launch
  bool recorded;  // a CUDA graph has the writing of gradients and groups, and may be replayed at any time
};

struct OptimizerArgs {
  OptimizerRow* rows;
  const OptimizerGroup* groups;
  int64_t row_count, group_count, tiles;
  double grad_factor;     // the inverse of the gradients' scale
  double max_norm;        // infinity where the norm is not clipped
  bool skips_non_finite;  // a norm that is not finite changes nothing
  bool rows_overlap;      // some share memory: one thread takes them, one after the other
  double norm;            // the norm if it is known already, else negative
  uint64_t seed;          // of stochastic rounding
  OptimizerResult* result;

  // On a GPU, for which the host does not wait: in its memory, and null where there is none.
  const float* scale;      // of the gradients, besides grad_factor
  const float* found_inf;  // other than 0: nothing is changed
  float* decision;         // receives the norm, and 1 if nothing was changed, else 0
  OptimizerTable* table;
  FactorWork factors;  // of all rows
};

// Room for any rule.
constexpr int64_t kRuleBytes = 128;

template <class Rule>
constexpr bool is_layer_wise = requires(Rule rule) { rule.scale(0.0, 0.0, 0.0); };

// Calls visit with the rule's class for compute type C.
template <class C, class Visit>
NNART_HD void with_rule(OptimizerRule rule, const Visit& visit) {
  switch (rule) {
    case OptimizerRule::Sgd:
      return visit(Type<math::Sgd<C, math::SgdKind::plain>>{});
    case OptimizerRule::SgdMomentum:
      return visit(Type<math::Sgd<C, math::SgdKind::momentum>>{});
    case OptimizerRule::SgdNesterov:
      return visit(Type<math::Sgd<C, math::SgdKind::nesterov>>{});
    case OptimizerRule::Adam:
      return visit(Type<math::Adam<C, false>>{});
    case OptimizerRule::AdamAmsgrad:
      return visit(Type<math::Adam<C, true>>{});
    case OptimizerRule::Adagrad:
      return visit(Type<math::Adagrad<C>>{});
    case OptimizerRule::RmsProp:
      return visit(Type<math::RmsProp<C, false, false>>{});
    case OptimizerRule::RmsPropMomentum:
      return visit(Type<math::RmsProp<C, false, true>>{});
    case OptimizerRule::RmsPropCentered:
      return visit(Type<math::RmsProp<C, true, false>>{});
    case OptimizerRule::RmsPropCenteredMomentum:
      return visit(Type<math::RmsProp<C, true, true>>{});
    case OptimizerRule::Adadelta:
      return visit(Type<math::Adadelta<C>>{});
    case OptimizerRule::Adamax:
      return visit(Type<math::Adamax<C>>{});
    case OptimizerRule::NAdam:
      return visit(Type<math::NAdam<C>>{});
    case OptimizerRule::RAdam:
      return visit(Type<math::RAdam<C>>{});
    case OptimizerRule::Asgd:
      return visit(Type<math::Asgd<C>>{});
    case OptimizerRule::Rprop:
      return visit(Type<math::Rprop<C>>{});
    case OptimizerRule::Lion:
      return visit(Type<math::Lion<C>>{});
    case OptimizerRule::Lamb:
      return visit(Type<math::Lamb<C>>{});
    case OptimizerRule::Lars:
      return visit(Type<math::Lars<C, false>>{});
    case OptimizerRule::LarsNesterov:
      return visit(Type<math::Lars<C, true>>{});
    case OptimizerRule::Adafactor:
      return visit(Type<math::Adafactor<C>>{});
  }
}

NNART_HD bool layer_wise(OptimizerRule rule) {
  bool found = false;
  with_rule<float>(rule, [&](auto type) { found = is_layer_wise<typename decltype(type)::type>; });
  return found;
}

}  // namespace nnart

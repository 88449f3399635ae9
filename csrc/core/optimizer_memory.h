// What a plan keeps in a GPU's memory: the table as the kernels read it, and what they leave for one another.
#pragma once

#include <cstdint>

#include "core/optimizer_args.h"

namespace nnart {

// What a step decides before it changes anything.
struct OptimizerDecision {
  double grad_factor;
  bool skips;
};

struct OptimizerMemory {
  OptimizerRow* rows;
  OptimizerGroup* groups;
  char* rules;   // kRuleBytes a row
  double* sums;  // two a tile
  OptimizerDecision* decision;
  int32_t* row_of_tile;
  double* inverse_means;  // room for one of any type for each matrix
  double* factor_sums;
  int64_t bytes;

  // The parts of a piece of memory; of none, how many bytes it must have.
  OptimizerMemory(void* memory, const OptimizerArgs& args) : bytes(0) {
    auto begin = reinterpret_cast<uintptr_t>(memory);
    auto part = [&](int64_t size) {
      uintptr_t at = begin + uintptr_t(bytes);
      bytes += (size + 15) / 16 * 16;
      return reinterpret_cast<void*>(at);
    };
    rows = static_cast<OptimizerRow*>(part(args.row_count * int64_t(sizeof(OptimizerRow))));
    groups = static_cast<OptimizerGroup*>(part(args.group_count * int64_t(sizeof(OptimizerGroup))));
    rules = static_cast<char*>(part(args.row_count * kRuleBytes));
    sums = static_cast<double*>(part(args.tiles * 2 * int64_t(sizeof(double))));
    decision = static_cast<OptimizerDecision*>(part(int64_t(sizeof(OptimizerDecision))));
    row_of_tile = static_cast<int32_t*>(part(args.tiles * int64_t(sizeof(int32_t))));
    inverse_means = static_cast<double*>(part(args.factors.matrices * int64_t(sizeof(double))));
    factor_sums = static_cast<double*>(part(args.factors.sums * int64_t(sizeof(double))));
  }
};

}  // namespace nnart

// What the ops with a dropout share: the seed and the threshold. Decisions are numbered in an Order of ops/layout.h.
#pragma once

#include "ops/layout.h"

namespace nnart {

// The seed, contiguous, of one number or, if allowed, one for each of as many equal parts of x.
Tensor checked_seed(const Tensor& seed, const Tensor& x, bool one_alone, const char* op);

// p as a multiple of 2^-32.
uint32_t threshold_of(double p, const char* op);

}  // namespace nnart

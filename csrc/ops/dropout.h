// What the ops with a dropout share: the order in which decisions are numbered, the seed and the threshold.
#pragma once

#include <vector>

#include "ops/checks.h"

namespace nnart {

// The dimensions from the outermost to the innermost; empty if they are in that order.
using Order = std::vector<int64_t>;

void check_order(const Order& order, const Tensor& x, const char* op);

// A new tensor like t whose elements lie densely in that order; t itself if its elements lie so, else a copy.
Tensor empty_in(const Order& order, const Tensor& t);
Tensor laid_in(const Order& order, const Tensor& t);

// The seed, contiguous, of one number or, if allowed, one for each of as many equal parts of x.
Tensor checked_seed(const Tensor& seed, const Tensor& x, bool one_alone, const char* op);

// p as a multiple of 2^-32.
uint32_t threshold_of(double p, const char* op);

}  // namespace nnart

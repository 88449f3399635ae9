// In what order the elements of a tensor lie, and tensors that lie in a given one.
#pragma once

#include <vector>

#include "ops/checks.h"

namespace nnart {

// The dimensions from the outermost to the innermost; empty if they are in that order.
using Order = std::vector<int64_t>;

void check_order(const Order& order, const Tensor& x, const char* op);

// The sizes of a tensor whose elements lie in the order, as outer x channels x inner with the channels in dimension
// dim.
struct Channels {
  int64_t outer = 1, channels = 1, inner = 1;
};
Channels channels_of(const Tensor& t, int64_t dim, const Order& order);

// Uninitialized, on the device of `like`, its elements densely in the order; dtype is a number of the C shim.
Tensor empty_in(const Order& order, Sizes sizes, int32_t dtype, const Tensor& like);
int32_t dtype_code(const Tensor& t);

// Uninitialized memory for so many doubles on the device of `like`.
Tensor scratch_on(const Tensor& like, int64_t doubles);

// Whether the elements of t lie densely in that order.
bool lies_in(const Order& order, const Tensor& t);

// A new tensor like t whose elements lie densely in that order; t itself if its elements lie so, else a copy.
Tensor empty_in(const Order& order, const Tensor& t);
Tensor laid_in(const Order& order, const Tensor& t);

}  // namespace nnart

// The sums of a tensor's channels, as the gradient of a bias has them.
#pragma once

#include "ops/checks.h"

namespace nnart {

// Over all dimensions but `dim`. A tensor that lies neither contiguously nor with that dimension innermost is copied.
Tensor channel_sum(const Tensor& x, int64_t dim);

}  // namespace nnart

// The geometry of a sliding window along one axis, shared by convolution and pooling, CPU and CUDA.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart::math {

// Output o reads the inputs source(o, k) for k < kernel; those outside [0, in) are padding. Positions are Is; an N is
// an I, or what converts to one and is quicker to divide by.
template <class I, class N = I>
struct AxisOf {
  N in, out, kernel, stride, pad, dilation;

  NNART_HD I source(I o, I k) const { return o * stride - pad + k * dilation; }
};
using Axis = AxisOf<int64_t>;

}  // namespace nnart::math

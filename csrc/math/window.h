// The geometry of a sliding window along one axis, shared by convolution and pooling, CPU and CUDA.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart::math {

// Output o reads the inputs source(o, k) for k < kernel; those outside [0, in) are padding.
struct Axis {
  int64_t in, out, kernel, stride, pad, dilation;

  NNART_HD int64_t source(int64_t o, int64_t k) const { return o * stride - pad + k * dilation; }
};

}  // namespace nnart::math

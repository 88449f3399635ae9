// What max pooling does with one element of a window.
#pragma once

#include "math/portable.h"

namespace nnart::math {

// best' = x if x > best or x is NaN, else best. So ties keep the first of a window and NaNs the last, which is the
// index that PyTorch reports. Returns whether x takes the place of best; T is a scalar or a SIMD vector.
struct Max {
  template <class T>
  NNART_HD auto replaces(T x, T best) const {
    return (x > best) | (x != x);
  }
};

}  // namespace nnart::math

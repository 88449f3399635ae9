// What pooling does with one element of a window, and where its windows lie.
#pragma once

#include "math/portable.h"
#include "math/window.h"

namespace nnart::math {

// best' = x if x > best or x is NaN, else best. So ties keep the first of a window and NaNs the last, which is the
// index that PyTorch reports. Returns whether x takes the place of best; T is a scalar or a SIMD vector.
struct Max {
  template <class T>
  NNART_HD auto replaces(T x, T best) const {
    return (x > best) | (x != x);
  }
};

// One axis of pooling windows. An adaptive window o runs from floor(o in / out) to ceil((o + 1) in / out); kernel is
// then at least as large as the largest, stride, pad and dilation are 1, 0 and 1.
struct PoolAxis : Axis {
  bool adaptive;

  NNART_HD int64_t start(int64_t o) const { return adaptive ? o * in / out : source(o, 0); }
  // The taps of window o that lie inside the input: [first_tap, end_tap).
  NNART_HD int64_t first_tap(int64_t o) const {
    int64_t from = start(o);
    return from >= 0 ? 0 : (-from + dilation - 1) / dilation;
  }
  NNART_HD int64_t end_tap(int64_t o) const {
    int64_t from = start(o);
    if (adaptive) return ((o + 1) * in + out - 1) / out - from;
    if (from >= in) return first_tap(o);
    int64_t inside = (in - 1 - from) / dilation + 1;
    return inside < kernel ? inside : kernel;
  }
  // The taps that an average divides by when padding counts: those before the end of the right padding.
  NNART_HD int64_t padded_taps(int64_t o) const {
    if (adaptive) return end_tap(o);
    int64_t inside = in + pad - start(o);
    return inside < kernel ? inside : kernel;
  }
};

}  // namespace nnart::math

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
template <class I, class N = I>
struct PoolAxisOf : AxisOf<I, N> {
  bool adaptive;

  NNART_HD I start(I o) const { return adaptive ? o * this->in / this->out : this->source(o, 0); }
  // The taps of window o that lie inside the input: [first_tap, end_tap).
  NNART_HD I first_tap(I o) const {
    I from = start(o);
    return from >= 0 ? 0 : (-from + this->dilation - 1) / this->dilation;
  }
  NNART_HD I end_tap(I o) const {
    I from = start(o), in = this->in, kernel = this->kernel;
    if (adaptive) return ((o + 1) * in + this->out - 1) / this->out - from;
    if (from >= in) return first_tap(o);
    I inside = (in - 1 - from) / this->dilation + 1;
    return inside < kernel ? inside : kernel;
  }
  // The taps that an average divides by when padding counts: those before the end of the right padding.
  NNART_HD I padded_taps(I o) const {
    if (adaptive) return end_tap(o);
    I inside = this->in + this->pad - start(o), kernel = this->kernel;
    return inside < kernel ? inside : kernel;
  }

  // The outputs whose windows reach input i (with a dilation, some of them step over it): [first_output, end_output).
  NNART_HD I first_output(I i) const {
    if (adaptive) return i * this->out / this->in;
    I beyond = i + this->pad - (this->kernel - 1) * this->dilation;
    return beyond <= 0 ? 0 : (beyond + this->stride - 1) / this->stride;
  }
  NNART_HD I end_output(I i) const {
    if (adaptive) return ((i + 1) * this->out + this->in - 1) / this->in;
    I end = (i + this->pad) / this->stride + 1, out = this->out;
    return end < out ? end : out;
  }
  // The tap by which output o, one of those, reads input i, or -1.
  NNART_HD I tap(I i, I o) const {
    I distance = i - start(o), tap = distance / this->dilation;
    return tap * this->dilation == distance ? tap : I(-1);
  }
};
using PoolAxis = PoolAxisOf<int64_t>;

}  // namespace nnart::math

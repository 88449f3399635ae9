// Where the windows of one pooling lie, as tables: the loops over them divide nothing.
#pragma once

#include <cstddef>
#include <new>

#include "core/args.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

// Elements of x below which a thread does not pay for its wake-up.
constexpr int64_t kPoolGrain = 32768;
NNART_HD int64_t pool_grain(int64_t elements_per_item) { return most(1, kPoolGrain / most(1, elements_per_item)); }

// n numbers for the length of a call.
class Numbers {
 public:
  NNART_HD explicit Numbers(int64_t n) : data_(static_cast<int64_t*>(::operator new(size_t(n) * sizeof(int64_t)))) {}
  NNART_HD ~Numbers() { ::operator delete(data_); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  NNART_HD int64_t* data() const { return data_; }

 private:
  int64_t* data_;
};

// Whether the axis has one window, which covers it.
NNART_HD bool is_one_window(const math::PoolAxis& axis) {
  return axis.out == 1 && axis.kernel == axis.in && axis.pad == 0 && axis.dilation == 1;
}

// One axis: for each output its first input and its taps inside the input, for each input the outputs whose windows
// reach it (with a dilation, some of them step over it).
class AxisWindows {
 public:
  explicit AxisWindows(const math::PoolAxis& axis)
      : axis_(axis), input_step_(is_one_window(axis) ? 0 : 2), numbers_(3 * axis.out + input_step_ * axis.in + 2) {
    int64_t* outputs = numbers_.data();
    int64_t* inputs = outputs + 3 * axis.out;
    for (int64_t i = 0; i <= input_step_ * axis.in; i += 2) inputs[i] = inputs[i + 1] = 0;
    for (int64_t o = 0; o < axis.out; ++o) {
      int64_t start = axis.start(o), begin = axis.first_tap(o), end = axis.end_tap(o);
      outputs[3 * o] = start;
      outputs[3 * o + 1] = begin;
      outputs[3 * o + 2] = end;
      if (begin == end) continue;
      if (input_step_ == 0) {
        inputs[1] = 1;
        continue;
      }
      for (int64_t i = start + begin * axis.dilation; i <= start + (end - 1) * axis.dilation; ++i) {
        if (inputs[2 * i + 1] == 0) inputs[2 * i] = o;
        inputs[2 * i + 1] = o + 1;
      }
    }
  }
  AxisWindows(const AxisWindows&) = delete;
  AxisWindows& operator=(const AxisWindows&) = delete;

  NNART_HD const math::PoolAxis& axis() const { return axis_; }
  NNART_HD int64_t start(int64_t o) const { return numbers_.data()[3 * o]; }
  NNART_HD int64_t begin(int64_t o) const { return numbers_.data()[3 * o + 1]; }
  NNART_HD int64_t end(int64_t o) const { return numbers_.data()[3 * o + 2]; }
  NNART_HD bool is_whole(int64_t o) const { return begin(o) == 0 && end(o) == axis_.kernel; }
  NNART_HD int64_t input(int64_t o, int64_t tap) const { return start(o) + tap * axis_.dilation; }
  NNART_HD int64_t first_output(int64_t i) const { return numbers_.data()[3 * axis_.out + input_step_ * i]; }
  NNART_HD int64_t end_output(int64_t i) const { return numbers_.data()[3 * axis_.out + input_step_ * i + 1]; }
  // The tap by which output o reads input i, or -1.
  NNART_HD int64_t tap(int64_t i, int64_t o) const {
    int64_t distance = i - start(o);
    if (axis_.dilation == 1) return distance;
    return distance % axis_.dilation ? -1 : distance / axis_.dilation;
  }

 private:
  const math::PoolAxis axis_;
  const int64_t input_step_;  // 0 where all inputs belong to the one output
  Numbers numbers_;
};

// Windows that follow each other without gaps, overlaps or padding and cover the input, all of one size.
NNART_HD bool tiles(const math::PoolAxis& axis) {
  return !axis.adaptive && axis.kernel == axis.stride && axis.pad == 0 && axis.dilation == 1 &&
         axis.in == axis.out * axis.kernel;
}

// How many windows may read one input.
NNART_HD int64_t overlap(const math::PoolAxis& axis) {
  if (axis.adaptive) return axis.out / axis.in + 2;
  return ceil_div(axis.kernel, axis.stride / common_divisor(axis.stride, axis.dilation));
}

// One window that covers its plane, as a window of one axis.
NNART_HD PoolShape flattened(PoolShape shape) {
  int64_t in = 1;
  for (const math::PoolAxis& axis : shape.axis) {
    if (!is_one_window(axis)) return shape;
    in *= axis.in;
  }
  shape.axis[0] = shape.axis[1] = {{1, 1, 1, 1, 0, 1}, false};
  shape.axis[2] = {{in, 1, in, in, 0, 1}, false};
  return shape;
}

struct Windows {
  const PoolShape shape;
  AxisWindows d, h, w;
  int64_t in, out;  // elements of a plane

  explicit Windows(const PoolShape& given) : Windows(flattened(given), 0) {}
  NNART_HD bool is_whole_plane() const { return w.axis().in == in && is_one_window(w.axis()); }
  // Whether no input belongs to two windows.
  NNART_HD bool are_disjoint() const {
    for (const math::PoolAxis& axis : shape.axis) {
      bool apart = axis.adaptive ? axis.in % most(1, axis.out) == 0 : axis.stride > (axis.kernel - 1) * axis.dilation;
      if (!apart) return false;
    }
    return true;
  }

  NNART_HD int64_t planes() const { return shape.batch * shape.channels; }
  NNART_HD bool is_flat_window(int64_t kernel_h, int64_t kernel_w) const {
    return d.axis().in == 1 && d.axis().kernel == 1 && h.axis().kernel == kernel_h && w.axis().kernel == kernel_w &&
           h.axis().dilation == 1 && w.axis().dilation == 1 && !h.axis().adaptive && !w.axis().adaptive;
  }
  // Flat windows of so many lines and two wide that step by their size, without padding.
  NNART_HD bool is_halving(int64_t lines) const {
    const math::PoolAxis &y = h.axis(), &x = w.axis();
    return is_flat_window(lines, 2) && y.stride == lines && x.stride == 2 && y.pad == 0 && x.pad == 0 &&
           y.out * lines <= y.in && x.out * 2 <= x.in;
  }

 private:
  Windows(const PoolShape& s, int)
      : shape(s),
        d(s.axis[0]),
        h(s.axis[1]),
        w(s.axis[2]),
        in(s.axis[0].in * s.axis[1].in * s.axis[2].in),
        out(s.axis[0].out * s.axis[1].out * s.axis[2].out) {}
};

// Calls visit with a function that gives count, as a constant if it is one of the common ones.
template <int... common, class Visit>
NNART_HD void with_count(int64_t count, const Visit& visit) {
  bool known = ((count == common && (visit([] { return int64_t{common}; }), true)) || ...);
  if (!known) visit([count] { return count; });
}

// Calls visit with the Type of the call's offsets.
template <class Visit>
void with_offset(const PoolShape& shape, Visit visit) {
  switch (pool_offset_bytes(shape)) {
    case 1:
      return visit(Type<uint8_t>{});
    case 2:
      return visit(Type<uint16_t>{});
    default:
      return visit(Type<int32_t>{});
  }
}

}  // namespace
}  // namespace nnart::cpu

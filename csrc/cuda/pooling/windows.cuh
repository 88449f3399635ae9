// Where the windows of one pooling lie, in the numbers of a kernel: of 32 bits with quick divisions where the tensors
// allow it.
#pragma once

#include "cuda/divisor.cuh"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/integers.h"

namespace nnart::cuda {

constexpr int kPoolThreads = 256;
constexpr int kPoolBlocks = 2;  // a multiprocessor: 128 registers a thread

// A number that is divided by. What is divided is not negative.
struct Quick {
  int32_t value;
  uint32_t multiplier, shift;
  explicit Quick(int64_t number) : value(int32_t(number)) { find_multiplier(uint32_t(number), multiplier, shift); }
  __host__ __device__ __forceinline__ operator int32_t() const { return value; }
};
__device__ __forceinline__ int32_t operator/(int32_t n, const Quick& by) {
  return int32_t(quotient(uint32_t(n), by.multiplier, by.shift));
}

// Numbers by the type of positions.
template <class I>
struct NumberOf {
  using type = int64_t;
};
template <>
struct NumberOf<int32_t> {
  using type = Quick;
};
template <class I>
using Number = typename NumberOf<I>::type;

// The remainder of a division, whose quotient is left in n.
template <class I>
__device__ __forceinline__ I take(I& n, const Number<I>& by) {
  I quotient = n / by, rest = n - quotient * I(by);
  n = quotient;
  return rest;
}

// Images of pixels of channels; planes are images of one channel.
template <class I>
struct Windows {
  using Axis = math::PoolAxisOf<I, Number<I>>;
  int64_t images;
  I channels;
  Axis d, h, w;

  explicit Windows(const PoolShape& shape)
      : images(shape.channels_last ? shape.batch : shape.batch * shape.channels),
        channels(I(shape.channels_last ? shape.channels : 1)),
        d(axis_of(shape.axis[0])),
        h(axis_of(shape.axis[1])),
        w(axis_of(shape.axis[2])) {}

  // Of channel 0.
  __device__ __forceinline__ int64_t input(I image, I id, I ih, I iw) const {
    return (((int64_t(image) * d.in + id) * h.in + ih) * w.in + iw) * channels;
  }
  __device__ __forceinline__ int64_t output(I image, I od, I oh, I ow) const {
    return (((int64_t(image) * d.out + od) * h.out + oh) * w.out + ow) * channels;
  }

 private:
  static Axis axis_of(const math::PoolAxis& a) {
    using N = Number<I>;
    return {{N(a.in), N(a.out), N(a.kernel), N(a.stride), N(a.pad), N(a.dilation)}, a.adaptive};
  }
};

// What the loops go over: elements of a result as lanes of `width`, those of a line of pixels or of a pixel.
template <class I>
struct Places {
  Number<I> packs, columns, rows, depth;  // of channels, along w, along h, along d
  int64_t count;
};

// Whether every number that a kernel meets fits 31 bits, products of two lengths of an axis included.
inline bool fits_32_bits(const PoolShape& shape) {
  constexpr int64_t limit = int64_t{1} << 30;
  int64_t planes = shape.batch * shape.channels, in = planes, out = planes;
  for (const math::PoolAxis& a : shape.axis) {
    in *= a.in;
    out *= most(a.out, 1);
    if ((a.in + 2 * a.pad + 1) * (a.adaptive ? a.out + 1 : 1) > limit || a.kernel * a.dilation > limit) return false;
    if (a.stride > limit) return false;
  }
  return in < limit && out < limit;
}

template <class Visit>
void with_positions(const PoolShape& shape, const Visit& visit) {
  if (fits_32_bits(shape))
    visit(Type<int32_t>{});
  else
    visit(Type<int64_t>{});
}

// Calls visit with the Type of the call's offsets.
template <class Visit>
void with_offset(const PoolShape& shape, const Visit& visit) {
  switch (pool_offset_bytes(shape)) {
    case 1:
      return visit(Type<uint8_t>{});
    case 2:
      return visit(Type<uint16_t>{});
    default:
      return visit(Type<int32_t>{});
  }
}

// One window that covers its plane, every input by one tap.
inline bool is_whole_plane(const PoolShape& shape) {
  for (const math::PoolAxis& a : shape.axis)
    if (a.out != 1 || a.kernel != a.in || a.pad != 0 || a.dilation != 1) return false;
  return true;
}

inline int64_t plane_inputs(const PoolShape& shape) { return shape.axis[0].in * shape.axis[1].in * shape.axis[2].in; }

// Flat windows of so many lines and columns without dilation.
inline bool is_flat_window(const PoolShape& shape, int64_t kernel_h, int64_t kernel_w) {
  const math::PoolAxis &d = shape.axis[0], &h = shape.axis[1], &w = shape.axis[2];
  return d.in == 1 && d.kernel == 1 && h.kernel == kernel_h && w.kernel == kernel_w && h.dilation == 1 &&
         w.dilation == 1 && !h.adaptive && !w.adaptive;
}

}  // namespace nnart::cuda

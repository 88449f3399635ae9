// The two matrices of a convolution that its product is made of, and never written ("implicit GEMM"):
// result(m, n) = sum over k of rows(m, k) columns(n, k), for each group.
//
//            m              n                      k                      rows                        columns
//   forward  pixels of y    channels of y          taps, channels of x    x where the tap meets it    weight
//   dgrad    pixels of x    channels of x          taps, channels of y    y where the tap comes from  weight
//   wgrad    channels of y  taps, channels of x    pixels of y            y                           x at the tap
#pragma once

#include "cuda/conv/operands.cuh"
#include "cuda/divisor.cuh"
#include "math/integers.h"

namespace nnart::cuda {

// Along an axis, pixel p of the matrix is pixel origin + p step of the result, and its tap q meets the other tensor at
// p place_step + place + q shift. Tap q is tap first + q every of the filter.
//
// The gradient of x at a stride is a product for each of its phases: pixels that lie a stride apart are reached by the
// same taps, every so many, and by no others.
struct GemmAxis {
  int32_t pixels, origin, step;
  int32_t place_step, place, shift, size;
  int32_t taps, first, every;

  GemmAxis() = default;
  // Of the forward and the weight's gradient.
  explicit GemmAxis(const math::Axis& a)
      : pixels(int32_t(a.out)),
        origin(0),
        step(1),
        place_step(int32_t(a.stride)),
        place(int32_t(-a.pad)),
        shift(int32_t(a.dilation)),
        size(int32_t(a.in)),
        taps(int32_t(a.kernel)),
        first(0),
        every(1) {}
  // Of the gradient of x, for its pixels phase, phase + stride and so on.
  GemmAxis(const math::Axis& a, int64_t phase)
      : pixels(int32_t(a.in > phase ? ceil_div(a.in - phase, a.stride) : 0)),
        origin(int32_t(phase)),
        step(int32_t(a.stride)),
        place_step(1),
        size(int32_t(a.out)) {
    int64_t apart = common_divisor(a.stride, a.dilation), k = 0;
    every = int32_t(a.stride / apart);
    while (k < least(every, a.kernel) && (phase + a.pad - k * a.dilation) % a.stride != 0) ++k;
    bool reached = k < least(every, a.kernel);
    taps = reached ? int32_t(ceil_div(a.kernel - k, every)) : 0;
    first = int32_t(k);
    place = reached ? int32_t((phase + a.pad - k * a.dilation) / a.stride) : 0;
    shift = int32_t(-a.dilation / apart);
  }
};

// An image, and the number of one of its pixels along each axis.
struct PixelPlace {
  int32_t image, number[3];
};

// A channel, and the number of a tap along each axis.
struct TapPlace {
  int32_t channel, number[3];
};

// An image, and where on each axis a pixel's tap 0 meets the other tensor, or would.
struct Pixel {
  int32_t image, place[3];
};

// How far a tap is from tap 0 on each axis, and where it is in the weight's channel 0.
struct Tap {
  int32_t shift[3];
  int64_t in_weight;
};

// From numbers to pixels and taps, and from both to an element.
struct Coordinates {
  GemmAxis axis[3];
  ConvStrides in, weight;                   // of the tensor that the taps go into and of the weight
  Divisor width, height, depth;             // of the pixels
  Divisor channels, taps_w, taps_h;         // of the taps, or the taps of a channel
  bool channels_first;                      // those follow each other
  int64_t weight_channel, first_in_weight;  // the weight's stride along the channels, and where tap 0 is

  Coordinates(const ConvArgs& args, const GemmAxis (&axes)[3], bool channels_first)
      : in(args.pass == ConvPass::Dgrad ? args.y : args.x),
        weight(args.weight),
        width(axes[2].pixels, pixels(args, axes)),
        height(axes[1].pixels, pixels(args, axes)),
        depth(axes[0].pixels, pixels(args, axes)),
        channels(channels_first ? taps(axes) : channels_of(args), taps(axes) * channels_of(args)),
        taps_w(axes[2].taps, taps(axes)),
        taps_h(axes[1].taps, taps(axes)),
        channels_first(channels_first),
        weight_channel(args.pass == ConvPass::Dgrad ? args.weight.batch : args.weight.channel),
        first_in_weight(0) {
    for (int a = 0; a < 3; ++a) {
      axis[a] = axes[a];
      first_in_weight += axes[a].first * weight.space[a];
      weight.space[a] *= axes[a].every;
    }
  }

  static int64_t pixels(const ConvArgs& args, const GemmAxis (&axes)[3]) {
    return args.batch * axes[0].pixels * axes[1].pixels * axes[2].pixels;
  }
  static int64_t taps(const GemmAxis (&axes)[3]) { return int64_t(axes[0].taps) * axes[1].taps * axes[2].taps; }
  // Of a group, in the tensor that the taps go into.
  static int64_t channels_of(const ConvArgs& args) {
    return (args.pass == ConvPass::Dgrad ? args.out_channels : args.in_channels) / args.groups;
  }

  __device__ __forceinline__ PixelPlace pixel_place(int64_t i) const {
    Division w = divide(i, width), h = divide(w.quotient, height), d = divide(h.quotient, depth);
    return {int32_t(d.quotient), {int32_t(d.rest), int32_t(h.rest), int32_t(w.rest)}};
  }
  // Goes on by the pixels that `by` is the place of: an addition of numbers with these digits.
  __device__ __forceinline__ void advance(PixelPlace& place, const PixelPlace& by) const {
    int32_t carry = 0;
#pragma unroll
    for (int a = 2; a >= 0; --a) {
      int32_t number = place.number[a] + by.number[a] + carry, size = axis[a].pixels;
      carry = number >= size ? 1 : 0;
      place.number[a] = carry ? number - size : number;
    }
    place.image += by.image + carry;
  }
  __device__ __forceinline__ int64_t in_result(const PixelPlace& pixel, const ConvStrides& strides) const {
    int64_t at = pixel.image * strides.batch;
#pragma unroll
    for (int a = 0; a < 3; ++a) at += (axis[a].origin + pixel.number[a] * axis[a].step) * strides.space[a];
    return at;
  }
  __device__ __forceinline__ Pixel pixel(const PixelPlace& of) const {
    Pixel pixel{of.image, {}};
#pragma unroll
    for (int a = 0; a < 3; ++a) pixel.place[a] = of.number[a] * axis[a].place_step + axis[a].place;
    return pixel;
  }
  __device__ __forceinline__ TapPlace tap_place(int64_t i) const {
    Division by = divide(i, channels);
    int64_t t = channels_first ? by.rest : by.quotient, channel = channels_first ? by.quotient : by.rest;
    Division w = divide(t, taps_w), h = divide(w.quotient, taps_h);
    return {int32_t(channel), {int32_t(h.quotient), int32_t(h.rest), int32_t(w.rest)}};
  }
  // Goes so many channels on, from one tap to the next; whether it is another tap.
  __device__ __forceinline__ bool advance(TapPlace& place, int32_t by) const {
    int32_t count = int32_t(channels.number());
    place.channel += by;
    if (place.channel < count) return false;
    do {
      place.channel -= count;
      if (++place.number[2] < axis[2].taps) continue;
      place.number[2] = 0;
      if (++place.number[1] < axis[1].taps) continue;
      place.number[1] = 0;
      ++place.number[0];
    } while (place.channel >= count);
    return true;
  }
  __device__ __forceinline__ Tap tap(const TapPlace& place) const {
    Tap tap{{}, first_in_weight};
#pragma unroll
    for (int a = 0; a < 3; ++a) {
      tap.shift[a] = place.number[a] * axis[a].shift;
      tap.in_weight += place.number[a] * weight.space[a];
    }
    return tap;
  }
  // Where the tap of a pixel meets an element of the group's first channel, if it is inside of the tensor: each is a
  // sum of the pixel's and the tap's own.
  __device__ __forceinline__ int64_t at(const Pixel& pixel, const Tap& tap) const {
    int64_t at = pixel.image * in.batch;
#pragma unroll
    for (int a = 0; a < 3; ++a) at += (pixel.place[a] + tap.shift[a]) * in.space[a];
    return at;
  }
  __device__ __forceinline__ bool is_inside(const int32_t (&place)[3], const int32_t (&shift)[3]) const {
    bool inside = true;
#pragma unroll
    for (int a = 0; a < 3; ++a) inside &= uint32_t(place[a] + shift[a]) < uint32_t(axis[a].size);
    return inside;
  }
};

}  // namespace nnart::cuda

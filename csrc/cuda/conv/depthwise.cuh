// Depthwise convolution: every channel of x goes with a filter of its own into the same channel of y, in one to three
// dimensions. What its passes share: how the tensors lie, and how many channels a thread takes.
#pragma once

#include "cuda/conv/operands.cuh"
#include "cuda/divisor.cuh"
#include "math/integers.h"

namespace nnart::cuda {

constexpr int kConvThreads = 256;
constexpr int kConvBlocks = 2;  // a multiprocessor: 128 registers a thread

// A filter's taps; channels are out_channels, and a flipped one is read from its last tap.
template <class S>
struct Filters {
  const S* data;
  ConvStrides strides;
  int32_t taps, kernel_h, kernel_w;
  bool flipped;

  Filters(const ConvArgs& args, bool flipped)
      : data(static_cast<const S*>(args.weight.data)),
        strides(args.weight),
        taps(int32_t(args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel)),
        kernel_h(int32_t(args.axis[1].kernel)),
        kernel_w(int32_t(args.axis[2].kernel)),
        flipped(flipped) {}

  // tap is (kd kernel_h + kh) kernel_w + kw.
  __device__ __forceinline__ ComputeType<S> at(int64_t c, int32_t tap) const {
    int32_t t = flipped ? taps - 1 - tap : tap, line = t / kernel_w, depth = line / kernel_h;
    return widen(data[c * strides.batch + depth * strides.space[0] + (line - depth * kernel_h) * strides.space[1] +
                      (t - line * kernel_w) * strides.space[2]]);
  }
};

// Calls run with the number of channels a thread takes.
template <class S, class Run>
const char* with_conv_channels(const ConvArgs& args, const Run& run) {
  constexpr int width = kPackWidth<S>;
  bool packs = args.groups % width == 0 && in_packs(args.x, width, sizeof(S)) && in_packs(args.y, width, sizeof(S)) &&
               is_aligned(beside(args));
  if (packs) return run(Count<width>{});
  return run(Count<1>{});
}

}  // namespace nnart::cuda

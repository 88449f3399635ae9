// Depthwise convolution: every channel of x goes with a filter of its own into the same channel of y, in one to three
// dimensions. What its passes share: how the tensors lie, and how many channels a thread takes.
#pragma once

#include "core/args.h"
#include "cuda/divisor.cuh"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/integers.h"

namespace nnart::cuda {

constexpr int kConvThreads = 256;
constexpr int kConvBlocks = 2;  // a multiprocessor: 128 registers a thread

// The strides of a tensor in elements; space is depth, height and width.
struct ConvStrides {
  int64_t batch, channel, space[3];

  explicit ConvStrides(const ConvOperand& operand) : batch(operand.batch), channel(operand.channel) {
    for (int a = 0; a < 3; ++a) space[a] = operand.space[a];
  }
  __device__ __forceinline__ int64_t at(int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) const {
    return n * batch + c * channel + d * space[0] + h * space[1] + w * space[2];
  }
};

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

// Whether `width` neighbouring channels can move together through a tensor.
inline bool in_packs(const ConvOperand& operand, int width, int element_bytes) {
  bool fits = operand.channel == 1 && operand.batch % width == 0 &&
              reinterpret_cast<uintptr_t>(operand.data) % uintptr_t(width * element_bytes) == 0;
  for (int64_t stride : operand.space) fits = fits && stride % width == 0;
  return fits;
}

// Whether neighbouring channels are neighbours in memory, so that a warp goes along them and not along a line.
inline bool is_channels_last(const ConvArgs& args) { return args.x.channel == 1 && args.y.channel == 1; }

// Calls run with the number of channels a thread takes.
template <class S, class Run>
const char* with_conv_channels(const ConvArgs& args, const Run& run) {
  constexpr int width = kPackWidth<S>;
  bool packs = args.groups % width == 0 && in_packs(args.x, width, sizeof(S)) && in_packs(args.y, width, sizeof(S));
  if (packs) return run(Count<width>{});
  return run(Count<1>{});
}

const char* depthwise_wgrad(const ConvArgs& args, cudaStream_t stream);

}  // namespace nnart::cuda

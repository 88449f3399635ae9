// What the strategies of convolution share: how the tensors lie, what follows the sum, and their entries.
#pragma once

#include "core/args.h"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/activations.h"

namespace nnart::cuda {

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

// Whether `width` neighbouring channels can move together through a tensor.
inline bool in_packs(const ConvOperand& operand, int width, int element_bytes) {
  bool fits = operand.channel == 1 && operand.batch % width == 0 &&
              reinterpret_cast<uintptr_t>(operand.data) % uintptr_t(width * element_bytes) == 0;
  for (int64_t stride : operand.space) fits = fits && stride % width == 0;
  return fits;
}

// What the finish reads beside the sums; may be null.
inline const void* beside(const ConvArgs& args) { return args.finish ? nnart::beside(*args.finish) : nullptr; }

// Whether neighbouring channels are neighbours in memory, so that a warp goes along them and not along a line.
inline bool is_channels_last(const ConvArgs& args) { return args.x.channel == 1 && args.y.channel == 1; }

// Where the scales of a normalization that is not of the batch are, and behind them the shifts: in the scratch.
template <class C>
C* scales_of(const ConvArgs& args) {
  return reinterpret_cast<C*>(args.partial_sums);
}

// The activation of one value. Not inlined: a switch over all of them would stand in every kernel. Its parameters come
// one by one, in registers.
template <class C>
__device__ __attribute__((noinline)) C activated(Activation activation, double a, double b, double c, C x) {
  with_activation<C>(activation, {a, b, c}, [&](auto function) { x = function.forward(x); });
  return x;
}

// grad_y times its derivative where it gave y, if y says what that is.
template <class C>
__device__ __attribute__((noinline)) C differentiated(Activation activation, double a, double b, double c, C grad_y,
                                                      C y) {
  with_known_from_output<C>(activation, {a, b, c}, [&](auto function) { grad_y = function.backward(grad_y, y); });
  return grad_y;
}

// Its derivative there, if that takes two values.
template <class C>
__device__ __attribute__((noinline)) C slope_of_activation(Activation activation, double a, double b, double c, C x) {
  with_two_slopes<C>(activation, {a, b, c}, [&](auto function) {
    x = function.backward(C(1), saves_output(activation) ? function.forward(x) : x);
  });
  return x;
}

// Elements whose bits of a mask are a byte.
constexpr int kMaskBits = 8;

// `width` numbers from channel c on, which is a multiple of it; in one piece if all such are at multiples of a pack.
template <int width, class T>
__device__ __forceinline__ Pack<T, width> load_numbers(const T* numbers, int64_t c, bool in_packs) {
  if (in_packs) return load<width>(numbers + c);
  Pack<T, width> pack;
#pragma unroll
  for (int k = 0; k < width; ++k) pack.lanes[k] = numbers[c + k];
  return pack;
}

template <class S>
struct Epilogue {
  using C = ComputeType<S>;
  const S *bias, *beside;  // may be null, as all pointers; the latter lies as the result does
  const C *scale, *shift;  // of a channel, before the residual; the bias is in the shift
  uint8_t* mask;           // a bit for each element of the result
  bool bias_in_packs, shift_in_packs;
  bool differentiates;  // beside is where the activation's derivative is taken, and not a residual
  Activation activation;
  ActivationParameters parameters;
  C low_slope;

  explicit Epilogue(const ConvArgs& args)
      : bias(static_cast<const S*>(args.bias)),
        beside(static_cast<const S*>(cuda::beside(args))),
        scale(nullptr),
        shift(nullptr),
        mask(args.mask),
        bias_in_packs(is_aligned(args.bias)),
        differentiates(args.finish && args.finish->grad_y),
        activation(args.finish ? args.finish->activation : Activation::Identity),
        parameters(args.finish ? args.finish->parameters : ActivationParameters{}),
        low_slope(C(slopes_of(activation, parameters).low)) {
    if (args.norm && !args.norm->of_batch) {
      bias = nullptr;
      scale = scales_of<C>(args);
      shift = scale + args.out_channels;
    }
    shift_in_packs = are_aligned(scale, shift);
  }

  // Of `width` channels from c on, which is a multiple of it; returns what it stored and sets the bits of the lanes
  // that have the higher slope, if there is a mask.
  template <int width, bool may_mask = false, bool may_differentiate = true>
  __device__ __forceinline__ Pack<S, width> store(S* result, int64_t at, int64_t c, const C (&sums)[width],
                                                  uint32_t* bits = nullptr) const {
    constexpr int some = width < 4 ? width : 4;  // that hold registers at a time
    Pack<S, width> rest, out, biases;
    Pack<C, some> scales, shifts;
    if (beside) rest = cuda::load<width>(beside + at);
    if (bias) biases = load_numbers<width>(bias, c, bias_in_packs);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C value = sums[k];
      if (bias) value += widen(biases.lanes[k]);
      if (scale) {
        if (k % some == 0) {
          scales = load_numbers<some>(scale, c + k, shift_in_packs);
          shifts = load_numbers<some>(shift, c + k, shift_in_packs);
        }
        value = value * scales.lanes[k % some] + shifts.lanes[k % some];
      }
      if (may_differentiate && differentiates) {
        value = through(value, widen(rest.lanes[k]));
      } else {
        if (beside) value += widen(rest.lanes[k]);
        if constexpr (may_mask)
          if (mask) *bits |= uint32_t(slope(value) != low_slope) << k;
        value = activated(value);
      }
      out.lanes[k] = narrow(Type<S>{}, value);
    }
    cuda::store(result + at, out);
    return out;
  }
  __device__ __forceinline__ C activated(C x) const {
    if (activation == Activation::Relu) return math::at_least(x, C(0));
    if (activation == Activation::Identity) return x;
    return cuda::activated(activation, parameters.a, parameters.b, parameters.c, x);
  }
  // grad_y times the activation's derivative where it gave y.
  __device__ __forceinline__ C through(C grad_y, C y) const {
    if (activation == Activation::Relu) return y <= C(0) ? C(0) : grad_y;
    return differentiated(activation, parameters.a, parameters.b, parameters.c, grad_y, y);
  }
  // Of the activation at x, if that takes two values.
  __device__ __forceinline__ C slope(C x) const {
    if (activation == Activation::Relu) return x > 0 ? C(1) : C(0);
    return slope_of_activation(activation, parameters.a, parameters.b, parameters.c, x);
  }
  // Writes the bits of `width` channels from c on, of neighbouring lanes those of neighbouring channels; all lanes call
  // it, also those that are not `there`.
  template <int width>
  __device__ __forceinline__ void store_mask(int64_t at, int64_t c, uint32_t bits, bool there) const {
#pragma unroll
    for (int known = width; known < kMaskBits; known *= 2) {
      uint32_t others = __shfl_xor_sync(0xffffffff, bits, known / width);
      bits |= others << known;  // right in the first of the lanes that share a byte
    }
    if (there && c % kMaskBits == 0) mask[at / kMaskBits] = uint8_t(bits);
  }
};

// One file each.
const char* depthwise(const ConvArgs& args, cudaStream_t stream);
const char* depthwise_wgrad(const ConvArgs& args, cudaStream_t stream);
const char* gemm(const ConvArgs& args, cudaStream_t stream);

// The numbers that partial_sums must have room for: of the weight's gradient, and of the moments of the forward.
int64_t depthwise_scratch(const ConvArgs& args);
int64_t gemm_scratch(const ConvArgs& args);
int64_t gemm_moments_scratch(const ConvArgs& args);

}  // namespace nnart::cuda

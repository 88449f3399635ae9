// What batch normalization is made of, alone or behind a convolution: a channel's numbers, and its mean and variance
// from sums over pieces of it, whatever found those.
#pragma once

#include "core/args.h"
#include "cuda/channels.cuh"

namespace nnart::cuda {

// The statistics and the weights of a batch normalization's channels, in the compute type.
template <class S>
struct NormNumbers {
  using C = ComputeType<S>;
  const C *mean, *var;
  const void *weight, *bias;  // may be null
  bool wide_weight;           // these are in C, and not in S
  C eps;

  explicit NormNumbers(const BatchNormArgs& args)
      : mean(static_cast<const C*>(args.mean)),
        var(static_cast<const C*>(args.var)),
        weight(args.weight),
        bias(args.bias),
        wide_weight(args.wide_weight),
        eps(C(args.eps)) {}

  __device__ __forceinline__ C given(const void* numbers, int64_t c, C otherwise) const {
    if (!numbers) return otherwise;
    return wide_weight ? static_cast<const C*>(numbers)[c] : widen(static_cast<const S*>(numbers)[c]);
  }
  __device__ __forceinline__ C inverse_deviation(int64_t c) const { return C(1) / math::sqrt(var[c] + eps); }
  __device__ __forceinline__ C scale(int64_t c) const { return given(weight, c, C(1)) * inverse_deviation(c); }
};

// How many elements of a channel each piece has: `size` of them, in runs of `run`, are cut into `pieces`, as often as
// there are pieces. Its squares are those of distances from its own mean if it is centered, else from the pivot.
struct Pieces {
  int64_t run, size, pieces;
  bool centered;
  __device__ __forceinline__ int64_t operator()(int64_t piece) const { return least(run, size - piece % pieces * run); }
};

// Sums of the distances from a pivot, one a channel, and of squares, all pieces of the first before the second. Each
// piece's squares are taken to its own mean, and the means' spread is added (Chan, Golub and LeVeque 1983, "Algorithms
// for computing the sample variance"): nothing cancels that is not a piece's own. Sums over pieces are added in an
// order that their number determines.
template <class Sum, class Pivot, class C>
__global__ void __launch_bounds__(kChannelThreads)
    moments_kernel(const Sum* sums, int64_t pieces, int64_t channels, int columns, Pieces sizes, double count,
                   Pivot pivot, C* mean, C* var) {
  auto* of_channel = shared_array<double, kWarp>();
  int64_t c = int64_t(blockIdx.x) * columns + threadIdx.x % columns;
  int first = int(threadIdx.x) / columns, height = kChannelThreads / columns;
  auto distance = [&](int64_t piece) { return double(sums[piece * channels + c]); };
  auto square = [&](int64_t piece) { return double(sums[(pieces + piece) * channels + c]); };
  LaneSums<double, 1> sum, squares;
  if (c < channels)
    for (int64_t piece = first; piece < pieces; piece += height) sum.sum[0] += distance(piece);
  sum_columns(sum, columns, [&](int lane, double total) { of_channel[lane] = total / count; });
  __syncthreads();  // the means are there, and the first sums have been read
  if (c < channels) {
    double away = of_channel[threadIdx.x % columns];
    for (int64_t piece = first; piece < pieces; piece += height) {
      double n = double(sizes(piece)), of_piece = distance(piece) / n;
      double of_pivot = sizes.centered ? 0.0 : distance(piece) * of_piece;
      squares.sum[0] += square(piece) - of_pivot + n * (of_piece - away) * (of_piece - away);
    }
  }
  sum_columns(squares, columns, [&](int lane, double total) {
    int64_t channel = int64_t(blockIdx.x) * columns + lane;
    if (channel >= channels) return;
    mean[channel] = C(pivot(channel) + of_channel[lane]);
    var[channel] = C(total > 0 || total != total ? total / count : 0.0);
  });
}

struct NoPivot {
  __device__ __forceinline__ double operator()(int64_t) const { return 0; }
};

template <class Sum, class Pivot, class C>
const char* find_moments(const Sum* sums, int64_t pieces, int64_t channels, const Pieces& sizes, double count,
                         const Pivot& pivot, C* mean, C* var, cudaStream_t stream) {
  int columns = power_of_two(channels, kWarp);
  return launch_kernel(moments_kernel<Sum, Pivot, C>, ceil_div(channels, columns), kChannelThreads, stream, sums,
                       pieces, channels, columns, sizes, count, pivot, mean, var);
}

}  // namespace nnart::cuda

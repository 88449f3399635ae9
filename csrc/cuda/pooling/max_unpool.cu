// The inverse of max pooling: y[indices[i]] = x[i] in each plane, of several the last, whatever the threads do.
#include <cassert>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/numeric.cuh"
#include "math/integers.h"

namespace nnart::cuda {
namespace {

constexpr int kUnpoolThreads = 256;
constexpr int kUnpoolAhead = 4;  // elements a thread reads ahead
constexpr int kUnpoolWarp = 32;

// A warp goes through a plane in order. Of the lanes with one index the last writes, and no lane overtakes another's
// round.
template <class S>
__global__ void __launch_bounds__(kUnpoolThreads)
    unpool_planes_kernel(const S* x, const int64_t* indices, S* y, int64_t planes, int64_t in, int64_t out) {
  int64_t plane = (int64_t(blockIdx.x) * kUnpoolThreads + threadIdx.x) / kUnpoolWarp;
  int lane = threadIdx.x % kUnpoolWarp;
  if (plane >= planes) return;
  for (int64_t first = 0; first < in; first += kUnpoolAhead * kUnpoolWarp) {
    S values[kUnpoolAhead];
    int64_t places[kUnpoolAhead];
#pragma unroll
    for (int u = 0; u < kUnpoolAhead; ++u) {
      int64_t i = first + u * kUnpoolWarp + lane;
      places[u] = i < in ? indices[plane * in + i] : -1 - lane;
      values[u] = i < in ? x[plane * in + i] : S{};
      assert(i >= in || uint64_t(places[u]) < uint64_t(out));
    }
#pragma unroll
    for (int u = 0; u < kUnpoolAhead; ++u) {
      uint32_t same = __match_any_sync(0xffffffff, places[u]);
      if (places[u] >= 0 && lane == 31 - __clz(int(same))) y[plane * out + places[u]] = values[u];
      __syncwarp();  // the next round may write to the same places, later
    }
  }
}

// A thread goes through a channel of an image in order.
template <class S>
__global__ void __launch_bounds__(kUnpoolThreads)
    unpool_channels_kernel(const S* x, const int64_t* indices, S* y, int64_t batch, int64_t channels, int64_t in,
                           int64_t out) {
  int64_t thread = int64_t(blockIdx.x) * kUnpoolThreads + threadIdx.x;
  if (thread >= batch * channels) return;
  int64_t image = thread / channels, c = thread % channels;
#pragma unroll 4
  for (int64_t i = 0; i < in; ++i) {
    int64_t at = (image * in + i) * channels + c, place = indices[at];
    assert(uint64_t(place) < uint64_t(out));
    y[(image * out + place) * channels + c] = x[at];
  }
}

}  // namespace

const char* launch(const MaxUnpoolArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    int64_t planes = args.batch * args.channels;
    error = set_zero(y, planes * args.out * int64_t(sizeof(S)), stream);
    if (error) return;
    if (args.channels_last)
      error = launch_kernel(unpool_channels_kernel<S>, ceil_div(planes, kUnpoolThreads), kUnpoolThreads, stream, x,
                            args.indices, y, args.batch, args.channels, args.in, args.out);
    else
      error = launch_kernel(unpool_planes_kernel<S>, ceil_div(planes * kUnpoolWarp, kUnpoolThreads), kUnpoolThreads,
                            stream, x, args.indices, y, planes, args.in, args.out);
  });
  return error;
}

}  // namespace nnart::cuda

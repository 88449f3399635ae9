// Kernels with bugs that the emulation must catch (test_emulation.py): each reverses the elements of a block.
#include "cuda/matrix.cuh"

namespace nnart::cuda {
namespace {

constexpr int kThreads = 96;

enum class Bug {
  None,
  NoBarrier,        // what others write is read at once
  WrongBarrier,     // the barrier is of the warp
  NoSecondBarrier,  // what others still read is overwritten
  PastTheEnd,       // of the output
  PastTheArray,     // of shared memory
  LonelyBarrier,    // some threads never come
  LonelyShuffle,    // some lanes never come
  SharedOutput,     // two blocks write one element
  WrongWait,        // for another group of copies than the one that is read
};

template <Bug bug>
__global__ void reverse_kernel(const float* x, float* y, int rounds) {
  auto* shared = shared_array<float, kThreads>();
  int t = int(threadIdx.x), mirrored = kThreads - 1 - t;
  auto* copied = shared_array<float, kThreads, struct Copied>();
  if (t % 4 == 0) copy_async<16>(copied + t, x + int64_t(blockIdx.x) * kThreads + t, true);
  end_group_of_copies();
  wait_for_copies<bug == Bug::WrongWait ? 1 : 0>();
  __syncthreads();
  float value = copied[t];
  for (int round = 0; round < rounds; ++round) {
    shared[bug == Bug::PastTheArray ? t + 4 : t] = value;
    if (bug == Bug::WrongBarrier)
      __syncwarp();
    else if (bug != Bug::NoBarrier && (bug != Bug::LonelyBarrier || t < 40))
      __syncthreads();
    value = shared[mirrored];
    if (bug != Bug::NoSecondBarrier) __syncthreads();
  }
  if (bug == Bug::LonelyShuffle && t % 2 == 0) value = __shfl_xor_sync(0xffffffff, value, 1);
  int64_t block = bug == Bug::SharedOutput ? 0 : blockIdx.x;
  y[block * kThreads + t + (bug == Bug::PastTheEnd ? 1 : 0)] = value;
}

}  // namespace
}  // namespace nnart::cuda

extern "C" __attribute__((visibility("default"))) const char* run(int bug, const float* x, float* y, int blocks) {
  using namespace nnart::cuda;
  using Kernel = void (*)(const float*, float*, int);
  constexpr Kernel kernels[] = {
      reverse_kernel<Bug::None>,          reverse_kernel<Bug::NoBarrier>,
      reverse_kernel<Bug::WrongBarrier>,  reverse_kernel<Bug::NoSecondBarrier>,
      reverse_kernel<Bug::PastTheEnd>,    reverse_kernel<Bug::PastTheArray>,
      reverse_kernel<Bug::LonelyBarrier>, reverse_kernel<Bug::LonelyShuffle>,
      reverse_kernel<Bug::SharedOutput>,  reverse_kernel<Bug::WrongWait>,
  };
  return launch_kernel(kernels[bug], blocks, kThreads, nullptr, x, y, 3);
}

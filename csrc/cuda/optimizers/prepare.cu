// What comes before the first change: the norm of the gradients, the decision whether the step takes place, and the
// rules with this step's numbers. Counters are counted here, so that a step that is skipped is not one.
#include "core/optimizer_rules.h"
#include "cuda/optimizers/elements.cuh"
#include "cuda/optimizers/passes.cuh"

namespace nnart::cuda {
namespace {

constexpr int kNormTiles = kTileThreads / kWarp;  // a block: one a warp
constexpr int kPrepareThreads = 256;
constexpr int kPrepareLoads = 8;  // partial sums under way in a thread

template <class S>
__device__ __forceinline__ double squares_of_tile(const S* p, int64_t begin, int64_t n) {
  using C = ComputeType<S>;
  p = in_global_memory(p);
  constexpr int packs = int(kOptimizerTile) / (kWarp * kLanes);
  bool aligned = is_pack_aligned(p);
  int64_t at = begin + int64_t(threadIdx.x % kWarp) * kLanes;
  Pack<S, kLanes> loaded[packs];
#pragma unroll
  for (int u = 0; u < packs; ++u, at += kWarp * kLanes) {
    int count = int(n - at < kLanes ? (n - at > 0 ? n - at : 0) : kLanes);
    loaded[u] = cuda::load<kLanes>(p + at, Lanes{0, count, aligned && count == kLanes});
  }
  double sum = 0;
#pragma unroll
  for (int u = 0; u < packs; ++u) {
    C x[kLanes];
#pragma unroll
    for (int k = 0; k < kLanes; ++k) x[k] = widen(loaded[u].lanes[k]);
    sum += sum_of_squares(x);
  }
  return sum;
}

__global__ void __launch_bounds__(kTileThreads) norm_kernel(OptimizerMemory memory, int64_t tiles) {
  auto* of_warps = shared_array<double, kNormTiles>();
  int64_t tile = int64_t(blockIdx.x) * kNormTiles + threadIdx.x / kWarp;
  double sum = 0;
  if (tile < tiles) {
    const OptimizerRow& row = memory.rows[memory.row_of_tile[tile]];
    int64_t begin = (tile - row.first_tile) * kOptimizerTile;
    with_dtype(row.grad_dtype, [&](auto type) {
      sum = squares_of_tile(static_cast<const typename decltype(type)::type*>(row.grad), begin, row.n);
    });
  }
  sum = sum_over_block(sum, of_warps);
  if (threadIdx.x == 0) memory.sums[blockIdx.x] = sum;
}

// One block. sums: the norm's partial sums, of which there are none where the norm is known or not needed.
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(OptimizerMemory memory, const __grid_constant__ Preparation step) {
  auto* of_warps = shared_array<double, kPrepareThreads / kWarp>();
  double partial[kPrepareLoads] = {};
  for (int64_t i = threadIdx.x; i < step.sums; i += kPrepareLoads * kPrepareThreads) {
#pragma unroll
    for (int k = 0; k < kPrepareLoads; ++k)
      if (i + k * kPrepareThreads < step.sums) partial[k] += memory.sums[i + k * kPrepareThreads];
  }
#pragma unroll
  for (int k = 1; k < kPrepareLoads; ++k) partial[0] += partial[k];
  double square = sum_over_block(partial[0], of_warps);

  double factor = step.scale ? step.grad_factor / double(*step.scale) : step.grad_factor;
  double norm = step.norm;
  if (step.needs_norm && norm < 0) norm = ::sqrt(square) * ::fabs(factor);
  bool skips = step.found_inf && *step.found_inf != 0;
  if (step.skips_non_finite && !(::fabs(norm) < INFINITY)) skips = true;
  if (step.max_norm < INFINITY) {
    double ratio = step.max_norm / (norm + 1e-6);  // as torch.nn.utils.clip_grad_norm_
    if (!(ratio > 1)) factor *= ratio;
  }
  if (threadIdx.x == 0) {
    *memory.decision = {factor, skips};
    if (step.decision) {
      step.decision[0] = float(norm);
      step.decision[1] = skips ? 1.0f : 0.0f;
    }
  }
  if (skips) return;
  for (int64_t g = threadIdx.x; g < step.group_count; g += kPrepareThreads) read_lr(memory.groups[g]);
  __syncthreads();  // the groups are complete
  for (int64_t r = threadIdx.x; r < step.row_count; r += kPrepareThreads) {
    OptimizerRow& row = memory.rows[r];
    build_rule(row, memory.groups[row.group], next_step(row), memory.rules + r * kRuleBytes);
  }
}

// A block a row: the squares of its tiles, one after the other in each thread.
__global__ void __launch_bounds__(kTileThreads) scale_kernel(OptimizerMemory memory) {
  auto* of_warps = shared_array<double[kTileThreads / kWarp], 2>();
  const OptimizerRow& row = memory.rows[blockIdx.x];
  const OptimizerGroup& group = memory.groups[row.group];
  if (memory.decision->skips || !layer_wise(group.rule)) return;
  double param = 0, measured = 0;
  for (int64_t tile = threadIdx.x; tile * kOptimizerTile < row.n; tile += kTileThreads) {
    param += memory.sums[2 * (row.first_tile + tile)];
    measured += memory.sums[2 * (row.first_tile + tile) + 1];
  }
  param = sum_over_block(param, of_warps[0]);
  measured = sum_over_block(measured, of_warps[1]);
  if (threadIdx.x == 0) scale_rule(row, group, param, measured);
}

}  // namespace

int64_t norm_sums(int64_t tiles) { return (tiles + kNormTiles - 1) / kNormTiles; }

const char* launch_norm(const OptimizerMemory& memory, int64_t tiles, cudaStream_t stream) {
  return launch_kernel(norm_kernel, norm_sums(tiles), kTileThreads, stream, memory, tiles);
}

const char* launch_prepare(const OptimizerMemory& memory, const Preparation& step, cudaStream_t stream) {
  return launch_kernel(prepare_kernel, 1, kPrepareThreads, stream, memory, step);
}

const char* launch_scale(const OptimizerMemory& memory, int64_t row_count, cudaStream_t stream) {
  return launch_kernel(scale_kernel, row_count, kTileThreads, stream, memory);
}

}  // namespace nnart::cuda

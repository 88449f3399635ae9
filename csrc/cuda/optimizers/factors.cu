// Adafactor's second moments of matrices: the variances of rows and columns are averaged from one read of the gradient,
// cut as core/factors.h has it. Every sum has one order, which only the sizes determine.
#include "core/factors.h"
#include "cuda/optimizers/elements.cuh"
#include "cuda/optimizers/passes.cuh"

namespace nnart::cuda {
namespace {

static_assert(kFactorThreads == kChannelThreads && kFactorLanes == kLanes);

template <class C>
constexpr int kAverageBlocks = sizeof(C) == 4 ? 2 : 1;  // a multiprocessor: registers for what is under way
constexpr int kAverageUnroll = 4;                       // packs of lines under way in a thread
constexpr int kMeanLoads = 8;
constexpr int kTilePacks = int(kFactorTile) / (kFactorThreads * kLanes);

struct RowVariances {};  // a tag of shared memory

// The last row of the table that begins at or before a unit of work.
template <class First>
__device__ __forceinline__ const OptimizerRow& row_of(const OptimizerMemory& memory, int64_t row_count, First first) {
  return memory
      .rows[entry_of(int64_t(blockIdx.x), row_count, [&](int64_t r) { return memory.rows[r].first_factors.*first; })];
}

// What is done to the variances of one tensor.
template <class C>
class Averager {
 public:
  __device__ Averager(const OptimizerRow& row, const OptimizerMemory& memory)
      : row_(row), cut_(row.factors), group_(memory.groups[row.group]) {
    const auto& rule = *in_global_memory(static_cast<const math::Adafactor<C>*>(row.rule));
    rest_ = rule.rest;
    eps1_ = rule.eps1;
    factor_ = C(memory.decision->grad_factor);
    column_sums_ = memory.factor_sums + row.first_factors.sums;
    row_sums_ = column_sums_ + cut_.column_sums();
  }

  // Several small matrices, from shared memory.
  template <class S>
  __device__ __forceinline__ void average_together(const S* grad, int64_t chunk) const {
    auto* squares = shared_array<C, int(kFactorTile)>();
    auto* row_variances = shared_array<C, int(kFactorTile), RowVariances>();
    int rows = int(cut_.rows), columns = int(cut_.columns);
    int64_t first = chunk * cut_.together;
    int count = int(least(cut_.together, cut_.matrices - first)), n = count * rows * columns;
    grad += first * rows * columns;
    bool aligned = is_pack_aligned(grad);
    Pack<S, kLanes> loaded[kTilePacks];
#pragma unroll
    for (int u = 0; u < kTilePacks; ++u) {
      int at = pack_of_tile(u), there = at < n ? int(least(n - at, kLanes)) : 0;
      loaded[u] = cuda::load<kLanes>(grad + at, Lanes{0, there, aligned && there == kLanes});
    }
#pragma unroll
    for (int u = 0; u < kTilePacks; ++u)
#pragma unroll
      for (int k = 0; k < kLanes; ++k) squares[pack_of_tile(u) + k] = square(loaded[u].lanes[k]);
    __syncthreads();  // all squares are there
    for (int line = threadIdx.x; line < count * rows; line += kFactorThreads) {
      C sum = 0;
      for (int c = 0; c < columns; ++c) sum += squares[line * columns + c];
      row_variances[line] = average(row_.row_variance, first * rows + line, sum / C(columns));
    }
    for (int i = threadIdx.x; i < count * columns; i += kFactorThreads) {
      int matrix = i / columns;
      C sum = 0;
      for (int r = 0; r < rows; ++r) sum += squares[(matrix * rows + r) * columns + i - matrix * columns];
      average(row_.state[0], first * columns + i, sum / C(rows));
    }
    __syncthreads();  // all rows' variances are there
    for (int matrix = threadIdx.x; matrix < count; matrix += kFactorThreads) {
      double sum = 0;
      for (int r = 0; r < rows; ++r) sum += row_variances[matrix * rows + r];
      take_mean(first + matrix, sum / rows);
    }
  }

  // A strip of the columns of some lines of a large matrix.
  template <class S>
  __device__ __forceinline__ void average_strip(const S* grad, int64_t chunk) const {
    int64_t strip = chunk % cut_.strips, part = chunk / cut_.strips % cut_.parts,
            matrix = chunk / cut_.strips / cut_.parts;
    int lanes = int(cut_.lanes), height = kFactorThreads / lanes;
    int64_t first_column = strip * lanes * kLanes, column = first_column + threadIdx.x % lanes * kLanes;
    int count = int(most(least(cut_.columns - column, kLanes), 0));
    bool whole = count == kLanes && cut_.columns % kLanes == 0 && is_pack_aligned(grad);
    int64_t begin = matrix * cut_.rows + part * cut_.lines;
    int64_t end = matrix * cut_.rows + least((part + 1) * cut_.lines, cut_.rows);
    LaneSums<C, kLanes> sums;
    for (; begin < end; begin += kAverageUnroll * height) {
      auto line_of = [&](int u) { return begin + u * height + threadIdx.x / lanes; };
      Pack<S, kLanes> loaded[kAverageUnroll];
#pragma unroll
      for (int u = 0; u < kAverageUnroll; ++u) {
        int64_t line = line_of(u);
        bool there = line < end;
        Lanes some{0, there ? count : 0, there && whole};
        loaded[u] = cuda::load<kLanes>(grad + line * cut_.columns + column, some);
      }
#pragma unroll
      for (int u = 0; u < kAverageUnroll; ++u) {
        Pack<C, kLanes> squares;
        C sum = 0;
#pragma unroll
        for (int k = 0; k < kLanes; ++k) sum += squares.lanes[k] = square(loaded[u].lanes[k]);
        sums.add(squares, Lanes{0, kLanes, true});
        for (int offset = 1; offset < lanes; offset *= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
        int64_t line = line_of(u);
        if (threadIdx.x % lanes != 0 || line >= end) continue;
        if (cut_.joins_rows())
          row_sums_[strip * cut_.matrices * cut_.rows + line] = double(sum);
        else
          average(row_.row_variance, line, sum / C(cut_.columns));
      }
    }
    sum_columns(sums, lanes, [&](int lane, double sum) {
      int64_t c = first_column + lane;
      if (c >= cut_.columns) return;
      if (cut_.joins_columns())
        column_sums_[(matrix * cut_.parts + part) * cut_.columns + c] = sum;
      else
        average(row_.state[0], matrix * cut_.columns + c, C(sum / double(cut_.rows)));
    });
  }

  // A block's columns, or after them rows, of which others have left the sums.
  __device__ __forceinline__ void join(int64_t block) const {
    bool of_columns = block < cut_.column_joins();
    if (!of_columns) block -= cut_.column_joins();
    int64_t i = block * kFactorThreads + threadIdx.x;
    double sum = 0;
    if (of_columns && i < cut_.matrices * cut_.columns) {
      int64_t matrix = i / cut_.columns, c = i - matrix * cut_.columns;
      for (int64_t part = 0; part < cut_.parts; ++part)
        sum += column_sums_[(matrix * cut_.parts + part) * cut_.columns + c];
      average(row_.state[0], i, C(sum / double(cut_.rows)));
    } else if (!of_columns && i < cut_.matrices * cut_.rows) {
      for (int64_t strip = 0; strip < cut_.strips; ++strip) sum += row_sums_[strip * cut_.matrices * cut_.rows + i];
      average(row_.row_variance, i, C(sum / double(cut_.columns)));
    }
  }

  // The mean of a large matrix's rows.
  __device__ __forceinline__ void average_rows(int64_t matrix) const {
    auto* of_warps = shared_array<double, kFactorThreads / kWarp>();
    double partial[kMeanLoads] = {};
    for_variances([&](auto type) {
      auto* rows = in_global_memory(static_cast<const typename decltype(type)::type*>(row_.row_variance));
      for (int64_t r = threadIdx.x; r < cut_.rows; r += kMeanLoads * kFactorThreads) {
#pragma unroll
        for (int k = 0; k < kMeanLoads; ++k)
          if (r + k * kFactorThreads < cut_.rows)
            partial[k] += double(widen(rows[matrix * cut_.rows + r + k * kFactorThreads]));
      }
    });
#pragma unroll
    for (int k = 1; k < kMeanLoads; ++k) partial[0] += partial[k];
    double sum = sum_over_block(partial[0], of_warps);
    if (threadIdx.x == 0) take_mean(matrix, sum / double(cut_.rows));
  }

 private:
  __device__ __forceinline__ static int pack_of_tile(int u) { return (u * kFactorThreads + int(threadIdx.x)) * kLanes; }

  // Of an element of the gradient, as it is used.
  template <class S>
  __device__ __forceinline__ C square(S stored) const {
    C bound = C(group_.max_value), g = C(widen(stored)) * factor_;
    if (group_.max_value < INFINITY) g = math::at_most(math::at_least(g, -bound), bound);
    return g * g;
  }

  // f(type) with the storage type of the variances, which is the parameter's.
  template <class F>
  __device__ __forceinline__ void for_variances(const F& f) const {
    with_dtype(row_.param_dtype, [&](auto type) {
      if constexpr (std::is_same_v<ComputeType<typename decltype(type)::type>, C>) f(type);
    });
  }

  // Moves a variance towards a mean and gives what it is then.
  __device__ __forceinline__ C average(void* variances, int64_t i, C mean) const {
    C stored = 0;
    for_variances([&](auto type) {
      auto* p = in_global_memory(static_cast<typename decltype(type)::type*>(variances)) + i;
      *p = narrow(type, math::lerp(widen(*p), mean, rest_));
      stored = widen(*p);
    });
    return stored;
  }

  __device__ __forceinline__ void take_mean(int64_t matrix, double mean) const {
    in_global_memory(static_cast<C*>(row_.inverse_mean))[matrix] = C(1 / (mean > eps1_ ? mean : eps1_));
  }

  const OptimizerRow& row_;
  const FactorCut& cut_;
  const OptimizerGroup& group_;
  double *column_sums_, *row_sums_;
  double eps1_;
  C rest_, factor_;
};

template <class C>
__global__ void __launch_bounds__(kFactorThreads, kAverageBlocks<C>)
    average_kernel(OptimizerMemory memory, int64_t row_count) {
  const OptimizerRow& row = row_of(memory, row_count, &FactorWork::chunks);
  if (memory.decision->skips || !computes_in<C>(row)) return;
  Averager<C> averager(row, memory);
  int64_t chunk = blockIdx.x - row.first_factors.chunks;
  with_dtype(row.grad_dtype, [&](auto type) {
    auto* grad = in_global_memory(static_cast<const typename decltype(type)::type*>(row.grad));
    row.factors.together > 0 ? averager.average_together(grad, chunk) : averager.average_strip(grad, chunk);
  });
}

template <class C>
__global__ void __launch_bounds__(kFactorThreads) join_kernel(OptimizerMemory memory, int64_t row_count) {
  const OptimizerRow& row = row_of(memory, row_count, &FactorWork::joins);
  if (memory.decision->skips || !computes_in<C>(row)) return;
  Averager<C>(row, memory).join(blockIdx.x - row.first_factors.joins);
}

template <class C>
__global__ void __launch_bounds__(kFactorThreads) mean_kernel(OptimizerMemory memory, int64_t row_count) {
  const OptimizerRow& row = row_of(memory, row_count, &FactorWork::means);
  if (memory.decision->skips || !computes_in<C>(row)) return;
  Averager<C>(row, memory).average_rows(blockIdx.x - row.first_factors.means);
}

template <class C>
const char* average(const OptimizerMemory& memory, int64_t row_count, const FactorWork& work, cudaStream_t stream) {
  auto run = [&](auto kernel, int64_t blocks) {
    return blocks > 0 ? launch_kernel(kernel, blocks, kFactorThreads, stream, memory, row_count) : nullptr;
  };
  const char* error = run(average_kernel<C>, work.chunks);
  if (!error) error = run(join_kernel<C>, work.joins);
  return error ? error : run(mean_kernel<C>, work.means);
}

}  // namespace

const char* launch_average(const OptimizerMemory& memory, bool in_double, int64_t row_count, const FactorWork& work,
                           cudaStream_t stream) {
  return in_double ? average<double>(memory, row_count, work, stream) : average<float>(memory, row_count, work, stream);
}

}  // namespace nnart::cuda

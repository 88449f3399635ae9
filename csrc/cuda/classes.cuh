// Reductions over the classes of outer x classes x inner elements, and what is computed of each element with their
// results. Neighbouring rows lie side by side where inner > 1, one after the other where it is 1.
//
// Body has the types S and C of storage and computation and
//   Loaded<width> load<width>(i, lanes)     what it reads of `width` elements from element i on
//   Element element(loaded, k), nothing()   one lane of that, and what stands for a lane that does not exist
//   Row row(r)                              what it knows of row r
//   State                                   of a reduction: offer(state, row, elements, classes) adds some elements of
//                                           the row, class -1 for those that do not exist; merge(other) is commutative
//   Result result(r, row, state, is_first, sums)  called by every thread of a row, one of them being the first
//   C value(result, element, c)             the output's element, if y is not null
// most_kept is how many packs of a row fit into a thread's registers, column_width of how many columns the states do.
// reduces says whether there is a State worth the name, partial_sums (or null) takes what result() adds to its sums,
// two numbers a block.
#pragma once

#include "cuda/divisor.cuh"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/integers.h"

namespace nnart::cuda {

constexpr int kClassWarp = 32;
constexpr int kClassThreads = 256;
constexpr int kLongRowThreads = 512;
constexpr int kMostWarps = kLongRowThreads / kClassWarp;
constexpr int kClassBlocks = 2;  // of kClassThreads a multiprocessor at least, for the registers' sake
// Packs that a thread reads before it computes where it does not keep its part of a row.
constexpr int kClassUnroll = 4;
// Few columns are split over threads by their classes too, fewer ones over more.
constexpr int64_t kFewColumns = int64_t{1} << 16, kVeryFewColumns = int64_t{1} << 13;
constexpr int kSplit = 8, kMostSplit = 32;

struct BlockSums {
  double first = 0, second = 0;
};

template <class T>
__device__ __forceinline__ T shuffled(T value, int offset) {
  return __shfl_xor_sync(0xffffffff, value, offset);
}

template <class State>
__device__ __forceinline__ State over_lanes(State state, int lanes) {
  for (int offset = 1; offset < lanes; offset *= 2) {
    State other = state;
    other.each([&](auto& number) { number = shuffled(number, offset); });
    state.merge(other);
  }
  return state;
}

// Of a block's threads; every thread gets it. Called once in a kernel.
template <class State>
__device__ __forceinline__ State over_block(State state) {
  State* of_warp = shared_array<State, kMostWarps>();
  state = over_lanes(state, kClassWarp);
  if (threadIdx.x % kClassWarp == 0) of_warp[threadIdx.x / kClassWarp] = state;
  __syncthreads();  // every warp's part is there
  state = of_warp[0];
  for (int w = 1; w < int(blockDim.x) / kClassWarp; ++w) state.merge(of_warp[w]);
  return state;
}

// The sums of a block's threads, in the order of its warps; only its first thread has them then. Called once in a
// kernel.
__device__ __forceinline__ BlockSums sums_of_block(BlockSums sums) {
  BlockSums* of_warp = shared_array<BlockSums, kMostWarps>();
  for (int offset = 1; offset < kClassWarp; offset *= 2) {
    sums.first += shuffled(sums.first, offset);
    sums.second += shuffled(sums.second, offset);
  }
  if (threadIdx.x % kClassWarp == 0) of_warp[threadIdx.x / kClassWarp] = sums;
  __syncthreads();  // every warp's part is there
  if (threadIdx.x != 0) return sums;
  for (int w = 1; w < int(blockDim.x) / kClassWarp; ++w) {
    sums.first += of_warp[w].first;
    sums.second += of_warp[w].second;
  }
  return sums;
}

// Those to the block's two numbers.
__device__ __forceinline__ void write_sums(BlockSums sums, double* partial_sums) {
  sums = sums_of_block(sums);
  if (threadIdx.x != 0) return;
  partial_sums[2 * int64_t(blockIdx.x)] = sums.first;
  partial_sums[2 * int64_t(blockIdx.x) + 1] = sums.second;
}

// ---- inner == 1
// -------------------------------------------------------------------------------------------------------

struct RowPlan {
  int64_t rows, classes;
  int threads;     // of a row: up to a warp, or the block
  int kept;        // packs that each of them keeps; 0 where the row is read twice
  int64_t pieces;  // blocks of a row, of a body that reduces nothing
  int64_t blocks;
  bool by_block;
};

// most_kept: how many packs of the body fit into registers.
inline RowPlan plan_rows(int64_t rows, int64_t classes, int width, int most_kept, bool reduces) {
  RowPlan plan{rows, classes, 1, 1, 1, 0, false};
  int64_t packs = ceil_div(classes, width) + (classes % width != 0);
  while (plan.threads < packs && plan.threads < kClassWarp) plan.threads *= 2;
  while (plan.kept < 8 && int64_t(plan.kept) * plan.threads < packs) plan.kept = plan.kept == 1 ? 4 : 8;
  if (plan.kept <= most_kept && int64_t(plan.kept) * plan.threads >= packs) {
    plan.blocks = ceil_div(rows, kClassThreads / plan.threads);
    return plan;
  }
  plan.by_block = true;
  plan.threads = packs <= int64_t(most_kept) * kClassThreads ? kClassThreads : kLongRowThreads;
  plan.kept = most_kept;
  if (packs > int64_t(most_kept) * plan.threads) {
    if (reduces)
      plan.kept = 0;
    else
      plan.pieces = ceil_div(packs, int64_t(most_kept) * plan.threads);
  }
  plan.blocks = rows * plan.pieces;
  return plan;
}

// Packs begin at multiples of the width of all elements, not of the row: the first and the last of a row may be shared
// with its neighbours.
template <class Body, int kept, bool by_block>
__global__ void __launch_bounds__(by_block ? kLongRowThreads : kClassThreads, by_block ? 1 : kClassBlocks)
    class_rows_kernel(Body body, RowPlan plan, bool aligned) {
  using S = typename Body::S;
  constexpr int width = kPackWidth<S>;
  constexpr int unroll = kept ? kept : kClassUnroll;
  int64_t r = by_block ? blockIdx.x / plan.pieces
                       : int64_t(blockIdx.x) * (kClassThreads / plan.threads) + threadIdx.x / plan.threads;
  int lane = by_block ? threadIdx.x : threadIdx.x % plan.threads;
  bool exists = r < plan.rows;
  int64_t begin = exists ? r * plan.classes : 0, end = exists ? begin + plan.classes : 0;
  int64_t end_pack = (end + width - 1) / width, step = int64_t(plan.threads) * unroll;
  int64_t first = begin / width + lane + (by_block ? blockIdx.x % plan.pieces * step : 0);

  typename Body::template Loaded<width> loaded[unroll];
  auto lanes_of = [&](int64_t pack) {
    int64_t from = most(begin - pack * width, 0), to = least(end - pack * width, width);
    return Lanes{int(from), int(to), aligned && from == 0 && to == width};
  };
  auto read = [&](int64_t p) {
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      int64_t pack = p + int64_t(u) * plan.threads;
      if (pack < end_pack) loaded[u] = body.template load<width>(pack * width, lanes_of(pack));
    }
  };
  auto each_pack = [&](int64_t p, const auto& visit) {
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      int64_t pack = p + int64_t(u) * plan.threads;
      if (pack >= end_pack) continue;
      Lanes lanes = lanes_of(pack);
      typename Body::Element elements[width];
      int32_t classes[width];
#pragma unroll
      for (int k = 0; k < width; ++k) {
        bool there = k >= lanes.begin && k < lanes.end;
        elements[k] = there ? body.element(loaded[u], k) : body.nothing();
        classes[k] = there ? int32_t(pack * width + k - begin) : -1;
      }
      visit(pack, lanes, elements, classes);
    }
  };

  auto row = body.row(exists ? r : 0);
  typename Body::State state;
  if (kept) read(first);
  if constexpr (Body::reduces) {
    for (int64_t p = first; p < end_pack; p += step) {
      if (!kept) read(p);
      each_pack(p, [&](int64_t, Lanes, const auto& elements, const auto& classes) {
        body.offer(state, row, elements, classes);
      });
      if (kept) break;
    }
    state = by_block ? over_block(state) : over_lanes(state, plan.threads);
  }
  BlockSums sums;
  auto result = body.result(exists ? r : 0, row, state, exists && lane == 0, sums);
  if (body.y) {
    for (int64_t p = first; p < end_pack; p += step) {
      if (!kept) read(p);
      each_pack(p, [&](int64_t pack, Lanes lanes, const auto& elements, const auto& classes) {
        Pack<S, width> out;
#pragma unroll
        for (int k = 0; k < width; ++k)  // a lane of another row has no class to look up
          if (classes[k] >= 0) out.lanes[k] = narrow(Type<S>{}, body.value(result, elements[k], classes[k]));
        store(body.y + pack * width, out, lanes);
      });
      if (kept) break;
    }
  }
  if (body.partial_sums) write_sums(sums, body.partial_sums);
}

// ---- inner > 1
// --------------------------------------------------------------------------------------------------------

struct ColumnPlan {
  int64_t outer, classes, inner;
  Divisor packs;    // of a plane's columns
  int64_t columns;  // packs of all
  int split;        // threads that share a column
  int64_t blocks;
};

inline ColumnPlan plan_columns(int64_t outer, int64_t classes, int64_t inner, int width) {
  int64_t packs = ceil_div(inner, width), columns = outer * packs;
  int split = columns < kVeryFewColumns ? kMostSplit : columns < kFewColumns ? kSplit : 1;
  while (split > 1 && classes < 2 * split) split = split == kMostSplit ? kSplit : 1;
  return {outer, classes, inner, Divisor(packs, columns), columns, split, ceil_div(columns, kClassThreads / split)};
}

// A thread goes down the classes of `width` neighbouring rows; with `split`, every split-th of them.
template <class Body, int width>
__global__ void __launch_bounds__(kClassThreads, kClassBlocks) class_columns_kernel(Body body, ColumnPlan plan) {
  using S = typename Body::S;
  using State = typename Body::State;
  int wide = kClassThreads / plan.split, x = threadIdx.x % wide, part = threadIdx.x / wide;
  int64_t column = int64_t(blockIdx.x) * wide + x;
  bool exists = column < plan.columns;
  Division at = divide(exists ? column : 0, plan.packs);
  int64_t first_row = at.quotient * plan.inner + at.rest * width;
  int64_t place = at.quotient * plan.classes * plan.inner + at.rest * width;
  Lanes whole{0, width, true};

  typename Body::template Loaded<width> loaded[kClassUnroll];
  auto read = [&](int64_t from) {
#pragma unroll
    for (int u = 0; u < kClassUnroll; ++u) {
      int64_t c = from + u * plan.split;
      if (c < plan.classes) loaded[u] = body.template load<width>(place + c * plan.inner, whole);
    }
  };
  decltype(body.row(0)) rows[width];
#pragma unroll
  for (int k = 0; k < width; ++k) rows[k] = body.row(first_row + k);
  State states[width];
  if constexpr (Body::reduces) {
    for (int64_t from = part; exists && from < plan.classes; from += kClassUnroll * plan.split) {
      read(from);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        typename Body::Element elements[kClassUnroll];
        int32_t classes[kClassUnroll];
#pragma unroll
        for (int u = 0; u < kClassUnroll; ++u) {
          bool there = from + u * plan.split < plan.classes;
          elements[u] = there ? body.element(loaded[u], k) : body.nothing();
          classes[u] = there ? int32_t(from + u * plan.split) : -1;
        }
        body.offer(states[k], rows[k], elements, classes);
      }
    }
    if (plan.split > 1) {
      State* parts = shared_array<State, kClassThreads * width>();
#pragma unroll
      for (int k = 0; k < width; ++k) parts[threadIdx.x * width + k] = states[k];
      __syncthreads();  // every thread's part is there
#pragma unroll
      for (int k = 0; k < width; ++k) {
        states[k] = parts[x * width + k];
        for (int p = 1; p < plan.split; ++p) states[k].merge(parts[(p * wide + x) * width + k]);
      }
    }
  }
  BlockSums sums;
  if (exists) {
    decltype(body.result(0, rows[0], states[0], true, sums)) results[width];
#pragma unroll
    for (int k = 0; k < width; ++k) results[k] = body.result(first_row + k, rows[k], states[k], part == 0, sums);
    for (int64_t from = part; body.y && from < plan.classes; from += kClassUnroll * plan.split) {
      read(from);
#pragma unroll
      for (int u = 0; u < kClassUnroll; ++u) {
        int64_t c = from + u * plan.split;
        if (c >= plan.classes) continue;
        Pack<S, width> out;
#pragma unroll
        for (int k = 0; k < width; ++k)
          out.lanes[k] = narrow(Type<S>{}, body.value(results[k], body.element(loaded[u], k), int32_t(c)));
        store(body.y + place + c * plan.inner, out, whole);
      }
    }
  }
  if (body.partial_sums) write_sums(sums, body.partial_sums);
}

// ---- on the host
// ------------------------------------------------------------------------------------------------------

// The numbers that partial_sums must have room for, whatever the addresses and the dtype: two a block.
inline int64_t class_scratch(int64_t outer, int64_t classes, int64_t inner) {
  if (inner == 1) return 2 * most(outer, 1);
  return 2 * most(plan_columns(outer, classes, inner, 1).blocks, ceil_div(outer * inner * kMostSplit, kClassThreads));
}

// Runs body; blocks is how many pairs of partial sums there are then.
template <class Body>
const char* reduce_classes(const Body& body, int64_t outer, int64_t classes, int64_t inner, bool aligned,
                           int64_t& blocks, cudaStream_t stream) {
  constexpr int width = kPackWidth<typename Body::S>;
  if (inner > 1) {
    auto run = [&](auto lanes) {
      ColumnPlan plan = plan_columns(outer, classes, inner, lanes.value);
      blocks = plan.blocks;
      return launch_kernel(class_columns_kernel<Body, lanes.value>, plan.blocks, kClassThreads, stream, body, plan);
    };
    if (aligned && inner % Body::column_width == 0) return run(Count<Body::column_width>{});
    return run(Count<1>{});
  }
  RowPlan plan = plan_rows(outer, classes, width, Body::most_kept, Body::reduces);
  blocks = plan.blocks;
  auto run = [&](auto kept, auto by_block) {
    return launch_kernel(class_rows_kernel<Body, kept.value, by_block.value == 1>, plan.blocks,
                         plan.by_block ? plan.threads : kClassThreads, stream, body, plan, aligned);
  };
  if (plan.by_block) return plan.kept ? run(Count<Body::most_kept>{}, Count<1>{}) : run(Count<0>{}, Count<1>{});
  if (plan.kept == 1) return run(Count<1>{}, Count<0>{});
  if constexpr (Body::most_kept == 8)
    if (plan.kept == 8) return run(Count<8>{}, Count<0>{});
  return run(Count<4>{}, Count<0>{});
}

}  // namespace nnart::cuda

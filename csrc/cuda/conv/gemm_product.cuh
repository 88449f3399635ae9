// The product of two pieces in shared memory, and which thread has which of its sums.
#pragma once

#include <type_traits>

#include "cuda/conv/gemm_load.cuh"

namespace nnart::cuda {

// By tensor cores: two by two warps, each with half of the tile's rows and columns.
template <class S, int tile_columns, Packs packed_rows, Packs packed_columns>
struct Product {
  static constexpr int rows_of_warp = kTileRows<S> / 2, columns_of_warp = tile_columns / 2;
  static constexpr int row_blocks = rows_of_warp / 16, column_blocks = columns_of_warp / 8;
  float sums[row_blocks][column_blocks][4] = {};

  __device__ __forceinline__ static int first_row() { return int(threadIdx.x) / kWarp / 2 * rows_of_warp; }
  __device__ __forceinline__ static int first_column() { return int(threadIdx.x) / kWarp % 2 * columns_of_warp; }

  // Sixteen lines from `line` on by the 32 bytes of terms of a half, as four matrices of which the lane's is that of
  // the upper or lower eight lines and 16 bytes.
  template <Packs packs, int lines>
  __device__ __forceinline__ static void load_lines(uint32_t (&parts)[4], const unsigned char* tile, int line,
                                                    int upper_lines, int half, int upper_terms) {
    int lane = int(threadIdx.x) % 8;
    if constexpr (packs == Packs::OfLines)
      load_matrices<true>(parts, tile + pack_of_lines<lines / kPackWidth<S>>(half * 16 + upper_terms * 8 + lane,
                                                                             line / kPackWidth<S> + upper_lines));
    else
      load_matrices<false>(parts, tile + pack_of_terms(line + upper_lines * 8 + lane, 2 * half + upper_terms));
    if constexpr (std::is_same_v<S, float>)
#pragma unroll
      for (uint32_t& part : parts) part = to_tf32(part);
  }
  __device__ __forceinline__ void add(const unsigned char* rows, const unsigned char* columns) {
    int lane = int(threadIdx.x) % kWarp;
#pragma unroll
    for (int half = 0; half < kLinePacks / 2; ++half) {
      uint32_t b[column_blocks / 2][4];
#pragma unroll
      for (int j = 0; j < column_blocks / 2; ++j)
        load_lines<packed_columns, tile_columns>(b[j], columns, first_column() + j * 16, lane / 16, half, lane / 8 % 2);
#pragma unroll
      for (int i = 0; i < row_blocks; ++i) {
        uint32_t a[4];
        load_lines<packed_rows, kTileRows<S>>(a, rows, first_row() + i * 16, lane / 8 % 2, half, lane / 16);
#pragma unroll
        for (int j = 0; j < column_blocks; ++j)
          multiply_add(Type<S>{}, sums[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  // Calls visit(row and column of the tile, two sums side by side).
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    int lane = int(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < row_blocks; ++i)
#pragma unroll
      for (int j = 0; j < column_blocks; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          visit(first_row() + i * 16 + half * 8 + lane / 4, first_column() + j * 8 + lane % 4 * 2,
                Pack<float, 2>{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}});
  }
};

// By multiply-adds: a thread has rows and columns spread over the tile.
template <class C>
struct PlainProduct {
  static constexpr int width = kPackWidth<C>, wide = 16, high = kGemmThreads / wide;
  static constexpr int rows_each = kTileRows<C> / high, columns_each = kNarrow / wide;
  C sums[rows_each][columns_each] = {};

  __device__ __forceinline__ static int first_row() { return int(threadIdx.x) / wide; }
  __device__ __forceinline__ static int first_column() { return int(threadIdx.x) % wide; }

  __device__ __forceinline__ void add(const unsigned char* rows, const unsigned char* columns) {
    auto read = [](const unsigned char* tile, int line, int p) {
      return load<width>(reinterpret_cast<const C*>(tile + pack_of_terms(line, p)));
    };
#pragma unroll 1
    for (int p = 0; p < kLinePacks; ++p) {
      Pack<C, width> b[columns_each];
#pragma unroll
      for (int j = 0; j < columns_each; ++j) b[j] = read(columns, first_column() + j * wide, p);
#pragma unroll
      for (int i = 0; i < rows_each; ++i) {
        Pack<C, width> a = read(rows, first_row() + i * high, p);
#pragma unroll
        for (int j = 0; j < columns_each; ++j)
#pragma unroll
          for (int t = 0; t < width; ++t) sums[i][j] += a.lanes[t] * b[j].lanes[t];
      }
    }
  }
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < rows_each; ++i)
#pragma unroll
      for (int j = 0; j < columns_each; ++j)
        visit(first_row() + i * high, first_column() + j * wide, Pack<C, 1>{{sums[i][j]}});
  }
};

// The sum of a row's terms, of which each thread has a row: of the weight's gradient, the bias's.
template <class S, Packs packs>
struct RowSum {
  static constexpr int width = kPackWidth<S>, lines = kTileRows<S>;
  static_assert(lines <= kGemmThreads);
  ComputeType<S> sum = 0;

  __device__ __forceinline__ static int row() { return int(threadIdx.x); }

  __device__ __forceinline__ void add(const unsigned char* rows) {
    if (row() >= lines) return;
    if constexpr (packs == Packs::OfLines) {
#pragma unroll 4
      for (int t = 0; t < kTerms<S>; ++t)
        sum += widen(reinterpret_cast<const S*>(rows + pack_of_lines<lines / width>(t, row() / width))[row() % width]);
    } else {
#pragma unroll 1
      for (int p = 0; p < kLinePacks; ++p) {
        auto pack = load<width>(reinterpret_cast<const S*>(rows + pack_of_terms(row(), p)));
#pragma unroll
        for (int t = 0; t < width; ++t) sum += widen(pack.lanes[t]);
      }
    }
  }
};

enum class Multiply { Plain, TensorCores };

template <class S, Multiply how, int columns, Packs packed_rows, Packs packed_columns>
using ProductOf = std::conditional_t<how == Multiply::TensorCores, Product<S, columns, packed_rows, packed_columns>,
                                     PlainProduct<ComputeType<S>>>;

}  // namespace nnart::cuda

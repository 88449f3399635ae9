// The register tile that every convolution comes down to, and the copies that feed it.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/conv/finish.h"
#include "cpu/conv/pairs.h"
#include "cpu/streaming.h"
#include "cpu/vec.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

// The accumulators of a tile, the vectors of one step and a broadcast fill the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 8, kTileRegisters = 32;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileRegisters = 16;
#else
constexpr int kTileRows = 4, kTileRegisters = 14;  // of 16: without FMA a product needs its own
#endif
constexpr int kMostVectors = 8;

// How many vectors a tile may have. Fewer rows take more, or too few sums would be on their way to hide their latency.
NNART_HD constexpr int tile_vectors(int64_t rows) {
  int fitting = int((kTileRegisters - 1) / (rows + 1));
  return fitting < kMostVectors ? fitting : kMostVectors;
}
constexpr int kTileVectors = tile_vectors(kTileRows);

template <class T>
constexpr int64_t kTileColumns = kTileVectors * Vec<T>::size;

// sum[r][v] += sum over k of row[r][a_offset[k]] * (vector v at b + b_offset[k]). The offsets say where the operands
// are, so that neither an image nor its taps are ever laid out as a matrix. E is the sums' own type, or a pair of
// terms.
template <class E>
struct TileOperands {
  const E* row[kTileRows];
  const int64_t* a_offset;
  const E* b;
  const int64_t* b_offset;
  int64_t n;
};

// The compiler keeps sums in registers only where it unrolls the loops over them before it assigns memory to them.
template <class T, int rows, int vectors>
NNART_HD void clear(Vec<T> (&sum)[rows][vectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[r][v] = Vec<T>(0);
}

template <class T, class E, int rows, int vectors>
NNART_HD void add_products(const TileOperands<E>& from, Vec<T> (&sum)[rows][vectors]) {
  using F = Factor<E>;
  const E* a[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) a[r] = from.row[r];
  for (int64_t k = 0; k < from.n; ++k) {
    const E* b_k = from.b + from.b_offset[k];
    int64_t a_k = from.a_offset[k];
    F right[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) right[v] = F::load(b_k + v * Vec<T>::size);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      F left = F::broadcast(a[r] + a_k);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) add_product(sum[r][v], left, right[v]);
    }
  }
}

// A tile between two blocks of its sum: rows of c, `stride` apart.
template <class T>
struct PartialTile {
  T* c;
  int64_t stride;
  bool accumulate;

  template <int rows, int vectors, class E>
  NNART_HD void run(const TileOperands<E>& from) const {
    using V = Vec<T>;
    V sum[rows][vectors];
    clear(sum);
    add_products(from, sum);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        T* to = c + r * stride + v * V::size;
        // Earlier blocks come in last, so that a long sum rounds like one of its blocks.
        store(to, accumulate ? load(to) + sum[r][v] : sum[r][v]);
      }
  }
};

// Tiles by their numbers of rows and vectors, for one way to end a sum.
template <class Ending, class Operands>
struct TileTable {
  using Function = void (*)(const Ending&, const Operands&);
  Function functions[kTileRows * kMostVectors];
};

template <class Ending, class Operands, int rows, int vectors>
void tile(const Ending& ending, const Operands& from) {
  ending.template run<rows, vectors>(from);
}

template <class Ending, class Operands, int i>
constexpr typename TileTable<Ending, Operands>::Function tile_entry() {
  constexpr int rows = i / kMostVectors + 1, vectors = i % kMostVectors + 1;
  if constexpr (vectors <= tile_vectors(rows))
    return &tile<Ending, Operands, rows, vectors>;
  else
    return nullptr;
}

template <class Ending, class Operands, int... i>
constexpr TileTable<Ending, Operands> tile_table(std::integer_sequence<int, i...>) {
  return {{tile_entry<Ending, Operands, i>()...}};
}

template <class Ending, class Operands>
constexpr TileTable<Ending, Operands> kTiles =
    tile_table<Ending, Operands>(std::make_integer_sequence<int, kTileRows * kMostVectors>{});

template <class Ending, class Operands>
NNART_HD void run_tile(int64_t rows, int64_t vectors, const Operands& from, const Ending& ending) {
  kTiles<Ending, Operands>.functions[(rows - 1) * kMostVectors + vectors - 1](ending, from);
}

// Cuts n into ceil(n / largest) pieces that differ by at most one: a tile of one row after one of eight would wait on
// the latency of its few sums.
struct Even {
  int64_t n, pieces;
  NNART_HD Even(int64_t n, int64_t largest) : n(n), pieces(ceil_div(n, largest)) {}
  NNART_HD int64_t begin(int64_t piece) const { return n * piece / pieces; }
};

// The lanes in halves, always in the same order.
template <class T>
NNART_HD T sum_of_lanes(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_reduce_add_ps(x.v);
  else
    return _mm512_reduce_add_pd(x.v);
#else
  T lanes[Vec<T>::size];
  store(lanes, x);
  for (int half = Vec<T>::size / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
#endif
}

// The last block of a tile's sum: what follows it is done in registers.
template <class S>
struct FinalTile {
  using T = ComputeType<S>;
  S* to[kTileRows];
  int64_t last;  // lanes of the last vector that exist
  const T* c;    // the earlier blocks, rows `stride` apart; null if this is the only one
  int64_t stride;
  const T *row_bias, *column_bias;  // at most one of them
  bool past_caches;                 // full vectors, aligned
  bool clamps;                      // to the interval
  Interval<T> interval;

  template <int rows, int vectors, class E>
  NNART_HD void run(const TileOperands<E>& from) const {
    using V = Vec<T>;
    V sum[rows][vectors];
    clear(sum);
    add_products(from, sum);
    if (c)
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = load(c + r * stride + v * V::size) + sum[r][v];
    if (row_bias) {
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = sum[r][v] + broadcast(row_bias[r]);
    } else if (column_bias) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        V added = load(column_bias + v * V::size);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) sum[r][v] = sum[r][v] + added;
      }
    }
    if (clamps)
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = interval.of(sum[r][v]);
    if (past_caches) {
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store_past_caches(to[r] + v * V::size, sum[r][v]);
      return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vectors - 1; ++v) store(to[r] + v * V::size, sum[r][v]);
    if (last == V::size)
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) store(to[r] + (vectors - 1) * V::size, sum[r][vectors - 1]);
    else
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) store_partial(to[r] + (vectors - 1) * V::size, sum[r][vectors - 1], last);
  }
};

// ---- copies that widen or narrow ------------------------------------------------------------------------------------

// Lane i is p[i * stride], for a power of two; reads what lies between, and behind the last one.
template <int stride, class S>
NNART_HD Vec<ComputeType<S>> load_every(const S* p) {
  using V = Vec<ComputeType<S>>;
  if constexpr (stride == 1)
    return load(p);
  else
    return every_other<ComputeType<S>, false>(load_every<stride / 2>(p),
                                              load_every<stride / 2>(p + V::size * stride / 2),
                                              std::make_integer_sequence<int, V::size>{});
}

// As widen_run, whole vectors of it: the last elements are left, at least one. Returns how many were written.
template <int stride, class S, class T>
NNART_HD int64_t widen_every(T* to, const S* from, int64_t n) {
  constexpr int64_t width = Vec<T>::size;
  int64_t i = 0;
  for (; i + width < n; i += width) store(to + i, load_every<stride>(from + i * stride));
  return i;
}

// to[i] = from[i * stride]
template <class S, class T>
NNART_HD void widen_run(T* to, const S* from, int64_t stride, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<S, T> && sizeof(S) == 2) {
    if (stride == 1) return void(std::memcpy(to, from, size_t(n) * sizeof(S)));
    for (; i < n; ++i) to[i] = from[i * stride];
  } else {
    constexpr int64_t width = Vec<T>::size;
    if (stride != 1) {
      if (stride == 2) i = widen_every<2>(to, from, n);
      if (stride == 4) i = widen_every<4>(to, from, n);
      if (stride == 8) i = widen_every<8>(to, from, n);
      if (stride == 16) i = widen_every<16>(to, from, n);
      for (; i < n; ++i) to[i] = widen_one<T>(from + i * stride);
      return;
    }
    for (; i + width <= n; i += width) store(to + i, load(from + i));
    if (i < n) store_partial(to + i, load_partial(from + i, n - i), n - i);
  }
}

// to[i] = the terms at from + i * stride.
template <class S, class E>
NNART_HD void element_run(E* to, const S* from, [[maybe_unused]] int64_t next, int64_t stride, int64_t n) {
  if constexpr (kTermsOf<E> == 2)
    pair_run(to, from, next, stride, n);
  else
    widen_run(to, from, stride, n);
}

template <class T>
struct OneBias {
  Vec<T> value;
  NNART_HD Vec<T> at(int64_t) const { return value; }
};
template <class T>
struct EachBias {
  const T* values;
  NNART_HD Vec<T> at(int64_t i) const { return load(values + i); }
};

// to[i * stride] = from[i] + bias(i), where bias.at(i) is a vector.
template <class S, class T, class Bias>
NNART_HD void narrow_run(S* to, int64_t stride, const T* from, int64_t n, const Bias& bias) {
  constexpr int64_t width = Vec<T>::size;
  for (int64_t i = 0; i < n; i += width) {
    Vec<T> y = load(from + i) + bias.at(i);
    int64_t count = least(width, n - i);
    if (stride != 1) {
      S lanes[width];
      store(lanes, y);
      for (int64_t lane = 0; lane < count; ++lane) to[(i + lane) * stride] = lanes[lane];
    } else if (count == width) {
      store(to + i, y);
    } else {
      store_partial(to + i, y, count);
    }
  }
}

// Half of a step of transpose, as a shuffle whose pattern the compiler knows: blocks of `block` lanes of a and b in
// turn.
template <class T, int block, bool high, int... lane>
NNART_HD Vec<T> interleave(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  constexpr int n = Vec<T>::size;
  constexpr auto source = [](int i) {
    return high ? ((i & block) ? n + i : i + block) : ((i & block) ? n + i - block : i);
  };
  return Vec<T>(__builtin_shuffle(a.v, b.v, RawVec<Bits<T>>{source(lane)...}));
}

// rows[i][j] <-> rows[j][i] within a square of vectors: after each step blocks of twice the size are in place.
template <class T, int block = 1>
NNART_HD void transpose(Vec<T>* rows) {
  constexpr int n = Vec<T>::size;
  constexpr auto lanes = std::make_integer_sequence<int, n>{};
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (i & block) continue;
    Vec<T> a = rows[i], b = rows[i + block];
    rows[i] = interleave<T, block, false>(a, b, lanes);
    rows[i + block] = interleave<T, block, true>(a, b, lanes);
  }
  if constexpr (2 * block < n) transpose<T, 2 * block>(rows);
}

// One square of vectors: to[j * to_stride + i] = from[i * from_stride + j].
template <class From, class To>
NNART_HD void copy_transposed_square(To* to, int64_t to_stride, const From* from, int64_t from_stride) {
  using V = Vec<ComputeType<From>>;
  V square[V::size];
#pragma GCC unroll 16
  for (int r = 0; r < V::size; ++r) square[r] = load(from + r * from_stride);
  transpose(square);
#pragma GCC unroll 16
  for (int r = 0; r < V::size; ++r) store(to + r * to_stride, square[r]);
}

// to[j * to_stride + i] = lane j of row i for i < rows, j < columns, where load_row(i, j, n) has the n lanes from j on.
template <class V, class To, class LoadRow>
NNART_HD void transpose_rows(To* to, int64_t to_stride, int64_t rows, int64_t columns, const LoadRow& load_row) {
  constexpr int64_t width = V::size;
  for (int64_t j = 0; j < columns; j += width) {
    int64_t wide = least(width, columns - j);
    for (int64_t i = 0; i < rows; i += width) {
      int64_t high = least(width, rows - i);
      V square[width];
      for (int64_t r = 0; r < width; ++r) square[r] = r >= high ? V(0) : load_row(i + r, j, wide);
      transpose(square);
      for (int64_t r = 0; r < wide; ++r) {
        To* row = to + (j + r) * to_stride + i;
        if (high == width)
          store(row, square[r]);
        else
          store_partial(row, square[r], high);
      }
    }
  }
}

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns, widened or narrowed. The last square of
// a side that does not divide evenly overlaps its neighbour.
template <class From, class To>
void copy_transposed(To* to, int64_t to_stride, const From* from, int64_t from_stride, int64_t rows, int64_t columns) {
  using V = Vec<ComputeType<From>>;
  constexpr int64_t width = V::size;
  if (rows >= width && columns >= width) {
    constexpr int64_t block = 8 * width;  // some cache lines of each row in turn: rows may be pages apart
    for (int64_t begin = 0; begin < columns; begin += block)
      for (int64_t i = 0; i < rows; i += width)
        for (int64_t j = begin; j < least(begin + block, columns); j += width) {
          int64_t at_j = least(j, columns - width), at_i = least(i, rows - width);
          copy_transposed_square(to + at_j * to_stride + at_i, to_stride, from + at_i * from_stride + at_j,
                                 from_stride);
        }
    return;
  }
  transpose_rows<V>(to, to_stride, rows, columns, [&](int64_t i, int64_t j, int64_t n) {
    const From* row = from + i * from_stride + j;
    return n == width ? load(row) : load_partial(row, n);
  });
}

// to[i * to_stride + j] = the terms at from + i * step + j * from_column for i < n, j < columns.
template <class S, class E>
void element_columns(E* to, int64_t to_stride, const S* from, int64_t next, int64_t step, int64_t n,
                     int64_t from_column, int64_t columns) {
  if (from_column != 1 && n > 1) {
    if constexpr (kTermsOf<E> == 2) {
      auto* lanes = reinterpret_cast<float*>(to);  // moved, and nothing else
      auto transpose = [&](const auto& load_row) {
        transpose_rows<Vec<float>>(lanes, to_stride, columns, n, [&](int64_t j, int64_t i, int64_t count) {
          return Vec<float>(reinterpret_cast<RawVec<float>>(load_row(from + j * from_column + i * step, count)));
        });
      };
      if (step == 1) return transpose([&](const S* p, int64_t count) { return load_pairs(p, next, count); });
      if (step == 2 && next == 1)
        return transpose([](const S* p, int64_t count) { return Factor<S>::load_partial(p, 2 * count).v; });
    } else if (step == 1) {
      return copy_transposed(to, to_stride, from, from_column, columns, n);
    }
  }
  for (int64_t i = 0; i < n; ++i) element_run(to + i * to_stride, from + i * step, next, from_column, columns);
}

// to[j * to_stride + i] = element i of pixel j, for n pixels of `channels` channels that lie in planes.
template <class S, class E>
void copy_planes(E* to, int64_t to_stride, const S* from, int64_t from_channel, int64_t channels, int64_t n) {
  if constexpr (kTermsOf<E> == 2) {
    auto* lanes = reinterpret_cast<float*>(to);  // moved, and nothing else
    transpose_rows<Vec<float>>(lanes, to_stride, ceil_div(channels, 2), n, [&](int64_t i, int64_t j, int64_t count) {
      int64_t next = 2 * i + 1 < channels ? from_channel : kNoTerm;
      return Vec<float>(reinterpret_cast<RawVec<float>>(load_pairs(from + 2 * i * from_channel + j, next, count)));
    });
  } else {
    copy_transposed(to, to_stride, from, from_channel, channels, n);
  }
}

// to[i * to_stride + j] = element i of pixel j, for n pixels whose channels, full elements of them, lie side by side.
template <class S, class E>
void copy_to_planes(E* to, int64_t to_stride, const S* from, int64_t from_pixel, int64_t channels, int64_t n) {
  if constexpr (kTermsOf<E> == 2)
    copy_transposed(reinterpret_cast<float*>(to), to_stride, reinterpret_cast<const float*>(from), from_pixel / 2, n,
                    channels / 2);
  else
    copy_transposed(to, to_stride, from, from_pixel, n, channels);
}

}  // namespace
}  // namespace nnart::cpu

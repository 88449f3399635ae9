// Adafactor's direction of one tensor, a batch of matrices: the gradient is read once for the means of its squares
// along rows and columns, and once more to be divided by their root. A matrix is cut into blocks of columns; all sums
// are taken within a block or row and then in order, so that no result depends on the number of threads.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/optimizer_args.h"
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/optimizers/tile.h"
#include "cpu/scratch.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

constexpr int64_t kColumnBlock = 256;

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kElementGrain = 16384;

int64_t grain_of(int64_t task) { return most(1, kElementGrain / most(1, task)); }

// The mean square of n elements.
template <class S>
double mean_square(const S* x, int64_t n) {
  constexpr int64_t piece = 4096;
  Scratch<double> scratch(Use::partial, ceil_div(n, piece));
  double* partial = scratch.data();
  parallel_for(ceil_div(n, piece), grain_of(piece), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) partial[p] = sum_of_squares(x + p * piece, least(n - p * piece, piece));
  });
  double sum = 0;
  for (int64_t p = 0; p < ceil_div(n, piece); ++p) sum += partial[p];
  return sum / double(n);
}

// The state moves towards the means of this step; values become the state in C.
template <class S, class C>
void average(S* state, C* values, int64_t n, double rest) {
  for_vectors<C>(n, [&](int64_t i, auto count) {
    store_some(state + i, math::lerp(load_some(state + i, count), load_some(values + i, count), C(rest)), count);
    store_some(values + i, load_some(state + i, count), count);
  });
}

// The variances of one matrix, as this step leaves them: rows' over their mean, and columns'.
template <class S, class C>
void variances(const AdafactorArgs& args, int64_t matrix, C* rows, C* columns) {
  int64_t blocks = ceil_div(args.columns, kColumnBlock);
  auto* grad = static_cast<const S*>(args.grad) + matrix * args.rows * args.columns;
  Scratch<C> scratch(Use::tile, args.rows * blocks);
  C* row_parts = scratch.data();
  Vec<C> factor(args.grad_factor);
  parallel_for(blocks, grain_of(args.rows * kColumnBlock), [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      int64_t begin = block * kColumnBlock, count = least(kColumnBlock, args.columns - begin);
      alignas(64) C sums[kColumnBlock] = {};
      for (int64_t r = 0; r < args.rows; ++r) {
        Vec<C> row_sum(0.0);
        for_vectors<C>(count, [&](int64_t i, auto some) {
          Vec<C> g = load_some(grad + r * args.columns + begin + i, some) * factor;
          row_sum = row_sum + g * g;
          store(sums + i, load(sums + i) + g * g);
        });
        row_parts[r * blocks + block] = sum_of_lanes(row_sum);
      }
      for (int64_t i = 0; i < count; ++i) columns[begin + i] = sums[i] / C(args.rows);
    }
  });
  average(static_cast<S*>(args.column_variance) + matrix * args.columns, columns, args.columns, args.rest);
  if (!args.row_variance) return;
  for (int64_t r = 0; r < args.rows; ++r) {
    C sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += row_parts[r * blocks + block];
    rows[r] = sum / C(args.columns);
  }
  average(static_cast<S*>(args.row_variance) + matrix * args.rows, rows, args.rows, args.rest);
  double sum = 0;
  for (int64_t r = 0; r < args.rows; ++r) sum += rows[r];
  double mean = sum / double(args.rows);
  C inverse = C(1 / (mean > args.eps1 ? mean : args.eps1));
  for (int64_t r = 0; r < args.rows; ++r) rows[r] *= inverse;
}

// What is too small for blocks of columns and threads: a filter's window, say.
constexpr int64_t kSmall = 16;

// One matrix of at most kSmall rows and columns: u, and the sum of its squares.
template <class S>
double small_matrix(const AdafactorArgs& args, int64_t matrix) {
  using C = ComputeType<S>;
  int64_t size = args.rows * args.columns;
  alignas(64) C u[kSmall * kSmall], rows[kSmall] = {}, columns[kSmall] = {};
  auto* grad = static_cast<const S*>(args.grad) + matrix * size;
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t c = 0; c < args.columns; ++c) {
      C g = widen_one<C>(grad + r * args.columns + c) * C(args.grad_factor);
      u[r * args.columns + c] = g;
      rows[r] += g * g;
      columns[c] += g * g;
    }
  for (int64_t r = 0; r < args.rows; ++r) rows[r] /= C(args.columns);
  for (int64_t c = 0; c < args.columns; ++c) columns[c] /= C(args.rows);
  average(static_cast<S*>(args.column_variance) + matrix * args.columns, columns, args.columns, args.rest);
  average(static_cast<S*>(args.row_variance) + matrix * args.rows, rows, args.rows, args.rest);
  C mean = 0, sum = 0;
  for (int64_t r = 0; r < args.rows; ++r) mean += rows[r];
  mean /= C(args.rows);
  C inverse = 1 / (mean > C(args.eps1) ? mean : C(args.eps1)), least_variance = C(args.eps1 * args.eps1);
  auto* out = static_cast<C*>(args.direction) + matrix * size;
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t c = 0; c < args.columns; ++c) {
      C variance = rows[r] * inverse * columns[c];
      C v = u[r * args.columns + c] / std::sqrt(variance < least_variance ? least_variance : variance);
      sum += v * v;
      out[r * args.columns + c] = v;
    }
  return sum;
}

template <class S>
void direction(const AdafactorArgs& args) {
  if (args.row_variance && args.rows * args.columns == 1) {
    // Row and column are the same element: all matrices together are a vector.
    AdafactorArgs vector = args;
    vector.columns = args.matrices;
    vector.matrices = 1;
    vector.row_variance = nullptr;
    direction<S>(vector);
    std::memcpy(args.row_variance, args.column_variance, size_t(args.matrices) * sizeof(S));
    return;
  }
  using C = ComputeType<S>;
  int64_t size = args.rows * args.columns, n = args.matrices * size;
  auto* grad = static_cast<const S*>(args.grad);
  auto* out = static_cast<C*>(args.direction);
  Vec<C> factor(args.grad_factor), least_variance(args.eps1 * args.eps1);
  Scratch<double> scratch(Use::decisions, args.matrices * args.rows);
  double* squares = scratch.data();

  auto of_rows = [&](int64_t matrix, const C* rows, const C* columns, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      int64_t start = matrix * size + r * args.columns;
      Vec<C> row(args.row_variance ? double(rows[r]) : 1.0), sum(0.0);
      for_vectors<C>(args.columns, [&](int64_t i, auto count) {
        Vec<C> variance = at_least(row * load_some(columns + i, count), least_variance);
        Vec<C> u = load_some(grad + start + i, count) * factor / sqrt(variance);
        sum = sum + u * u;
        store_some(out + start + i, u, count);
      });
      squares[matrix * args.rows + r] = sum_of_lanes(sum);
    }
  };
  auto of_matrix = [&](int64_t matrix) {
    Scratch<C> row_scratch(Use::weight, args.rows), column_scratch(Use::bias, args.columns);
    C *rows = row_scratch.data(), *columns = column_scratch.data();
    variances<S>(args, matrix, rows, columns);
    parallel_for(args.rows, grain_of(args.columns),
                 [&](int64_t first, int64_t last) { of_rows(matrix, rows, columns, first, last); });
  };
  bool small = args.row_variance && args.rows <= kSmall && args.columns <= kSmall;
  int64_t sums = small ? args.matrices : args.matrices * args.rows;
  if (small)
    parallel_for(args.matrices, grain_of(size), [&](int64_t first, int64_t last) {
      for (int64_t matrix = first; matrix < last; ++matrix) squares[matrix] = small_matrix<S>(args, matrix);
    });
  else if (args.matrices == 1)
    of_matrix(0);
  else
    parallel_for(args.matrices, grain_of(size), [&](int64_t first, int64_t last) {
      for (int64_t matrix = first; matrix < last; ++matrix) of_matrix(matrix);
    });

  double sum = 0;
  for (int64_t i = 0; i < sums; ++i) sum += squares[i];
  double update = std::sqrt(sum / double(n)) / args.clip;
  double param = std::sqrt(mean_square(static_cast<const S*>(args.param), n));
  double scale = (args.eps2 > param ? args.eps2 : param) * args.rho / (update > 1 ? update : 1);
  Vec<C> scales(scale);
  parallel_for(n, kElementGrain, [&](int64_t first, int64_t last) {
    for_vectors<C>(last - first, [&](int64_t i, auto count) {
      store_some(out + first + i, load_some(out + first + i, count) * scales, count);
    });
  });
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const AdafactorArgs& args) {
  if (args.matrices * args.rows * args.columns == 0) return;
  with_dtype(args.dtype, [&](auto type) { direction<typename decltype(type)::type>(args); });
}

}  // namespace nnart::cpu

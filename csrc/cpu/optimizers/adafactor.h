// Adafactor's second moments of a batch of matrices: a variance for each row and one for each column, averaged from one
// read of the gradient. A tensor is cut into chunks; sums are taken within a chunk and then in the chunks' order, so
// that no result depends on the number of threads.
#pragma once

#include <type_traits>

#include "core/optimizer_args.h"
#include "core/parallel.h"
#include "cpu/optimizers/tile.h"
#include "cpu/scratch.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

// Elements in a chunk. It has several lines, too, for each part of a matrix has sums of its columns.
constexpr int64_t kChunk = 8192, kLeastLines = 16;

// How one tensor is averaged.
struct Factored {
  const OptimizerRow* row;
  double grad_factor, max_value, rest, eps1;
  // Lines are taken in groups, those of one matrix or of several small ones; a chunk has so many lines of a group.
  int64_t group, lines;
  int64_t chunks_before;  // of other tensors
  double* partial;        // room for the sums of the columns for each chunk, unless a group is one chunk

  int64_t all_lines() const { return row->n / row->columns; }
  int64_t matrices() const { return all_lines() / row->rows; }
  int64_t parts() const { return ceil_div(group, lines); }
  int64_t chunks() const { return ceil_div(all_lines(), group) * parts(); }
};

// Those of S's tensors.
template <class S>
class FactorAverager {
 public:
  using C = ComputeType<S>;
  explicit FactorAverager(const Factored& tensor)
      : tensor_(tensor),
        row_(*tensor.row),
        row_variance_(static_cast<S*>(tensor.row->row_variance)),
        column_variance_(static_cast<S*>(tensor.row->state[0])),
        inverse_means_(static_cast<C*>(tensor.row->inverse_mean)),
        parts_(tensor.parts()) {}

  void average_chunk(int64_t chunk) const {
    int64_t begin = chunk / parts_ * tensor_.group, end = least(begin + tensor_.group, tensor_.all_lines());
    int64_t first = begin + chunk % parts_ * tensor_.lines, last = least(first + tensor_.lines, end);
    if (row_.rows * row_.columns == 1) return average_elements(first, last);
    Scratch<C> scratch(Use::bias, row_.columns);
    C* columns = parts_ > 1 ? partial(chunk) : scratch.data();
    clear(columns);
    C line_sum = 0;
    for_squares(first, last, [&](int64_t line, int64_t column, const C* squares, int64_t n) {
      line_sum += add(squares, n, columns + column);
      if (column + n < row_.columns) return;
      average_one(row_variance_ + line, line_sum / C(row_.columns));
      line_sum = 0;
      if (parts_ > 1 || (line + 1) % row_.rows != 0) return;
      finish(line / row_.rows, columns);
      clear(columns);
    });
  }

  // Joins the sums of a matrix's chunks, given the first of them.
  void join_parts(int64_t first_chunk) const {
    C* columns = partial(first_chunk);
    for (int64_t part = 1; part < parts_; ++part) {
      const C* more = partial(first_chunk + part);
      for_vectors<C>(row_.columns, [&](int64_t i, auto count) {
        store_some(columns + i, load_some(columns + i, count) + load_some(more + i, count), count);
      });
    }
    finish(first_chunk / parts_, columns);
  }

 private:
  C* partial(int64_t chunk) const { return reinterpret_cast<C*>(tensor_.partial + chunk * row_.columns); }

  void clear(C* columns) const { memset(columns, 0, size_t(row_.columns) * sizeof(C)); }

  // f(line, column, squares, n) for all elements of the lines, n of one at a time.
  template <class F>
  void for_squares(int64_t first, int64_t last, const F& f) const {
    Buffer<C> buffer;
    int64_t columns = row_.columns, together = kOptimizerTile / columns;
    if (together > 0) {
      for (int64_t line = first; line < last; line += together) {
        int64_t count = least(together, last - line);
        square(line * columns, count * columns, buffer);
        for (int64_t k = 0; k < count; ++k) f(line + k, int64_t{0}, buffer.data + k * columns, columns);
      }
    } else {
      for (int64_t line = first; line < last; ++line)
        for (int64_t column = 0; column < columns; column += kOptimizerTile) {
          int64_t n = least(kOptimizerTile, columns - column);
          square(line * columns + column, n, buffer);
          f(line, column, buffer.data, n);
        }
    }
  }

  // The squares of n elements of the gradient, as it is used.
  void square(int64_t begin, int64_t n, Buffer<C>& buffer) const {
    const C* grad = in_compute_type(advance(row_.grad, row_.grad_dtype, begin), row_.grad_dtype, n, buffer);
    Vec<C> factor(tensor_.grad_factor), bound(tensor_.max_value);
    for_vectors<C>(n, [&](int64_t i, auto count) {
      Vec<C> g = at_most(at_least(load_some(grad + i, count) * factor, -bound), bound);
      store(buffer.data + i, g * g);
    });
  }

  // Adds n numbers to the sums of their columns and gives their own.
  static C add(const C* x, int64_t n, C* columns) {
    if (n < Vec<C>::size) {
      C sum = 0;
      for (int64_t i = 0; i < n; ++i) {
        columns[i] += x[i];
        sum += x[i];
      }
      return sum;
    }
    Vec<C> sum(0.0);
    for_vectors<C>(n, [&](int64_t i, auto count) {
      Vec<C> more = load_some(x + i, count);
      sum = sum + more;
      store_some(columns + i, load_some(columns + i, count) + more, count);
    });
    return sum_of_lanes(sum);
  }

  void average_one(S* variance, C mean) const {
    store_one(variance, math::lerp(widen_one<C>(variance), mean, C(tensor_.rest)));
  }

  // The columns' variance of a matrix from their sums, and its rows' mean.
  void finish(int64_t matrix, const C* columns) const {
    S* variance = column_variance_ + matrix * row_.columns;
    if (row_.columns < Vec<C>::size) {
      for (int64_t i = 0; i < row_.columns; ++i) average_one(variance + i, columns[i] / C(row_.rows));
    } else {
      Vec<C> rows{double(row_.rows)};
      for_vectors<C>(row_.columns, [&](int64_t i, auto count) {
        Vec<C> mean = load_some(columns + i, count) / rows;
        store_some(variance + i, math::lerp(load_some(variance + i, count), mean, C(tensor_.rest)), count);
      });
    }
    double sum = 0;
    for (int64_t r = 0; r < row_.rows; ++r) sum += widen_one<C>(row_variance_ + matrix * row_.rows + r);
    double mean = sum / double(row_.rows);
    inverse_means_[matrix] = C(1 / (mean > tensor_.eps1 ? mean : tensor_.eps1));
  }

  // Matrices of one element, which is row and column.
  void average_elements(int64_t first, int64_t last) const {
    Buffer<C> buffer;
    for (int64_t begin = first; begin < last; begin += kOptimizerTile) {
      int64_t n = least(kOptimizerTile, last - begin);
      square(begin, n, buffer);
      for_vectors<C>(n, [&](int64_t i, auto count) {
        Vec<C> old = load_some(column_variance_ + begin + i, count);
        Vec<C> moved = math::lerp(old, load_some(buffer.data + i, count), C(tensor_.rest));
        store_some(column_variance_ + begin + i, moved, count);
        store_some(row_variance_ + begin + i, moved, count);
      });
    }
  }

  const Factored& tensor_;
  const OptimizerRow& row_;
  S *row_variance_, *column_variance_;
  C* inverse_means_;
  int64_t parts_;
};

template <class F>
void with_averager(const Factored& tensor, const F& f) {
  with_dtype(tensor.row->param_dtype, [&](auto type) { f(FactorAverager<typename decltype(type)::type>(tensor)); });
}

bool is_factored(const OptimizerRow& row) { return row.row_variance && row.n > 0; }

// The matrices of all factored tensors: room for an inverse mean each is what average_factors() needs, and what lasts
// as long as its result is used.
int64_t factored_matrices(const OptimizerArgs& args) {
  int64_t count = 0;
  for (int64_t r = 0; r < args.row_count; ++r)
    if (const OptimizerRow& row = args.rows[r]; is_factored(row)) count += row.n / (row.rows * row.columns);
  return count;
}

// How a row, whose rule is built, is averaged, but for where its sums are.
Factored factored(const OptimizerRow& row, const OptimizerGroup& group, double grad_factor) {
  Factored tensor{};
  tensor.row = &row;
  tensor.grad_factor = grad_factor;
  tensor.max_value = group.max_value;
  auto take_rest = [&](auto type) {
    const auto& rule = *static_cast<const math::Adafactor<typename decltype(type)::type>*>(row.rule);
    tensor.rest = rule.rest;
    tensor.eps1 = rule.eps1;
  };
  row.param_dtype == DType::Float64 ? take_rest(Type<double>{}) : take_rest(Type<float>{});
  int64_t matrix = row.rows * row.columns;
  tensor.group = tensor.lines = row.rows * most(kChunk / matrix, 1);
  if (matrix > kChunk) tensor.lines = least(most(kChunk / row.columns, kLeastLines), row.rows);
  return tensor;
}

// Averages the variances of all factored tensors.
void average_factors(const OptimizerArgs& args, double grad_factor, double* inverse_means) {
  Scratch<Factored> tensor_scratch(Use::source, args.row_count);
  Factored* tensors = tensor_scratch.data();
  int64_t count = 0, chunks = 0, sums = 0;
  for (int64_t r = 0; r < args.row_count; ++r) {
    OptimizerRow& row = args.rows[r];
    if (!is_factored(row)) continue;
    Factored& tensor = tensors[count++] = factored(row, args.groups[row.group], grad_factor);
    row.inverse_mean = inverse_means;
    inverse_means += tensor.matrices();
    tensor.chunks_before = chunks;
    chunks += tensor.chunks();
    if (tensor.parts() > 1) sums += tensor.chunks() * row.columns;
  }
  Scratch<double> sum_scratch(Use::gradient, sums);
  double* partial = sum_scratch.data();
  for (int64_t i = 0; i < count; ++i) {
    tensors[i].partial = partial;
    if (tensors[i].parts() > 1) partial += tensors[i].chunks() * tensors[i].row->columns;
  }
  auto tensor_of = [&](int64_t chunk) -> const Factored& {
    return tensors[entry_of(chunk, count, [&](int64_t i) { return tensors[i].chunks_before; })];
  };
  parallel_for(chunks, args.rows_overlap ? chunks : 2, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const Factored& tensor = tensor_of(chunk);
      with_averager(tensor, [&](const auto& averager) { averager.average_chunk(chunk - tensor.chunks_before); });
    }
  });
  parallel_for(chunks, 16, [&](int64_t first, int64_t last) {  // a matrix is joined where its first chunk is
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const Factored& tensor = tensor_of(chunk);
      int64_t own = chunk - tensor.chunks_before, parts = tensor.parts();
      if (parts > 1 && own % parts == 0) with_averager(tensor, [&](const auto& averager) { averager.join_parts(own); });
    }
  });
}

// The variance of n elements, which is their row's times their column's over the rows' mean.
template <class C>
void join_factors(const OptimizerRow& row, int64_t begin, int64_t n, C* variance) {
  with_dtype(row.param_dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if constexpr (std::is_same_v<ComputeType<S>, C>) {
      auto* rows = static_cast<const S*>(row.row_variance);
      auto* columns = static_cast<const S*>(row.state[0]);
      auto* inverse_mean = static_cast<const C*>(row.inverse_mean);
      if (row.rows * row.columns == 1) {
        Vec<C> eps1(static_cast<const math::Adafactor<C>*>(row.rule)->eps1);
        for_vectors<C>(n, [&](int64_t i, auto count) {
          Vec<C> v = load_some(columns + begin + i, count);
          store_some(variance + i, v * (v / at_least(v, eps1)), count);
        });
        return;
      }
      int64_t line = begin / row.columns, column = begin % row.columns, matrix = line / row.rows, r = line % row.rows;
      for (int64_t i = 0; i < n; ++line) {
        int64_t take = least(row.columns - column, n - i);
        C factor = widen_one<C>(rows + line) * inverse_mean[matrix];
        const S* from = columns + matrix * row.columns + column;
        if (take < Vec<C>::size)
          for (int64_t k = 0; k < take; ++k) variance[i + k] = factor * widen_one<C>(from + k);
        else
          for_vectors<C>(take, [&](int64_t k, auto count) {
            store_some(variance + i + k, Vec<C>(double(factor)) * load_some(from + k, count), count);
          });
        i += take;
        column = 0;
        if (++r == row.rows) {
          r = 0;
          ++matrix;
        }
      }
    }
  });
}

}  // namespace
}  // namespace nnart::cpu

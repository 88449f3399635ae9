// The loop of the optimizers: one parallel region over the elements of many tensors, laid end to end. The work is
// divided by elements, not by tensor, so that neither a large nor a thousand small tensors leave a thread idle. The
// tail of a tensor runs through the same vector code as its body, so that no result depends on the division.
#pragma once

#include <utility>

#include "core/args.h"
#include "core/parallel.h"
#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

// Elements in a unit of work; below kMultiTensorGrain units a thread does not pay for its wake-up.
constexpr int64_t kMultiTensorBlock = 4096;
constexpr int64_t kMultiTensorGrain = 4;

// The row of the table that holds element i of all.
NNART_HD int64_t row_of(const TensorTable& table, int64_t i) {
  int64_t low = 0, high = table.row_count;
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    if (table.rows[middle].first <= i)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Operand 1 is the gradient, which no rule writes.
template <class S, class Rule, size_t... k>
NNART_HD void update_range(const TensorRow& row, int64_t begin, int64_t end, const Rule& rule,
                           std::index_sequence<k...>) {
  using V = Vec<ComputeType<S>>;
  S* data[] = {static_cast<S*>(row.data[k])...};
  int64_t i = begin;
  for (; i + V::size <= end; i += V::size) {
    V v[] = {load(data[k] + i)...};
    rule(v[k]...);
    ((k == 1 ? void() : store(data[k] + i, v[k])), ...);
  }
  if (int64_t rest = end - i; rest > 0) {
    V v[] = {load_partial(data[k] + i, rest)...};
    rule(v[k]...);
    ((k == 1 ? void() : store_partial(data[k] + i, v[k], rest)), ...);
  }
}

// rule_of(row) gives the update rule of a row's elements.
template <class S, int operands, class RuleOf>
NNART_HD void update_all(const TensorTable& table, const RuleOf& rule_of) {
  int64_t blocks = (table.n + kMultiTensorBlock - 1) / kMultiTensorBlock;
  parallel_for(blocks, kMultiTensorGrain, [&](int64_t first, int64_t last) {
    int64_t i = first * kMultiTensorBlock;
    int64_t end = last * kMultiTensorBlock < table.n ? last * kMultiTensorBlock : table.n;
    for (int64_t r = row_of(table, i); i < end; ++r) {
      const TensorRow& row = table.rows[r];
      int64_t stop = row.first + row.n < end ? row.first + row.n : end;
      if (i < stop)
        update_range<S>(row, i - row.first, stop - row.first, rule_of(r), std::make_index_sequence<operands>());
      i = stop;
    }
  });
}

}  // namespace
}  // namespace nnart::cpu

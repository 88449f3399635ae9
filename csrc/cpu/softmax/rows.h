// Vectors of a row's classes, or of one class in neighbouring rows, and the two statistics that every softmax needs.
#pragma once

#include "cpu/map.h"
#include "math/softmax.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kSoftmaxGrain = 16384;

constexpr double kInfinity = __builtin_inf();

// The largest element of a row that lies in one piece. A NaN may be lost: it comes back in the sum.
template <class S>
NNART_HD Working<S> largest_of(const S* x, int64_t n) {
  using V = Working<S>;
  V m0(-kInfinity), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * V::size <= n; i += 4 * V::size) {
    m0 = at_least(V(load(x + i).v), m0);
    m1 = at_least(V(load(x + i + V::size).v), m1);
    m2 = at_least(V(load(x + i + 2 * V::size).v), m2);
    m3 = at_least(V(load(x + i + 3 * V::size).v), m3);
  }
  for (; i < n; i += V::size) {
    int64_t count = least(V::size, n - i);
    m0 = at_least(first_lanes(V(load_partial(x + i, count).v), count, V(-kInfinity)), m0);
  }
  return V(double(largest_lane(at_least(at_least(m0, m1), at_least(m2, m3)))));
}

// The sum of term(i, read) over a row, read(p) being a vector of it; four sums, so that each stays exact and none waits
// for another.
template <class S, class Term>
NNART_HD ComputeType<S> sum_of(int64_t n, const Term& term) {
  using V = Working<S>;
  V s0(0), s1(0), s2(0), s3(0);
  auto whole = [](const auto* p) { return V(load(p).v); };
  int64_t i = 0;
  for (; i + 4 * V::size <= n; i += 4 * V::size) {
    s0 = s0 + term(i, whole);
    s1 = s1 + term(i + V::size, whole);
    s2 = s2 + term(i + 2 * V::size, whole);
    s3 = s3 + term(i + 3 * V::size, whole);
  }
  for (; i < n; i += V::size) {
    int64_t count = least(V::size, n - i);
    auto part = [count](const auto* p) { return V(load_partial(p, count).v); };
    s0 = s0 + first_lanes(term(i, part), count, V(0));
  }
  return sum_of_lanes((s0 + s1) + (s2 + s3));
}

template <class S>
NNART_HD ComputeType<S> sum_of_exponentials(const S* x, int64_t n, Working<S> largest) {
  return sum_of<S>(n, [&](int64_t i, auto read) { return exp(read(x + i) - largest); });
}

// Rows whose classes are `inner` apart, as many at a time as `vectors` vectors have lanes, so that no sum crosses lanes.
// A block that fills less than one vector reads and writes its `count` lanes alone.
template <class S, int vectors_, bool partial>
struct Columns {
  using V = Working<S>;
  static constexpr int vectors = vectors_;
  int64_t inner, classes, count;
  bool past_caches;

  NNART_HD V read(const S* p, int u) const {
    if constexpr (partial) return V(load_partial(p, count).v);
    return V(load(p + u * V::size).v);
  }
  NNART_HD void write(S* p, int u, V v) const {
    Vec<ComputeType<S>> plain(v.v);
    if constexpr (partial) return store_partial(p, plain, count);
    if (past_caches) return store_past_caches(p + u * V::size, plain);
    store(p + u * V::size, plain);
  }

  struct Block {
    V v[vectors];
  };
  NNART_HD static Block all(double value) {
    Block block;
    for (V& v : block.v) v = V(value);
    return block;
  }

  // x points at the first row's first class.
  NNART_HD Block largest(const S* x) const {
    Block m = all(-kInfinity);
    for (int64_t c = 0; c < classes; ++c)
      for (int u = 0; u < vectors; ++u) m.v[u] = at_least(read(x + c * inner, u), m.v[u]);
    return m;
  }
  // The sum of term(c, u) over the classes.
  template <class Term>
  NNART_HD Block sum(const Term& term) const {
    Block s = all(0);
    for (int64_t c = 0; c < classes; ++c)
      for (int u = 0; u < vectors; ++u) s.v[u] = s.v[u] + term(c, u);
    return s;
  }
  NNART_HD Block sum_of_exponentials(const S* x, const Block& largest) const {
    return sum([&](int64_t c, int u) { return exp(read(x + c * inner, u) - largest.v[u]); });
  }
};

// Calls body(columns, i) for blocks of rows that cover [begin, end) of `inner`.
template <class S, class Body>
NNART_HD void each_block(int64_t begin, int64_t end, int64_t inner, int64_t classes, bool past_caches,
                         const Body& body) {
  constexpr int64_t width = Working<S>::size;
  int64_t i = begin;
  for (; i + 4 * width <= end; i += 4 * width) body(Columns<S, 4, false>{inner, classes, width, past_caches}, i);
  for (; i < end; i += width)
    body(Columns<S, 1, true>{inner, classes, least(width, end - i), false}, i);
}

// The natural logarithm of each lane, rounded once more than the arithmetic needs: there is one a row.
template <class T, Precision P>
NNART_HD Vec<T, P> log_of_lanes(Vec<T, P> x) {
  for (int lane = 0; lane < Vec<T, P>::size; ++lane) x.v[lane] = T(::log(double(x.v[lane])));
  return x;
}

}  // namespace
}  // namespace nnart::cpu

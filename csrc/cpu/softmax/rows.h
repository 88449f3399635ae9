// Vectors of a row's classes, or of one class in neighbouring rows, and the two statistics that every softmax needs.
#pragma once

#include "cpu/map.h"
#include "cpu/scratch.h"
#include "math/softmax.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kSoftmaxGrain = 16384;

constexpr double kInfinity = __builtin_inf();

// The largest element of a row that lies in one piece. A NaN may be lost: it comes back in the sum.
template <class V, class S>
NNART_HD V largest_of(const S* x, int64_t n) {
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
template <class V, class Term>
NNART_HD auto sum_of(int64_t n, const Term& term) {
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

// The row after this one is fetched meanwhile: to find its largest element is nothing but reading.
template <class V, class S>
NNART_HD auto sum_of_exponentials(const S* x, int64_t n, V largest) {
  return sum_of<V>(n, [&](int64_t i, auto read) {
    __builtin_prefetch(x + n + i);
    return exp_not_above_one(read(x + i) - largest);
  });
}

// Where some neighbouring rows lie: row k has class c at data[k row_step + c class_step], one of the steps being 1.
template <class P>
struct Place {
  P* data;
  int64_t class_step, row_step, count;
  bool past_caches = false;  // for what is written, whose lines are then whole
};

// Neighbouring rows side by side, lane by lane, so that no sum crosses lanes: of rows too short for a vector each, and
// of rows whose classes are apart. A class is one line of the tile, in the compute type. Lanes beyond the last row are
// 0.
//
// It is copied once and then read from the first cache: planes of 2^n pixels have all classes in the same few sets of
// every cache, which 21 of them already overflow.
template <class S, class V_, int vectors_>
struct Tile {
  using V = V_;
  using C = ComputeType<S>;
  static constexpr int vectors = vectors_;
  static constexpr int64_t lanes = vectors * V::size;
  C* data;
  int64_t classes;

  NNART_HD V get(int64_t c, int u) const { return V(load(data + c * lanes + u * V::size).v); }
  NNART_HD void put(int64_t c, int u, V v) const { store(data + c * lanes + u * V::size, Vec<C>(v.v)); }

  NNART_HD void read(const Place<const S>& from) const {
    if (from.row_step != 1) return read_rows(from);
    for (int64_t c = 0; c < classes; ++c)
      for (int u = 0; u < vectors; ++u) {
        const S* p = from.data + c * from.class_step + u * V::size;
        int64_t count = from.count - u * V::size;
        put(c, u, V((count >= V::size ? load(p) : load_partial(p, most(count, 0))).v));
      }
  }
  NNART_HD void write(const Place<S>& to) const {
    if (to.row_step != 1) return write_rows(to);
    for (int64_t c = 0; c < classes; ++c)
      for (int u = 0; u < vectors; ++u) {
        S* p = to.data + c * to.class_step + u * V::size;
        int64_t count = to.count - u * V::size;
        Vec<C> v(get(c, u).v);
        if (count < V::size)
          store_partial(p, v, most(count, 0));
        else if (to.past_caches)
          store_past_caches(p, v);
        else
          store(p, v);
      }
  }

  struct Lanes {
    V v[vectors];
  };
  NNART_HD static Lanes all(double value) {
    Lanes lanes;
    for (V& v : lanes.v) v = V(value);
    return lanes;
  }

  NNART_HD Lanes largest() const {
    Lanes m = all(-kInfinity);
    for (int64_t c = 0; c < classes; ++c)
      for (int u = 0; u < vectors; ++u) m.v[u] = at_least(get(c, u), m.v[u]);
    return m;
  }
  // The sum of term(c, u) over the classes, in four parts, which makes it as exact as one over a vector's lanes.
  template <class Term>
  NNART_HD Lanes sum(const Term& term) const {
    Lanes s0 = all(0), s1 = s0, s2 = s0, s3 = s0;
    auto add = [&](Lanes& s, int64_t c) {
      for (int u = 0; u < vectors; ++u) s.v[u] = s.v[u] + term(c, u);
    };
    int64_t c = 0;
    for (; c + 4 <= classes; c += 4) {
      add(s0, c);
      add(s1, c + 1);
      add(s2, c + 2);
      add(s3, c + 3);
    }
    for (; c < classes; ++c) add(s0, c);
    for (int u = 0; u < vectors; ++u) s0.v[u] = (s0.v[u] + s1.v[u]) + (s2.v[u] + s3.v[u]);
    return s0;
  }

 private:
  NNART_HD void read_rows(const Place<const S>& from) const {
    if (from.count < lanes) std::memset(static_cast<void*>(data), 0, size_t(classes * lanes) * sizeof(C));
    for (int64_t k = 0; k < from.count; ++k)
      for (int64_t c = 0; c < classes; c += V::size) {
        const S* p = from.data + k * from.row_step + c;
        int64_t count = least(V::size, classes - c);
        C some[V::size];
        store(some, count == V::size ? load(p) : load_partial(p, count));
        for (int64_t j = 0; j < count; ++j) data[(c + j) * lanes + k] = some[j];
      }
  }
  NNART_HD void write_rows(const Place<S>& to) const {
    for (int64_t k = 0; k < to.count; ++k)
      for (int64_t c = 0; c < classes; c += V::size) {
        S* p = to.data + k * to.row_step + c;
        int64_t count = least(V::size, classes - c);
        C some[V::size] = {};
        for (int64_t j = 0; j < count; ++j) some[j] = data[(c + j) * lanes + k];
        if (count == V::size)
          store(p, load(some));
        else
          store_partial(p, load(some), count);
      }
  }
};

// Rows of up to so many classes go side by side: longer ones fill vectors by themselves.
constexpr int64_t kTileClasses = 48;
// With more classes than this a tile is one vector wide, so that it fits the second-level cache longer.
constexpr int64_t kWideTileClasses = 1024;

// How the rows of a call, outer x classes x inner, are gone through: rows of a plane or, where classes lie side by
// side, of all of x, in tiles. Row r begins at plane(r) + r % inner.
struct TiledRows {
  int64_t outer, classes, inner;
  NNART_HD int64_t planes() const { return inner == 1 ? 1 : outer; }
  NNART_HD int64_t plane_rows() const { return inner == 1 ? outer : inner; }
  template <class P>
  NNART_HD Place<P> place(P* data, int64_t plane, int64_t row, int64_t count, bool past_caches = false) const {
    if (inner == 1) return {data + row * classes, 1, classes, count, past_caches};
    return {data + plane * classes * inner + row, inner, 1, count, past_caches};
  }
};

// Calls body(tile, row, count) for tiles that cover the rows [begin, end).
template <class S, class V, class Body>
NNART_HD void each_tile(int64_t begin, int64_t end, int64_t classes, const Body& body) {
  auto run = [&](auto vectors) {
    using T = Tile<S, V, decltype(vectors)::value>;
    Scratch<ComputeType<S>> scratch(Use::tile, classes * T::lanes);
    for (int64_t row = begin; row < end; row += T::lanes)
      body(T{scratch.data(), classes}, row, least(T::lanes, end - row));
  };
  if (classes <= kWideTileClasses)
    run(std::integral_constant<int, 4>{});
  else
    run(std::integral_constant<int, 1>{});
}

}  // namespace
}  // namespace nnart::cpu

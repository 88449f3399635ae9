// Softmax and its logarithm. A row, or a tile of neighbouring rows, is read from memory once, as long as a cache holds
// it, and written once.
#include "cpu/kernels.h"
#include "cpu/softmax/rows.h"

namespace nnart::cpu {
namespace {

// Neighbouring rows that are one unit of work.
constexpr int64_t kSoftmaxRun = 1024;

// Rows of up to so many classes keep their exponentials in the first two caches; those of longer ones are computed
// again.
constexpr int64_t kKeptExponentials = 32768;

template <class S>
struct SoftmaxKernel {
  using V = Working<S>;
  using C = ComputeType<S>;
  const SoftmaxArgs& args;
  TiledRows rows{args.outer, args.classes, args.inner};

  NNART_HD void forward_row(int64_t row, bool past_caches) const {
    auto* x = static_cast<const S*>(args.x) + row * args.classes;
    auto* y = static_cast<S*>(args.y) + row * args.classes;
    V largest = largest_of<V>(x, args.classes);
    if (args.log) {
      V sum(double(sum_of_exponentials(x, args.classes, largest)));
      math::LogSoftmax<V> result{largest, log_from_one(sum)};
      return map_range_stored(y, past_caches, 0, args.classes, result, Elements<S>{x});
    }
    if (args.classes > kKeptExponentials) {
      V inverse_sum(1 / double(sum_of_exponentials(x, args.classes, largest)));
      math::Softmax<V> result{largest, inverse_sum};
      return map_range_stored(y, past_caches, 0, args.classes, result, Elements<S>{x});
    }
    Scratch<C> kept(Use::source, args.classes + V::size);
    C* exponentials = kept.data();
    C sum = sum_of<V>(args.classes, [&](int64_t i, auto read) {
      __builtin_prefetch(x + args.classes + i);
      V e = exp_not_above_one(read(x + i) - largest);
      store(exponentials + i, Vec<C>(e.v));
      return e;
    });
    V inverse_sum(1 / double(sum));
    auto scaled = [&](int64_t i) { return Vec<C>((V(load(exponentials + i).v) * inverse_sum).v); };
    bool pass = past_caches && reinterpret_cast<uintptr_t>(y) % (V::size * sizeof(S)) == 0;
    int64_t i = 0;
    if (pass)
      for (; i + V::size <= args.classes; i += V::size) store_past_caches(y + i, scaled(i));
    else
      for (; i + V::size <= args.classes; i += V::size) store(y + i, scaled(i));
    if (i < args.classes) store_partial(y + i, scaled(i), args.classes - i);
  }

  template <class F>
  NNART_HD void backward_row(int64_t row, bool past_caches) const {
    auto* y = static_cast<const S*>(args.x) + row * args.classes;
    auto* grad_y = static_cast<const S*>(args.grad_y) + row * args.classes;
    C sum = sum_of<V>(args.classes, [&](int64_t i, auto read) {
      __builtin_prefetch(y + args.classes + i);
      __builtin_prefetch(grad_y + args.classes + i);
      return F::term(read(grad_y + i), read(y + i));
    });
    map_range_stored(static_cast<S*>(args.y) + row * args.classes, past_caches, 0, args.classes, F{V(double(sum))},
                     Elements<S>{grad_y}, Elements<S>{y});
  }

  // The exponentials stay in the tile between their sum and their division.
  template <class Tile>
  NNART_HD void forward_tile(const Tile& tile, const Place<const S>& x, const Place<S>& y) const {
    tile.read(x);
    auto largest = tile.largest();
    auto sum = tile.sum([&](int64_t c, int u) {
      V shifted = tile.get(c, u) - largest.v[u], e = exp_not_above_one(shifted);
      tile.put(c, u, args.log ? shifted : e);
      return e;
    });
    for (V& v : sum.v) v = args.log ? log_from_one(v) : V(1) / v;
    for (int64_t c = 0; c < args.classes; ++c)
      for (int u = 0; u < Tile::vectors; ++u)
        tile.put(c, u, args.log ? tile.get(c, u) - sum.v[u] : tile.get(c, u) * sum.v[u]);
    tile.write(y);
  }

  template <class F, class Tile>
  NNART_HD void backward_tile(const Tile& tile, const Tile& grads, const Place<const S>& y,
                              const Place<const S>& grad_y, const Place<S>& grad_x) const {
    tile.read(y);
    grads.read(grad_y);
    auto sum = tile.sum([&](int64_t c, int u) { return F::term(grads.get(c, u), tile.get(c, u)); });
    for (int64_t c = 0; c < args.classes; ++c)
      for (int u = 0; u < Tile::vectors; ++u) tile.put(c, u, F{sum.v[u]}(grads.get(c, u), tile.get(c, u)));
    tile.write(grad_x);
  }

  template <class F>
  NNART_HD void tiled() const {
    int64_t in_plane = rows.plane_rows(), runs = ceil_div(in_plane, kSoftmaxRun);
    int64_t elements = least(in_plane, kSoftmaxRun) * args.classes;  // of a task
    bool lines = args.inner > 1 && args.inner * int64_t(sizeof(S)) % kVectorBytes == 0 &&
                 reinterpret_cast<uintptr_t>(args.y) % kVectorBytes == 0;
    auto* x = static_cast<const S*>(args.x);
    auto* grad_y = static_cast<const S*>(args.grad_y);
    parallel_for(rows.planes() * runs, ceil_div(kSoftmaxGrain, elements), [&](int64_t first, int64_t last) {
      bool past_caches = lines && (last - first) * elements * int64_t(sizeof(S)) >= past_caches_bytes();
      for (int64_t task = first; task < last; ++task) {
        int64_t plane = task / runs, begin = task % runs * kSoftmaxRun;
        each_tile<S, V>(begin, least(in_plane, begin + kSoftmaxRun), args.classes,
                        [&](const auto& tile, int64_t row, int64_t count) {
                          auto in = rows.place(x, plane, row, count);
                          auto out = rows.place(static_cast<S*>(args.y), plane, row, count, past_caches);
                          if (!grad_y) return forward_tile(tile, in, out);
                          Scratch<C> scratch(Use::gradient, args.classes * tile.lanes);
                          auto grads = tile;
                          grads.data = scratch.data();
                          backward_tile<F>(tile, grads, in, rows.place(grad_y, plane, row, count), out);
                        });
      }
      if (past_caches) finish_stores();
    });
  }

  template <class F>
  NNART_HD void by_row() const {
    parallel_for(args.outer, ceil_div(kSoftmaxGrain, args.classes), [&](int64_t first, int64_t last) {
      bool past_caches = (last - first) * args.classes * int64_t(sizeof(S)) >= past_caches_bytes();
      for (int64_t row = first; row < last; ++row)
        if (args.grad_y)
          backward_row<F>(row, past_caches);
        else
          forward_row(row, past_caches);
      if (past_caches) finish_stores();
    });
  }

  template <class F>
  NNART_HD void all() const {
    if (args.inner == 1 && args.classes > kTileClasses)
      by_row<F>();
    else
      tiled<F>();
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const SoftmaxArgs& args) {
  if (args.outer * args.classes * args.inner == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    SoftmaxKernel<S> kernel{args};
    if (args.log)
      kernel.template all<math::LogSoftmaxBackward<Working<S>>>();
    else
      kernel.template all<math::SoftmaxBackward<Working<S>>>();
  });
}

}  // namespace nnart::cpu

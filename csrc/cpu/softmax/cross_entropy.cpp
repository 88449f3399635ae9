// Cross-entropy from the logits: the forward keeps two numbers a row, the backward reads the logits once and writes
// their gradient once.
#include "cpu/clear.h"
#include "cpu/kernels.h"
#include "cpu/softmax/rows.h"

namespace nnart::cpu {
namespace {

enum class Target { label, smoothed_label, probabilities };

// What q is made of, one row apart from the next.
template <class S>
struct Row {
  int64_t label;          // -1 where there is none
  ComputeType<S> chosen;  // what q_label has beyond the smoothing
  bool counts;            // false for an ignored row
};

// The q of a row whose classes lie in one piece, as an input of the map.
template <class S, class V, Target target>
struct TargetRow {
  using C = ComputeType<S>;
  const S* weight;         // of the classes, or null
  const S* probabilities;  // of the row's classes
  int64_t label;
  V chosen, kept, smoothing;  // kept = 1 - label_smoothing, smoothing = label_smoothing / classes

  // Of the classes whose weights and probabilities are given; number[k] = label where a lane k is the label.
  NNART_HD V of(V w, V p, RawVec<Bits<C>> number, Bits<C> label_number) const {
    if constexpr (target == Target::probabilities) return (p * kept + smoothing) * w;
    V q = select(Mask<C>{number == label_number}, chosen, V(0));
    if constexpr (target == Target::smoothed_label) q = q + w * smoothing;
    return q;
  }

  template <class Read>
  NNART_HD V read_by(const Read& read, int64_t i) const {
    V w = weight && target != Target::label ? read(weight + i) : V(1);
    V p = target == Target::probabilities ? read(probabilities + i) : V(0);
    return of(w, p, lane_numbers<C>(), Bits<C>(label - i));
  }
  NNART_HD V at(int64_t i) const {
    return read_by([](const S* p) { return V(load(p).v); }, i);
  }
  NNART_HD V partial(int64_t i, int64_t count) const {
    return read_by([count](const S* p) { return V(load_partial(p, count).v); }, i);
  }

  NNART_HD V of(EvenOdd pair, bool odd) const { return odd ? pair.odd.v : pair.even.v; }
  NNART_HD EvenOdd pair_at(int64_t i) const {
    EvenOdd w{Vec<float>(1), Vec<float>(1)}, p{Vec<float>(0), Vec<float>(0)};
    if constexpr (std::is_same_v<S, BFloat16>) {
      if (weight && target != Target::label) w = load_even_odd(weight + i);
      if (target == Target::probabilities) p = load_even_odd(probabilities + i);
    }
    RawVec<Bits<C>> number = lane_numbers<C>() * 2;
    V even = of(V(w.even.v), V(p.even.v), number, Bits<C>(label - i));
    V odd = of(V(w.odd.v), V(p.odd.v), number + 1, Bits<C>(label - i));
    return {Vec<float>(even.v), Vec<float>(odd.v)};
  }
};

template <class S, Target target>
struct CrossEntropyKernel {
  using C = ComputeType<S>;
  using Exact = Vec<C>;      // for the loss, which is not stored in 16 bits
  using Brief = Working<S>;  // for the gradient, which may be
  const CrossEntropyArgs& args;
  double weight_sum;  // of all classes

  int64_t classes = args.classes, inner = args.inner;
  const S* x = static_cast<const S*>(args.x);
  const S* weight = static_cast<const S*>(args.weight);
  C* largest = static_cast<C*>(args.largest);
  C* log_sum = static_cast<C*>(args.log_sum);
  C kept = C(1 - args.label_smoothing);
  C smoothing = C(args.label_smoothing / double(classes));

  struct Sums {
    double loss = 0, weight = 0;
  };

  NNART_HD C weight_of(int64_t c) const { return weight ? widen_one<C>(weight + c) : C(1); }

  NNART_HD Row<S> row_of(int64_t r) const {
    if constexpr (target == Target::probabilities) return {-1, C(0), true};
    int64_t label = args.labels[r];
    if (label == args.ignore_index) return {-1, C(0), false};
    if (label < 0 || label >= classes) {
      *args.wrong_label = label;
      return {-1, C(0), false};
    }
    return {label, weight_of(label) * kept, true};
  }

  NNART_HD void finish(int64_t r, const Row<S>& row, double loss, Sums& sums) const {
    if (args.reduction == Reduction::None) static_cast<C*>(args.loss)[r] = row.counts ? C(loss) : C(0);
    if (!row.counts) return;
    sums.loss += loss;
    sums.weight += target == Target::probabilities ? 1.0 : double(weight_of(row.label));
  }

  // The sum of a row's q.
  NNART_HD double total_of(const Row<S>& row) const { return double(row.chosen) + double(smoothing) * weight_sum; }

  NNART_HD double grad_of(int64_t r) const {
    double grad = static_cast<const C*>(args.grad)[args.reduction == Reduction::None ? r : 0];
    return args.reduction == Reduction::Mean ? grad / double(*static_cast<const C*>(args.total_weight)) : grad;
  }

  // ---- rows whose classes lie in one piece ----

  template <class V>
  NNART_HD TargetRow<S, V, target> targets(int64_t r, const Row<S>& row) const {
    const S* p = target == Target::probabilities ? static_cast<const S*>(args.probabilities) + r * classes : nullptr;
    return {weight, p, row.label, V(row.chosen), V(kept), V(smoothing)};
  }
  template <class V>
  NNART_HD double total_of(const TargetRow<S, V, target>& q, const Row<S>& row) const {
    if constexpr (target != Target::probabilities) return total_of(row);
    return sum_of<V>(classes, [&](int64_t i, auto read) { return q.read_by(read, i); });
  }

  NNART_HD void forward_row(int64_t r, Sums& sums) const {
    Row<S> row = row_of(r);
    const S* logits = x + r * classes;
    Exact top = largest_of<Exact>(logits, classes);
    double log = log_from_one(Exact(double(sum_of_exponentials(logits, classes, top)))).v[0];
    largest[r] = top.v[0];
    log_sum[r] = C(log);
    if (!row.counts) return finish(r, row, 0, sums);
    if constexpr (target == Target::label) {
      double at_label = widen_one<C>(logits + row.label);
      return finish(r, row, double(row.chosen) * (log - (at_label - double(largest[r]))), sums);
    }
    auto q = targets<Exact>(r, row);
    double inside =
        sum_of<Exact>(classes, [&](int64_t i, auto read) { return q.read_by(read, i) * (read(logits + i) - top); });
    finish(r, row, total_of(q, row) * log - inside, sums);
  }

  NNART_HD void backward_row(int64_t r, bool past_caches) const {
    Row<S> row = row_of(r);
    S* grad_x = static_cast<S*>(args.y) + r * classes;
    if (!row.counts) {
      clear(grad_x, classes);
      return;
    }
    __builtin_prefetch(x + (r + 1) * classes);
    auto q = targets<Brief>(r, row);
    double grad = grad_of(r);
    math::CrossEntropyBackward<Brief> derive{Brief(largest[r]), Brief(log_sum[r]), Brief(grad),
                                             Brief(grad * total_of(q, row))};
    map_range_stored(grad_x, past_caches, 0, classes, derive, Elements<S>{x + r * classes}, q);
  }

  // ---- tiles ----

  template <class Tile>
  struct TileTargets {
    using V = typename Tile::V;
    Row<S> rows[Tile::lanes];
    RawVec<Bits<C>> label[Tile::vectors];
    V chosen[Tile::vectors];
  };

  template <class Tile>
  NNART_HD TileTargets<Tile> tile_targets(int64_t r, int64_t count) const {
    using V = typename Tile::V;
    TileTargets<Tile> targets;
    for (int64_t k = 0; k < Tile::lanes; ++k) {
      Row<S> row{-1, C(0), false};
      if (k < count) row = row_of(r + k);
      targets.rows[k] = row;
      targets.label[k / V::size][k % V::size] = Bits<C>(row.label);
      targets.chosen[k / V::size].v[k % V::size] = row.chosen;
    }
    return targets;
  }

  // The q of class c, p being the tile of probabilities.
  template <class Tile, class V = typename Tile::V>
  NNART_HD V q_of(const TileTargets<Tile>& targets, const Tile& p, int64_t c, int u) const {
    V w(target == Target::label ? C(1) : weight_of(c));
    if constexpr (target == Target::probabilities) return (p.get(c, u) * V(kept) + V(smoothing)) * w;
    V q = select(Mask<C>{targets.label[u] == Bits<C>(c)}, targets.chosen[u], V(0));
    return target == Target::smoothed_label ? q + w * V(smoothing) : q;
  }

  template <class Tile>
  NNART_HD void forward_tile(const Tile& tile, const Tile& p, int64_t r, int64_t count, Sums& sums) const {
    using V = typename Tile::V;
    auto targets = tile_targets<Tile>(r, count);
    auto top = tile.largest();
    auto sum = tile.sum([&](int64_t c, int u) { return exp_not_above_one(tile.get(c, u) - top.v[u]); });
    auto inside = tile.all(0), total = tile.all(0);
    if constexpr (target != Target::label) {
      inside = tile.sum([&](int64_t c, int u) {
        V q = q_of(targets, p, c, u);
        total.v[u] = total.v[u] + q;
        return q * (tile.get(c, u) - top.v[u]);
      });
    }
    for (V& v : sum.v) v = log_from_one(v);
    for (int64_t k = 0; k < count; ++k) {
      int64_t u = k / V::size, lane = k % V::size;
      const Row<S>& row = targets.rows[k];
      double log = sum.v[u].v[lane];
      largest[r + k] = top.v[u].v[lane];
      log_sum[r + k] = C(log);
      double loss = double(total.v[u].v[lane]) * log - double(inside.v[u].v[lane]);
      if (target == Target::label && row.counts)
        loss = double(row.chosen) * (log - (double(tile.data[row.label * Tile::lanes + k]) - double(largest[r + k])));
      finish(r + k, row, loss, sums);
    }
  }

  // Leaves the gradient in the tile.
  template <class Tile>
  NNART_HD void backward_tile(const Tile& tile, const Tile& p, int64_t r, int64_t count) const {
    using V = typename Tile::V;
    auto targets = tile_targets<Tile>(r, count);
    auto total = tile.all(0);
    if constexpr (target == Target::probabilities)
      total = tile.sum([&](int64_t c, int u) { return q_of(targets, p, c, u); });
    C of_rows[4][Tile::lanes];  // what the derivative needs of each
    Bits<C> counts[Tile::lanes];
    for (int64_t k = 0; k < Tile::lanes; ++k) {
      int64_t in = k < count ? r + k : r;
      const Row<S>& row = targets.rows[k];
      double grad = row.counts ? grad_of(in) : 0;
      double all = target == Target::probabilities ? double(total.v[k / V::size].v[k % V::size]) : total_of(row);
      of_rows[0][k] = largest[in];
      of_rows[1][k] = log_sum[in];
      of_rows[2][k] = C(grad);
      of_rows[3][k] = C(grad * all);
      counts[k] = row.counts ? -1 : 0;
    }
    auto lanes_at = [&](int which, int u) { return V(load(of_rows[which] + u * V::size).v); };
    for (int u = 0; u < Tile::vectors; ++u) {
      math::CrossEntropyBackward<V> derive{lanes_at(0, u), lanes_at(1, u), lanes_at(2, u), lanes_at(3, u)};
      Mask<C> counted;
      std::memcpy(&counted.v, counts + u * V::size, sizeof counted.v);
      for (int64_t c = 0; c < classes; ++c) {
        V v = derive(tile.get(c, u), q_of(targets, p, c, u));
        tile.put(c, u, select(counted, v, V(0)));
      }
    }
  }

  // ---- all ----

  // Of the rows [begin, end) of a plane.
  NNART_HD void run(int64_t plane, int64_t begin, int64_t end, bool past_caches, Sums& sums) const {
    bool forward = !args.grad;
    if (inner == 1 && classes > kTileClasses) {
      for (int64_t r = begin; r < end; ++r)
        if (forward)
          forward_row(r, sums);
        else
          backward_row(r, past_caches);
      return;
    }
    TiledRows rows{args.outer, classes, inner};
    auto tiled = [&](const auto& tile, int64_t row, int64_t count) {
      auto p = tile;
      Scratch<C> scratch(Use::source, target == Target::probabilities ? classes * tile.lanes : 0);
      if constexpr (target == Target::probabilities) {
        p.data = scratch.data();
        p.read(rows.place(static_cast<const S*>(args.probabilities), plane, row, count));
      }
      tile.read(rows.place(x, plane, row, count));
      int64_t r = plane * inner + row;
      if (forward) return forward_tile(tile, p, r, count, sums);
      backward_tile(tile, p, r, count);
      tile.write(rows.place(static_cast<S*>(args.y), plane, row, count, past_caches));
    };
    if (forward)
      each_tile<S, Exact>(begin, end, classes, tiled);
    else
      each_tile<S, Brief>(begin, end, classes, tiled);
  }

  NNART_HD void all() const {
    bool forward = !args.grad;
    int64_t rows = inner == 1 ? loss_rows(classes) : kLossRun, in_plane = inner == 1 ? args.outer : inner;
    int64_t runs = ceil_div(in_plane, rows), tasks = loss_tasks(args.outer, classes, inner);
    int64_t elements = most(least(rows, in_plane) * classes, 1);  // of a task
    bool lines = inner == 1 ? classes > kTileClasses : inner * int64_t(sizeof(S)) % kVectorBytes == 0;
    bool can_pass = !forward && args.x != args.y && lines && reinterpret_cast<uintptr_t>(args.y) % kVectorBytes == 0;
    parallel_for(tasks, ceil_div(kSoftmaxGrain, elements), [&](int64_t first, int64_t last) {
      bool past_caches = can_pass && (last - first) * elements * int64_t(sizeof(S)) >= past_caches_bytes();
      for (int64_t task = first; task < last; ++task) {
        Sums sums;
        int64_t begin = task % runs * rows;
        run(task / runs, begin, least(in_plane, begin + rows), past_caches, sums);
        if (forward) {
          args.partial_sums[2 * task] = sums.loss;
          args.partial_sums[2 * task + 1] = sums.weight;
        }
      }
      if (past_caches) finish_stores();
    });
    if (forward) reduce(tasks);
  }

  NNART_HD void reduce(int64_t tasks) const {
    Sums sums;
    for (int64_t task = 0; task < tasks; ++task) {
      sums.loss += args.partial_sums[2 * task];
      sums.weight += args.partial_sums[2 * task + 1];
    }
    *static_cast<C*>(args.total_weight) = C(sums.weight);
    if (args.reduction == Reduction::None) return;
    *static_cast<C*>(args.loss) = C(args.reduction == Reduction::Mean ? sums.loss / sums.weight : sums.loss);
  }
};

template <class S>
NNART_HD double sum_of_weights(const CrossEntropyArgs& args) {
  if (!args.weight) return double(args.classes);
  double sum = 0;
  for (int64_t c = 0; c < args.classes; ++c) sum += widen_one<ComputeType<S>>(static_cast<const S*>(args.weight) + c);
  return sum;
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const CrossEntropyArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    double weights = args.label_smoothing != 0 ? sum_of_weights<S>(args) : 0;
    if (args.probabilities)
      CrossEntropyKernel<S, Target::probabilities>{args, weights}.all();
    else if (args.label_smoothing != 0)
      CrossEntropyKernel<S, Target::smoothed_label>{args, weights}.all();
    else
      CrossEntropyKernel<S, Target::label>{args, weights}.all();
  });
}

}  // namespace nnart::cpu

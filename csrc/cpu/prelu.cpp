// PReLU: one weight for all, or one for each channel. The forward is a map, the backward sums what the weights get.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/prefetch.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kPReluGrain = 32768;

// Elements to which the weights of short rows are repeated.
constexpr int64_t kPReluRepeated = 1024;

template <class S>
void forward(const PReluArgs& args) {
  auto* x = static_cast<const S*>(args.x);
  auto* weight = static_cast<const S*>(args.weight);
  auto* y = static_cast<S*>(args.y);
  // x > 0 is false for NaN, so NaN takes the slope branch and stays NaN.
  auto prelu = [](auto value, auto w) { return select(value > decltype(value)(0), value, value * w); };
  int64_t n = args.outer * args.channels * args.inner;
  if (args.channels == 1) return map(y, n, prelu, Elements<S>{x}, OneValue<S>(weight));
  if (args.inner > 1) {
    parallel_for(args.outer * args.channels, kPReluGrain / args.inner + 1, [&](int64_t first, int64_t last) {
      bool large = (last - first) * args.inner * int64_t(sizeof(S)) >= past_caches_bytes();
      for (int64_t plane = first; plane < last; ++plane)
        map_range_stored(y + plane * args.inner, large, 0, args.inner, prelu, Elements<S>{x + plane * args.inner},
                         OneValue<S>(weight + plane % args.channels));
      if (large) finish_stores();
    });
    return;
  }
  int64_t rows = ceil_div(kPReluRepeated, args.channels), run = rows * args.channels;
  Scratch<S> repeated(Use::weight, run);
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(repeated.data() + r * args.channels, weight, size_t(args.channels) * sizeof(S));
  const S* weights = repeated.data();
  parallel_for(ceil_div(n, run), ceil_div(kPReluGrain, run), [&](int64_t first, int64_t last) {
    bool large = (last - first) * run * int64_t(sizeof(S)) >= past_caches_bytes();
    for (int64_t at = first * run; at < least(n, last * run); at += run)
      map_range_stored(y + at, large, 0, least(run, n - at), prelu, Elements<S>{x + at}, Elements<S>{weights});
    if (large) finish_stores();
  });
}

template <class S>
struct PReluBackward {
  using V = Vec<ComputeType<S>>;

  const PReluArgs& args;
  const S* x = static_cast<const S*>(args.x);
  const S* weight = static_cast<const S*>(args.weight);
  const S* grad_y = static_cast<const S*>(args.grad_y);
  S* y = static_cast<S*>(args.y);

  NNART_HD static V read(const S* p, int64_t count) { return count == V::size ? load(p) : load_partial(p, count); }
  NNART_HD static void write(S* p, V v, int64_t count) {
    if (count == V::size)
      store(p, v);
    else
      store_partial(p, v, count);
  }

  // Handles the count elements from i, whose weights are w; returns their terms of grad_weight.
  NNART_HD V step(int64_t i, V w, int64_t count) const {
    V value = read(x + i, count);
    V grad = read(grad_y + i, count);
    auto kept = value > V(0);
    write(y + i, select(kept, grad, grad * w), count);
    return select(kept, V(0), value * grad);
  }

  // A piece of one channel's elements.
  NNART_HD void run(int64_t begin, int64_t end, int64_t channel, double* sum) const {
    V w = load_broadcast(weight + channel), terms(0);
    for (int64_t i = begin; i < end; i += V::size) terms = terms + step(i, w, least(V::size, end - i));
    *sum = 0;
    for (int lane = 0; lane < V::size; ++lane) *sum += terms.v[lane];
  }

  // A piece of rows, each with an element of every channel: down the rows, the sums of the channels from c on in
  // registers. Of several vectors all are whole; one has count channels.
  template <int vectors>
  NNART_HD void down(int64_t begin, int64_t end, int64_t c, int64_t count, double* sums) const {
    V w[vectors], terms[vectors];
    for (int k = 0; k < vectors; ++k) {
      w[k] = read(weight + c + k * V::size, count);
      terms[k] = V(0);
    }
    for (int64_t r = begin; r < end; ++r)
      for (int k = 0; k < vectors; ++k) {
        int64_t i = r * args.channels + c + k * V::size;
        fetch_source_ahead(x + i);
        fetch_source_ahead(grad_y + i);
        terms[k] = terms[k] + step(i, w[k], vectors > 1 ? V::size : count);
      }
    for (int k = 0; k < vectors; ++k)
      for (int64_t lane = 0; lane < count; ++lane) sums[c + k * V::size + lane] = terms[k].v[lane];
  }
  NNART_HD void rows(int64_t begin, int64_t end, double* sums) const {
    constexpr int kVectors = 4;
    int64_t c = 0;
    for (; c + kVectors * V::size <= args.channels; c += kVectors * V::size)
      down<kVectors>(begin, end, c, V::size, sums);
    for (; c < args.channels; c += V::size) down<1>(begin, end, c, least(V::size, args.channels - c), sums);
  }

  NNART_HD void all() const {
    int64_t channels = args.channels, inner = args.inner;
    if (inner == 1) {
      parallel_for(
          prelu_tasks(args.outer, 1), kPReluGrain / (kPReluRows * channels) + 1, [&](int64_t first, int64_t last) {
            for (int64_t task = first; task < last; ++task)
              rows(task * kPReluRows, least(args.outer, (task + 1) * kPReluRows), args.partial_sums + task * channels);
          });
      return;
    }
    int64_t runs = prelu_tasks(1, inner);  // in a plane
    parallel_for(args.outer * channels * runs, kPReluGrain / least(inner, kPReluRun) + 1,
                 [&](int64_t first, int64_t last) {
                   for (int64_t task = first; task < last; ++task) {
                     int64_t plane = task / runs, part = task % runs, channel = plane % channels;
                     int64_t start = plane * inner;
                     run(start + part * kPReluRun, start + least(inner, (part + 1) * kPReluRun), channel,
                         args.partial_sums + (plane / channels * runs + part) * channels + channel);
                   }
                 });
  }

  NNART_HD void sum_weights() const {
    int64_t tasks = prelu_tasks(args.outer, args.inner);
    for (int64_t c = 0; c < args.channels; ++c) {
      double sum = 0;
      for (int64_t task = 0; task < tasks; ++task) sum += args.partial_sums[task * args.channels + c];
      store_partial(static_cast<S*>(args.grad_weight) + c, V(sum), 1);
    }
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const PReluArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (!args.grad_y) return forward<S>(args);
    PReluBackward<S> backward{args};
    backward.all();
    backward.sum_weights();
  });
}

}  // namespace nnart::cpu

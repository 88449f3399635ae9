// PReLU: one weight for all, or one for each channel.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kPReluGrain = 32768;

NNART_HD int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

template <class S>
struct PRelu {
  using V = Vec<ComputeType<S>>;

  const PReluArgs& args;
  const S* x = static_cast<const S*>(args.x);
  const S* weight = static_cast<const S*>(args.weight);
  const S* grad_y = static_cast<const S*>(args.grad_y);
  S* y = static_cast<S*>(args.y);

  // x > 0 is false for NaN, so NaN takes the slope branch and stays NaN.
  NNART_HD static V forward(V x, V w) { return select(x > V(0), x, x * w); }

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
    if (!grad_y) {
      write(y + i, forward(value, w), count);
      return V(0);
    }
    V grad = read(grad_y + i, count);
    auto kept = value > V(0);
    write(y + i, select(kept, grad, grad * w), count);
    return select(kept, V(0), value * grad);
  }

  // A piece of one channel's elements.
  NNART_HD void run(int64_t begin, int64_t end, int64_t channel, double* sum) const {
    V w = load_broadcast(weight + channel), terms(0);
    for (int64_t i = begin; i < end; i += V::size) terms = terms + step(i, w, min(V::size, end - i));
    if (!grad_y) return;
    *sum = 0;
    for (int lane = 0; lane < V::size; ++lane) *sum += terms.v[lane];
  }

  // A piece of rows, each with an element of every channel. The backward goes down the rows, its sums in registers.
  NNART_HD void rows(int64_t begin, int64_t end, double* sums) const {
    if (!grad_y) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < args.channels; c += V::size) {
          int64_t count = min(V::size, args.channels - c);
          step(r * args.channels + c, read(weight + c, count), count);
        }
      return;
    }
    for (int64_t c = 0; c < args.channels; c += V::size) {
      int64_t count = min(V::size, args.channels - c);
      V w = read(weight + c, count), terms(0);
      for (int64_t r = begin; r < end; ++r) terms = terms + step(r * args.channels + c, w, count);
      for (int64_t lane = 0; lane < count; ++lane) sums[c + lane] = terms.v[lane];
    }
  }

  NNART_HD void all() const {
    int64_t channels = args.channels, inner = args.inner;
    if (inner == 1) {
      parallel_for(
          prelu_tasks(args.outer, 1), kPReluGrain / (kPReluRows * channels) + 1, [&](int64_t first, int64_t last) {
            for (int64_t task = first; task < last; ++task)
              rows(task * kPReluRows, min(args.outer, (task + 1) * kPReluRows), args.partial_sums + task * channels);
          });
      return;
    }
    int64_t runs = prelu_tasks(1, inner);  // in a plane
    parallel_for(args.outer * channels * runs, kPReluGrain / min(inner, kPReluRun) + 1,
                 [&](int64_t first, int64_t last) {
                   for (int64_t task = first; task < last; ++task) {
                     int64_t plane = task / runs, part = task % runs, channel = plane % channels;
                     int64_t start = plane * inner;
                     run(start + part * kPReluRun, start + min(inner, (part + 1) * kPReluRun), channel,
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
    PRelu<S> prelu{args};
    prelu.all();
    if (args.grad_y) prelu.sum_weights();
  });
}

}  // namespace nnart::cpu

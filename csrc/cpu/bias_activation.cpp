// y = residual + dropout(activation(x + bias)) in one pass over memory, and its gradients in another.
#include "core/parallel.h"
#include "cpu/channel_sum.h"
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/random.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kBiasGrain = 8192;

// What the pieces below share: up to kPieceRun elements with consecutive numbers and either one bias or one each. Which
// parts there are is asked for each vector: the branches always go the same way, and the formulas would otherwise be
// compiled some dozens of times.
template <class S, class F>
struct Fused {
  using V = Working<S>;
  using C = ComputeType<S>;

  const BiasActivationArgs& args;
  F activation;
  bool past_caches;
  V scale;
  S* buffer;  // of decisions

  NNART_HD Fused(const BiasActivationArgs& args, F activation, bool past_caches, S* buffer)
      : args(args), activation(activation), past_caches(past_caches), scale(args.scale), buffer(buffer) {}

  template <class P>
  NNART_HD static const P* at(const void* data, int64_t i) {
    return data ? static_cast<const P*>(data) + i : nullptr;
  }
  NNART_HD const S* decisions(int64_t begin, int64_t n) const {
    return args.seed ? Decisions<S>{buffer}.fill(begin, n, uint64_t(*args.seed), args.threshold) : nullptr;
  }

  // bias points at the first element's, the only one if one_bias.
  // Not inlined: compiled once for planes and rows.
  __attribute__((noinline)) void forward(int64_t begin, int64_t n, const S* bias, bool one_bias) const {
    const S* x = at<S>(args.x, begin);
    const S* residual = at<S>(args.residual, begin);
    const S* keep = decisions(begin, n);
    S* y = static_cast<S*>(args.y) + begin;
    V same_bias = bias && one_bias ? V(load_broadcast(bias).v) : V(0);
    each_vector<S>(n, can_store_past_caches(y, past_caches), [&](int64_t i, int64_t, auto read, auto write) {
      V v = read(x + i);
      if (bias) v = v + (one_bias ? same_bias : read(bias + i));
      v = activation.forward(v);
      if (keep) v = v * (read(keep + i) * scale);
      if (residual) v = read(residual + i) + v;
      write(y + i, v);
    });
  }

  // Hands the gradient of each vector's sum with the bias to add(i, count, gradient).
  template <class Add>
  NNART_HD void backward(int64_t begin, int64_t n, const S* bias, bool one_bias, const Add& add) const {
    const S* saved = at<S>(args.x, begin);
    auto* grad_y = static_cast<const S*>(args.grad_y);
    if (!args.grad_y_is_one_value) grad_y += begin;
    const S* keep = decisions(begin, n);
    S* grad_x = static_cast<S*>(args.y) + begin;
    V same_bias = bias && one_bias ? V(load_broadcast(bias).v) : V(0);
    V same_grad = args.grad_y_is_one_value ? V(load_broadcast(grad_y).v) : V(0);
    bool one_grad = args.grad_y_is_one_value, from_output = args.saved_is_output;
    bool wants_output = !from_output && saves_output(args.activation);
    each_vector<S>(n, can_store_past_caches(grad_x, past_caches), [&](int64_t i, int64_t count, auto read, auto write) {
      V grad = one_grad ? same_grad : read(grad_y + i);
      if (keep) grad = grad * (read(keep + i) * scale);
      if (saved) {
        V s = read(saved + i);
        if (bias) s = s + (one_bias ? same_bias : read(bias + i));
        if (wants_output) s = activation.forward(s);
        grad = activation.backward(grad, s);
      }
      write(grad_x + i, grad);
      add(i, count, grad);
    });
  }
};

// The elements in pieces, each of them a task.
struct Cut {
  const BiasActivationArgs& args;
  int64_t channels = args.channels, inner = args.inner;
  bool one_bias = inner > 1;
  int64_t runs = ceil_div(one_bias ? inner : channels, kPieceRun);  // pieces of a plane, or of a row of channels
  int64_t rows = piece_rows(channels);
  int64_t tasks = one_bias ? args.outer * channels * runs : ceil_div(args.outer, rows) * runs;
  int64_t task_elements = one_bias ? least(inner, kPieceRun) : least(args.outer, rows) * least(channels, kPieceRun);

  // Adds the pieces' sums.
  template <class S>
  NNART_HD void sum_bias() const {
    int64_t pieces = piece_count(args.outer, inner, channels);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) sum += args.partial_sums[piece * channels + c];
      store_partial(static_cast<S*>(args.grad_bias) + c, Vec<ComputeType<S>>(sum), 1);
    }
  }
};

// The sums alone.
template <class S>
struct Sums : Cut {
  const S* x = static_cast<const S*>(args.grad_y);
  double same = args.grad_y_is_one_value ? double(widen_one<ComputeType<S>>(x)) : 0;

  NNART_HD void plane(int64_t task) const {
    int64_t plane = task / runs, part = task % runs, n = least(inner - part * kPieceRun, kPieceRun);
    double* sum = args.partial_sums + (plane / channels * runs + part) * channels + plane % channels;
    *sum = args.grad_y_is_one_value ? double(n) * same : sum_of_run(x + plane * inner + part * kPieceRun, n);
  }
  NNART_HD void block(int64_t task) const {
    int64_t block = task / runs, channel = task % runs * kPieceRun, n = least(channels - channel, kPieceRun);
    int64_t first = block * rows, count = least(args.outer - first, rows);
    double* sums = args.partial_sums + block * channels + channel;
    for (int64_t c = 0; c < n; ++c) sums[c] = double(count) * same;
    if (!args.grad_y_is_one_value) add_rows(x + first * channels + channel, count, n, channels, sums);
  }
  NNART_HD void all() const {
    parallel_for(tasks, ceil_div(kBiasGrain, task_elements), [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) one_bias ? plane(task) : block(task);
    });
  }
};

template <class S, class F>
struct Task : Cut {
  F activation;

  NNART_HD const S* bias(int64_t channel) const {
    return args.bias ? static_cast<const S*>(args.bias) + channel : nullptr;
  }

  // Of a plane: one channel's elements.
  NNART_HD void plane(const Fused<S, F>& fused, int64_t task) const {
    using V = Working<S>;
    int64_t plane = task / runs, part = task % runs, channel = plane % channels;
    int64_t begin = plane * inner + part * kPieceRun, n = least(inner - part * kPieceRun, kPieceRun);
    if (!args.grad_y) return fused.forward(begin, n, bias(channel), true);
    V sums(0);
    double totals[V::size] = {};
    int64_t terms = 0;
    auto flush = [&] {
      for (int lane = 0; lane < V::size; ++lane) totals[lane] += sums.v[lane];
      sums = V(0);
    };
    fused.backward(begin, n, bias(channel), true, [&](int64_t, int64_t count, V grad) {
      if (count < V::size)  // the lanes beyond hold what the formula makes of zeros
        for (int64_t lane = count; lane < V::size; ++lane) grad.v[lane] = 0;
      sums = sums + grad;
      if (++terms % kFloatTerms == 0) flush();
    });
    if (!args.grad_bias) return;
    flush();
    double sum = 0;
    for (double total : totals) sum += total;
    args.partial_sums[(plane / channels * runs + part) * channels + channel] = sum;
  }

  // Of rows: elements of consecutive channels, row below row.
  NNART_HD void block(const Fused<S, F>& fused, int64_t task, ComputeType<S>* sums) const {
    using V = Working<S>;
    using C = ComputeType<S>;
    int64_t block = task / runs, channel = task % runs * kPieceRun, n = least(channels - channel, kPieceRun);
    int64_t first = block * rows, last = least(args.outer, first + rows);
    if (!args.grad_y) {
      for (int64_t r = first; r < last; ++r) fused.forward(r * channels + channel, n, bias(channel), false);
      return;
    }
    if (!args.grad_bias) {
      for (int64_t r = first; r < last; ++r)
        fused.backward(r * channels + channel, n, bias(channel), false, [](int64_t, int64_t, V) {});
      return;
    }
    double* totals = args.partial_sums + block * channels + channel;
    for (int64_t c = 0; c < n; ++c) totals[c] = 0;
    for (int64_t r = first; r < last;) {
      std::memset(static_cast<void*>(sums), 0, size_t(n + V::size) * sizeof(C));
      for (int64_t stop = least(last, r + kFloatTerms); r < stop; ++r)
        fused.backward(r * channels + channel, n, bias(channel), false, [&](int64_t i, int64_t, V grad) {
          store(sums + i, Vec<C>(load(sums + i).v + grad.v));  // beyond n there is room
        });
      for (int64_t c = 0; c < n; ++c) totals[c] += sums[c];
    }
  }

  NNART_HD void all() const {
    parallel_for(tasks, ceil_div(kBiasGrain, task_elements), [&](int64_t first, int64_t last) {
      Scratch<S> buffer(Use::decisions, Decisions<S>::room(kPieceRun));
      Scratch<ComputeType<S>> sums(Use::partial, kPieceRun + Working<S>::size);
      bool large = (last - first) * task_elements * int64_t(sizeof(S)) >= past_caches_bytes() && args.x != args.y;
      Fused<S, F> fused(args, activation, large, buffer.data());
      for (int64_t task = first; task < last; ++task)
        if (one_bias)
          plane(fused, task);
        else
          block(fused, task, sums.data());
      if (large) finish_stores();
    });
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const BiasActivationArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    if (args.y) {
      with_activation<C>(args.activation, args.parameters,
                         [&](auto activation) { Task<S, decltype(activation)>{{args}, activation}.all(); });
    } else {
      Sums<S>{{args}}.all();
    }
    if (args.grad_bias) Cut{args}.sum_bias<S>();
  });
}

}  // namespace nnart::cpu

// Cross-entropy from the logits: the forward reads them once and keeps two numbers a row, the backward reads them once
// and writes their gradient once. What the target is is asked for each element: the branches always go the same way.
#include <cassert>

#include "cuda/classes.cuh"
#include "cuda/kernels.h"
#include "cuda/online.cuh"

namespace nnart::cuda {
namespace {

// What both passes know of the call.
template <class S_>
struct Rows {
  using S = S_;
  using C = ComputeType<S>;

  const S *x, *probabilities, *weight;  // the last two may be null
  const int64_t* labels;                // where there are no probabilities
  int64_t classes, ignore_index;
  Reduction reduction;
  C kept, smoothing;  // 1 - label_smoothing and label_smoothing / classes
  C *largest, *log_sum, *total_weight;
  double* weight_sum;  // of all classes; null if each counts as 1

  Rows(const CrossEntropyArgs& args, double* weight_sum)
      : x(static_cast<const S*>(args.x)),
        probabilities(static_cast<const S*>(args.probabilities)),
        weight(static_cast<const S*>(args.weight)),
        labels(args.labels),
        classes(args.classes),
        ignore_index(args.ignore_index),
        reduction(args.reduction),
        kept(C(1 - args.label_smoothing)),
        smoothing(C(args.label_smoothing / double(args.classes))),
        largest(static_cast<C*>(args.largest)),
        log_sum(static_cast<C*>(args.log_sum)),
        total_weight(static_cast<C*>(args.total_weight)),
        weight_sum(weight_sum) {}

  template <int width>
  struct Loaded {
    Pack<S, width> x, p;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i, Lanes lanes) const {
    Loaded<width> loaded{cuda::load<width>(x + i, lanes), {}};
    if (probabilities) loaded.p = cuda::load<width>(probabilities + i, lanes);
    return loaded;
  }
  struct Element {
    C x, p;
  };
  template <int width>
  __device__ __forceinline__ Element element(const Loaded<width>& loaded, int k) const {
    return {widen(loaded.x.lanes[k]), probabilities ? widen(loaded.p.lanes[k]) : C(0)};
  }
  __device__ __forceinline__ Element nothing() const { return {kMinusInfinity<C>, C(0)}; }

  __device__ __forceinline__ C weight_of(int64_t c) const { return weight ? widen(weight[c]) : C(1); }

  static constexpr int32_t kNoLabel = -1, kIgnored = -2;
  struct Row {
    int32_t label;  // or one of those
    C chosen;       // what q_label has beyond the smoothing
    __device__ __forceinline__ bool counts() const { return label != kIgnored; }
  };
  __device__ __forceinline__ Row row(int64_t r) const {
    if (probabilities) return {kNoLabel, C(0)};
    int64_t label = labels[r];
    if (label == ignore_index) return {kIgnored, C(0)};
    assert(label >= 0 && label < classes);  // torch's own kernel does no better without waiting for the GPU
    return {int32_t(label), weight_of(label) * kept};
  }
  __device__ __forceinline__ C q_of(const Row& row, const Element& e, int32_t c) const {
    if (probabilities) return (e.p * kept + smoothing) * weight_of(c);
    C q = c == row.label ? row.chosen : C(0);
    return smoothing != C(0) ? q + weight_of(c) * smoothing : q;
  }
};

// The statistics, the sum of q and that of q (x - largest), which only smoothing and probabilities need.
template <class C>
struct LossState : MaxSum<C> {
  C total = C(0), inside = C(0);

  // What was summed up with another largest, for the present one. Nothing was where no q was.
  __device__ __forceinline__ static C moved(C inside, C total, C by) {
    return total == C(0) ? inside : inside + total * by;
  }
  __device__ __forceinline__ void merge(const LossState& other) {
    C before = this->largest;
    MaxSum<C>::merge(other);
    inside =
        moved(inside, total, before - this->largest) + moved(other.inside, other.total, other.largest - this->largest);
    total += other.total;
  }
  template <class F>
  __device__ __forceinline__ void each(F f) {
    MaxSum<C>::each(f);
    f(total);
    f(inside);
  }
};

template <class S_>
struct Forward : Rows<S_> {
  using S = S_;
  using typename Rows<S>::C;
  using typename Rows<S>::Row;
  using typename Rows<S>::Element;
  static constexpr bool reduces = true;
  static constexpr int most_kept = 4;
  static constexpr int column_width =
      kPackWidth<S> < 4 ? kPackWidth<S> : 4;  // eight states would not fit into registers
  static constexpr S* y = nullptr;

  C* loss;
  Divisor inner;
  double* partial_sums;

  using State = LossState<C>;
  __device__ __forceinline__ bool by_label_alone() const { return !this->probabilities && this->smoothing == C(0); }

  template <int n>
  __device__ __forceinline__ void offer(State& state, const Row& row, const Element (&elements)[n],
                                        const int32_t (&classes)[n]) const {
    C logits[n], before = state.largest;
#pragma unroll
    for (int k = 0; k < n; ++k) logits[k] = elements[k].x;
    state.raise(logits);
#pragma unroll
    for (int k = 0; k < n; ++k) state.sum += math::exp_not_above_one(logits[k] - state.largest);
    if (by_label_alone()) return;
    state.inside = State::moved(state.inside, state.total, before - state.largest);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (classes[k] < 0) continue;
      C q = this->q_of(row, elements[k], classes[k]);
      state.total += q;
      state.inside += q * (logits[k] - state.largest);
    }
  }

  struct Result {};
  __device__ __forceinline__ Result result(int64_t r, const Row& row, const State& state, bool is_first,
                                           BlockSums& sums) const {
    if (!is_first) return {};
    C log = math::log(state.sum);
    this->largest[r] = state.largest;
    this->log_sum[r] = log;
    double of_row = 0;
    if (row.counts()) {
      of_row = double(state.total) * double(log) - double(state.inside);
      if (by_label_alone()) {
        Division place = divide(r, inner);
        int64_t at = (place.quotient * this->classes + row.label) * inner.number() + place.rest;
        of_row = double(row.chosen) * (double(log) - (double(widen(this->x[at])) - double(state.largest)));
      }
      sums.first += of_row;
      sums.second += this->probabilities ? 1.0 : double(this->weight_of(row.label));
    }
    if (this->reduction == Reduction::None) loss[r] = C(of_row);
    return {};
  }
  __device__ __forceinline__ C value(Result, const Element& e, int32_t) const { return e.x; }
};

struct NoState {};

template <class C, bool reduces>
struct StateOf {
  using type = NoState;
};
template <class C>
struct StateOf<C, true> {
  using type = Sum<C>;
};

// The sum of a row's q is known beforehand but for probabilities.
template <class S_, bool reduces_>
struct Backward : Rows<S_> {
  using S = S_;
  using typename Rows<S>::C;
  using typename Rows<S>::Row;
  using typename Rows<S>::Element;
  static constexpr bool reduces = reduces_;
  static constexpr int most_kept = 4;
  static constexpr int column_width =
      kPackWidth<S> < 4 ? kPackWidth<S> : 4;  // eight states would not fit into registers
  static constexpr double* partial_sums = nullptr;

  const C* grad;
  S* y;  // the gradient of x

  using State = typename StateOf<C, reduces>::type;

  template <int n>
  __device__ __forceinline__ void offer(State& state, const Row& row, const Element (&elements)[n],
                                        const int32_t (&classes)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k)
      if (classes[k] >= 0) state.sum += this->q_of(row, elements[k], classes[k]);
  }

  struct Result {
    Row row;
    math::CrossEntropyBackward<C> derive;
  };
  __device__ __forceinline__ Result result(int64_t r, const Row& row, const State& state, bool, BlockSums&) const {
    double of_row = grad[this->reduction == Reduction::None ? r : 0], total;
    if (this->reduction == Reduction::Mean) of_row /= double(*this->total_weight);
    if constexpr (reduces) {
      total = double(state.sum);
    } else {
      double weights = this->weight_sum ? *this->weight_sum : double(this->classes);
      total = double(row.chosen) + double(this->smoothing) * weights;
    }
    return {row, {this->largest[r], this->log_sum[r], C(of_row), C(of_row * total)}};
  }
  __device__ __forceinline__ C value(const Result& result, const Element& e, int32_t c) const {
    return result.row.counts() ? result.derive(e.x, this->q_of(result.row, e, c)) : C(0);
  }
};

// One block: the sums of `pairs` pairs of numbers, in a fixed order.
__device__ __forceinline__ BlockSums sum_of_pairs(const double* pairs, int64_t count) {
  BlockSums sums;
  for (int64_t i = threadIdx.x; i < count; i += kClassThreads) {
    sums.first += pairs[2 * i];
    sums.second += pairs[2 * i + 1];
  }
  return sums;
}

template <class C>
__global__ void __launch_bounds__(kClassThreads)
    reduce_losses_kernel(const double* pairs, int64_t count, Reduction reduction, C* loss, C* total_weight) {
  BlockSums sums = sums_of_block(sum_of_pairs(pairs, count));
  if (threadIdx.x != 0) return;
  *total_weight = C(sums.second);
  if (reduction != Reduction::None) *loss = C(reduction == Reduction::Mean ? sums.first / sums.second : sums.first);
}

template <class S>
__global__ void __launch_bounds__(kClassThreads) sum_weights_kernel(const S* weight, int64_t classes, double* sum) {
  BlockSums sums;
  for (int64_t c = threadIdx.x; c < classes; c += kClassThreads) sums.first += double(widen(weight[c]));
  sums = sums_of_block(sums);
  if (threadIdx.x == 0) *sum = sums.first;
}

template <class S>
const char* run(const CrossEntropyArgs& args, cudaStream_t stream) {
  using C = ComputeType<S>;
  const char* error = nullptr;
  double *weight_sum = nullptr, *pairs = args.partial_sums + 1;
  auto* weight = static_cast<const S*>(args.weight);
  if (weight && args.label_smoothing != 0) {
    weight_sum = args.partial_sums;
    error = launch_kernel(sum_weights_kernel<S>, 1, kClassThreads, stream, weight, args.classes, weight_sum);
    if (error) return error;
  }
  Rows<S> rows(args, weight_sum);
  auto* y = static_cast<S*>(args.y);
  bool aligned = are_aligned(rows.x, rows.probabilities, y);
  int64_t blocks = 0;
  auto over_rows = [&](const auto& body) {
    if (args.outer * args.inner == 0) return;
    error = reduce_classes(body, args.outer, args.classes, args.inner, aligned, blocks, stream);
  };
  if (args.grad) {
    auto* grad = static_cast<const C*>(args.grad);
    if (args.probabilities)
      over_rows(Backward<S, true>{rows, grad, y});
    else
      over_rows(Backward<S, false>{rows, grad, y});
    return error;
  }
  auto* loss = static_cast<C*>(args.loss);
  over_rows(Forward<S>{rows, loss, Divisor(most(args.inner, 1), args.outer * args.inner), pairs});
  if (error) return error;
  return launch_kernel(reduce_losses_kernel<C>, 1, kClassThreads, stream, static_cast<const double*>(pairs), blocks,
                       args.reduction, loss, static_cast<C*>(args.total_weight));
}

}  // namespace

int64_t scratch(const CrossEntropyArgs& args) { return 1 + class_scratch(args.outer, args.classes, args.inner); }

const char* launch(const CrossEntropyArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) { error = run<typename decltype(type)::type>(args, stream); });
  return error;
}

}  // namespace nnart::cuda

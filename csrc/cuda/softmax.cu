// Softmax and its logarithm: each row is read from memory once, kept in registers where it fits, and written once.
#include "cuda/classes.cuh"
#include "cuda/kernels.h"
#include "cuda/online.cuh"

namespace nnart::cuda {
namespace {

struct NoRow {};

template <class S_>
struct Forward {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr bool reduces = true;
  static constexpr int most_kept = 8;
  static constexpr int column_width = kPackWidth<S>;

  const S* x;
  S* y;
  bool log;
  static constexpr double* partial_sums = nullptr;

  template <int width>
  using Loaded = Pack<S, width>;
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i, Lanes lanes) const {
    return cuda::load<width>(x + i, lanes);
  }
  using Element = C;
  template <int width>
  __device__ __forceinline__ C element(const Loaded<width>& loaded, int k) const {
    return widen(loaded.lanes[k]);
  }
  __device__ __forceinline__ C nothing() const { return kMinusInfinity<C>; }

  __device__ __forceinline__ NoRow row(int64_t) const { return {}; }
  using State = MaxSum<C>;
  template <int n>
  __device__ __forceinline__ void offer(State& state, NoRow, const C (&elements)[n], const int32_t (&)[n]) const {
    state.raise(elements);
#pragma unroll
    for (int k = 0; k < n; ++k) state.sum += math::exp_not_above_one(elements[k] - state.largest);
  }

  struct Result {
    C largest, of_sum;
  };
  __device__ __forceinline__ Result result(int64_t, NoRow, const State& state, bool, BlockSums&) const {
    return {state.largest, log ? math::log(state.sum) : C(1) / state.sum};
  }
  __device__ __forceinline__ C value(const Result& row, C v, int32_t) const {
    if (log) return math::LogSoftmax<C>{row.largest, row.of_sum}(v);
    return math::Softmax<C>{row.largest, row.of_sum}(v);
  }
};

template <class S_>
struct Backward {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr bool reduces = true;
  static constexpr int most_kept = 4;
  static constexpr int column_width = kPackWidth<S>;

  const S *saved, *grad_y;
  S* y;  // the gradient of x
  bool log;
  static constexpr double* partial_sums = nullptr;

  template <int width>
  struct Loaded {
    Pack<S, width> saved, grad;
  };
  template <int width>
  __device__ __forceinline__ Loaded<width> load(int64_t i, Lanes lanes) const {
    return {cuda::load<width>(saved + i, lanes), cuda::load<width>(grad_y + i, lanes)};
  }
  struct Element {
    C saved, grad;
  };
  template <int width>
  __device__ __forceinline__ Element element(const Loaded<width>& loaded, int k) const {
    return {widen(loaded.saved.lanes[k]), widen(loaded.grad.lanes[k])};
  }
  __device__ __forceinline__ Element nothing() const { return {C(0), C(0)}; }

  __device__ __forceinline__ NoRow row(int64_t) const { return {}; }
  using State = Sum<C>;
  template <int n>
  __device__ __forceinline__ void offer(State& state, NoRow, const Element (&elements)[n], const int32_t (&)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k)
      state.sum += log ? math::LogSoftmaxBackward<C>::term(elements[k].grad, elements[k].saved)
                       : math::SoftmaxBackward<C>::term(elements[k].grad, elements[k].saved);
  }
  __device__ __forceinline__ C result(int64_t, NoRow, const State& state, bool, BlockSums&) const { return state.sum; }
  __device__ __forceinline__ C value(C sum, const Element& e, int32_t) const {
    return log ? math::LogSoftmaxBackward<C>{sum}(e.grad, e.saved) : math::SoftmaxBackward<C>{sum}(e.grad, e.saved);
  }
};

}  // namespace

const char* launch(const SoftmaxArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto *x = static_cast<const S*>(args.x), *grad_y = static_cast<const S*>(args.grad_y);
    auto* y = static_cast<S*>(args.y);
    int64_t blocks = 0;
    auto run = [&](const auto& body) {
      error = reduce_classes(body, args.outer, args.classes, args.inner, are_aligned(x, grad_y, y), blocks, stream);
    };
    if (grad_y)
      run(Backward<S>{x, grad_y, y, args.log});
    else
      run(Forward<S>{x, y, args.log});
  });
  return error;
}

}  // namespace nnart::cuda

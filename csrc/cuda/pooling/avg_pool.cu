// Average pooling and its gradient.
#include "cuda/classes.cuh"
#include "cuda/kernels.h"
#include "cuda/online.cuh"
#include "cuda/pooling/backward.cuh"

namespace nnart::cuda {
namespace {

// What an output's sum, or its gradient, is multiplied with.
template <class C>
struct Share {
  bool count_include_pad;
  int64_t divisor;

  template <class I>
  __device__ __forceinline__ C of(const Windows<I>& windows, const Window<I>& at) const {
    if (divisor) return C(1) / C(divisor);
    return C(1) / C(taps(windows.d, at.od) * taps(windows.h, at.oh) * taps(windows.w, at.ow));
  }

 private:
  template <class Axis, class I>
  __device__ __forceinline__ int64_t taps(const Axis& axis, I o) const {
    return count_include_pad ? axis.padded_taps(o) : axis.end_tap(o) - axis.first_tap(o);
  }
};

template <class S_, int width>
struct Forward {
  using S = S_;
  using C = ComputeType<S>;
  const S* x;
  S* y;
  Share<C> share;

  struct State {
    C sum[width] = {};
  };
  __device__ __forceinline__ State begin(int32_t) const { return {}; }
  __device__ __forceinline__ void offer(State& state, const Pack<S, width>& elements, int32_t) const {
#pragma unroll
    for (int k = 0; k < width; ++k) state.sum[k] += widen(elements.lanes[k]);
  }
  template <class I>
  __device__ __forceinline__ void write(int64_t output, const State& state, const Windows<I>& windows,
                                        const Window<I>& at) const {
    C factor = share.of(windows, at);
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, state.sum[k] * factor);
    store(y + output, out);
  }
};

// Of whole planes: the "classes" of a row.
template <class S_>
struct PlaneForward {
  using S = S_;
  using C = ComputeType<S>;
  static constexpr bool reduces = true;
  static constexpr int most_kept = 4;
  static constexpr int column_width = kPackWidth<S>;
  static constexpr S* y = nullptr;
  static constexpr double* partial_sums = nullptr;

  const S* x;
  S* average;
  C share;

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
  __device__ __forceinline__ C nothing() const { return C(0); }
  struct Row {};
  __device__ __forceinline__ Row row(int64_t) const { return {}; }
  using State = Sum<C>;
  template <int n>
  __device__ __forceinline__ void offer(State& state, Row, const C (&elements)[n], const int32_t (&)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k) state.sum += elements[k];
  }
  __device__ __forceinline__ Row result(int64_t r, Row, const State& state, bool is_first, BlockSums&) const {
    if (is_first) average[r] = narrow(Type<S>{}, state.sum * share);
    return {};
  }
  __device__ __forceinline__ C value(Row, C, int32_t) const { return C(0); }
};

template <class S_, int width>
struct Backward {
  using S = S_;
  using C = ComputeType<S>;
  const S* grad_y;
  S* grad_x;
  Share<C> share;

  template <class I>
  __device__ __forceinline__ void gather(Gathered<C, width>& sums, int64_t output, int32_t, const Windows<I>& windows,
                                         const Window<I>& at) const {
    C factor = share.of(windows, at);
    auto grad = load<width>(grad_y + output);
#pragma unroll
    for (int k = 0; k < width; ++k) sums.lanes[k] += widen(grad.lanes[k]) * factor;
  }
  template <class I>
  __device__ __forceinline__ void gather_line(Gathered<C, width>& sums, int64_t output, int32_t, int32_t place,
                                              const Windows<I>& windows, const Window<I>& at) const {
    C grad = widen(grad_y[output]) * share.of(windows, at);
    I end = windows.w.end_tap(at.ow);
#pragma unroll
    for (int k = 0; k < width; ++k)
      if (k >= place && k < place + end) sums.lanes[k] += grad;
  }
};

}  // namespace

const char* launch(const AvgPoolArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  const PoolShape& shape = args.shape;
  with_dtype(shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    Share<C> share{args.count_include_pad, args.divisor};
    bool aligned = are_aligned(x, y);
    if (args.backward) {
      auto make = [&](auto width) { return Backward<S, width.value>{x, y, share}; };
      error = gather<S>(shape, aligned, make, stream);
    } else if (is_whole_plane(shape)) {
      int64_t inputs = plane_inputs(shape), blocks = 0, inner = shape.channels_last ? shape.channels : 1;
      PlaneForward<S> body{x, y, C(1) / C(args.divisor ? args.divisor : inputs)};
      error = reduce_classes(body, shape.batch * shape.channels / inner, inputs, inner, aligned, blocks, stream);
    } else {
      auto make = [&](auto width) { return Forward<S, width.value>{x, y, share}; };
      error = pool<S>(shape, aligned, make, stream);
    }
  });
  return error;
}

}  // namespace nnart::cuda

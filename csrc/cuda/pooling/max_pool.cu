// Max pooling: values with the places of the maxima in their windows, and the gradient that goes back to those places.
#include "cuda/classes.cuh"
#include "cuda/kernels.h"
#include "cuda/online.cuh"
#include "cuda/pooling/backward.cuh"

namespace nnart::cuda {
namespace {

// Offsets of 1, 2 or 4 bytes, or of 0 where nobody wants them. How many is asked for each access: kernels would
// otherwise be compiled four times.
struct Offsets {
  void* data;
  int32_t bytes;

  explicit Offsets(const PoolShape& shape, const void* data)
      : data(const_cast<void*>(data)), bytes(data ? pool_offset_bytes(shape) : 0) {}

  template <int width>
  __device__ __forceinline__ void write(int64_t i, const int32_t (&taps)[width]) const {
    if (bytes == 1) write_as<uint8_t>(i, taps);
    if (bytes == 2) write_as<uint16_t>(i, taps);
    if (bytes == 4) write_as<int32_t>(i, taps);
  }
  template <int width>
  __device__ __forceinline__ void read(int64_t i, int32_t (&taps)[width]) const {
    if (bytes == 1) read_as<uint8_t>(i, taps);
    if (bytes == 2) read_as<uint16_t>(i, taps);
    if (bytes == 4) read_as<int32_t>(i, taps);
  }

 private:
  template <class O, int width>
  __device__ __forceinline__ void write_as(int64_t i, const int32_t (&taps)[width]) const {
    Pack<O, width> pack;
#pragma unroll
    for (int k = 0; k < width; ++k) pack.lanes[k] = O(taps[k]);
    store(static_cast<O*>(data) + i, pack);
  }
  template <class O, int width>
  __device__ __forceinline__ void read_as(int64_t i, int32_t (&taps)[width]) const {
    auto pack = load<width>(static_cast<const O*>(data) + i);
#pragma unroll
    for (int k = 0; k < width; ++k) taps[k] = int32_t(pack.lanes[k]);
  }
};

template <class S_, int width>
struct Forward {
  using S = S_;
  using C = ComputeType<S>;
  const S* x;
  S* y;
  Offsets offsets;

  struct State {
    C best[width];
    int32_t tap[width];
  };
  __device__ __forceinline__ State begin(int32_t first_tap) const {
    State state;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      state.best[k] = kMinusInfinity<C>;
      state.tap[k] = first_tap;
    }
    return state;
  }
  __device__ __forceinline__ void offer(State& state, const Pack<S, width>& elements, int32_t tap) const {
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C v = widen(elements.lanes[k]);
      bool taken = math::Max().replaces(v, state.best[k]);
      state.best[k] = taken ? v : state.best[k];
      state.tap[k] = taken ? tap : state.tap[k];
    }
  }
  template <class I>
  __device__ __forceinline__ void write(int64_t output, const State& state, const Windows<I>&, const Window<I>&) const {
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, state.best[k]);
    store(y + output, out);
    offsets.write(output, state.tap);
  }
};

// Which of two maxima of parts of a window is that of both: ties keep the first element and NaNs the last.
template <class C>
struct Best {
  static constexpr int32_t kNone = 0x7fffffff;
  C best = kMinusInfinity<C>;
  int32_t tap = kNone;

  __device__ __forceinline__ void merge(const Best& other) {
    bool is_nan = best != best, other_is_nan = other.best != other.best;
    bool is_more = other.best > best || (other.best == best && other.tap < tap);
    bool taken = other_is_nan ? !is_nan || other.tap > tap : !is_nan && is_more;
    best = taken ? other.best : best;
    tap = taken ? other.tap : tap;
  }
  template <class F>
  __device__ __forceinline__ void each(F f) {
    f(best);
    f(tap);
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
  S* largest;
  Offsets offsets;

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
  struct Row {};
  __device__ __forceinline__ Row row(int64_t) const { return {}; }
  using State = Best<C>;
  template <int n>
  __device__ __forceinline__ void offer(State& state, Row, const C (&elements)[n], const int32_t (&taps)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      bool taken = math::Max().replaces(elements[k], state.best);
      state.best = taken ? elements[k] : state.best;
      state.tap = taken ? taps[k] : state.tap;
    }
  }
  __device__ __forceinline__ Row result(int64_t r, Row, const State& state, bool is_first, BlockSums&) const {
    if (!is_first) return {};
    largest[r] = narrow(Type<S>{}, state.best);
    int32_t tap[1] = {state.tap == State::kNone ? 0 : state.tap};
    offsets.write(r, tap);
    return {};
  }
  __device__ __forceinline__ C value(Row, C, int32_t) const { return C(0); }
};

template <class S_, int width>
struct Backward {
  using S = S_;
  using C = ComputeType<S>;
  const S* grad_y;
  Offsets offsets;
  S* grad_x;

  template <class I>
  __device__ __forceinline__ void gather(Gathered<C, width>& sums, int64_t output, int32_t tap, const Windows<I>&,
                                         const Window<I>&) const {
    int32_t taps[width];
    offsets.read(output, taps);
    auto grad = load<width>(grad_y + output);
#pragma unroll
    for (int k = 0; k < width; ++k)
      if (taps[k] == tap) sums.lanes[k] += widen(grad.lanes[k]);
  }
  template <class I>
  __device__ __forceinline__ void gather_line(Gathered<C, width>& sums, int64_t output, int32_t line_tap, int32_t place,
                                              const Windows<I>& windows, const Window<I>&) const {
    int32_t tap[1];
    offsets.read(output, tap);
    int32_t kw = tap[0] - line_tap;
    if (kw < 0 || kw >= int32_t(windows.w.kernel)) return;
    C grad = widen(grad_y[output]);
    place += kw * int32_t(windows.w.dilation);
#pragma unroll
    for (int k = 0; k < width; ++k)
      if (k == place) sums.lanes[k] += grad;
  }
};

template <class I>
__global__ void __launch_bounds__(kPoolThreads)
    indices_kernel(Offsets offsets, int64_t* indices, Windows<I> windows, Places<I> places) {
  int64_t o = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (o >= places.count) return;
  auto rest = I(o);
  take(rest, places.packs);
  I ow = take(rest, places.columns), oh = take(rest, places.rows), od = take(rest, places.depth);
  int32_t tap[1];
  offsets.read(o, tap);
  const auto &d = windows.d, &h = windows.h, &w = windows.w;
  I kw = I(uint32_t(tap[0])), kh = kw / w.kernel;
  kw -= kh * w.kernel;
  I kd = kh / h.kernel;
  kh -= kd * h.kernel;
  int64_t id = d.start(od) + kd * d.dilation, ih = h.start(oh) + kh * h.dilation, iw = w.start(ow) + kw * w.dilation;
  indices[o] = (id * h.in + ih) * w.in + iw;
}

}  // namespace

const char* launch(const MaxPoolArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  const PoolShape& shape = args.shape;
  Offsets offsets(shape, args.offsets);
  with_dtype(shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    bool aligned = are_aligned(x, y, args.offsets);
    if (is_whole_plane(shape) && plane_inputs(shape) < Best<float>::kNone) {
      int64_t blocks = 0, inner = shape.channels_last ? shape.channels : 1;
      error = reduce_classes(PlaneForward<S>{x, y, offsets}, shape.batch * shape.channels / inner, plane_inputs(shape),
                             inner, aligned, blocks, stream);
    } else {
      auto make = [&](auto width) { return Forward<S, width.value>{x, y, offsets}; };
      error = pool<S>(shape, aligned, make, stream);
    }
  });
  return error;
}

const char* launch(const MaxPoolBackwardArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  Offsets offsets(args.shape, args.offsets);
  with_dtype(args.shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto* grad_y = static_cast<const S*>(args.grad_y);
    auto* grad_x = static_cast<S*>(args.grad_x);
    auto make = [&](auto width) { return Backward<S, width.value>{grad_y, offsets, grad_x}; };
    error = gather<S>(args.shape, are_aligned(grad_y, args.offsets, grad_x), make, stream);
  });
  return error;
}

const char* launch(const MaxPoolIndicesArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_positions(args.shape, [&](auto position) {
    using I = typename decltype(position)::type;
    using N = Number<I>;
    Windows<I> windows(args.shape);
    int64_t lines = I(windows.h.out), columns = I(windows.w.out), depth = I(windows.d.out);
    Places<I> places{N(windows.channels), N(columns), N(lines), N(depth),
                     windows.images * depth * lines * columns * windows.channels};
    error = launch_kernel(indices_kernel<I>, ceil_div(places.count, kPoolThreads), kPoolThreads, stream,
                          Offsets(args.shape, args.offsets), args.indices, windows, places);
  });
  return error;
}

}  // namespace nnart::cuda

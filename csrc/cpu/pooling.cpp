// Max pooling. Contiguous planes are pooled many outputs of a row at a time, channels-last images many channels at a
// time.
#include "math/pooling.h"

#include <cstdlib>
#include <type_traits>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

using math::Axis;

// Elements of x below which a thread does not pay for its wake-up.
constexpr int64_t kPoolGrain = 32768;
// Channels that one task of the channels-last backward takes: two cache lines of 16-bit elements or more.
constexpr int64_t kChannelBlock = 64;

NNART_HD int64_t grain_of(int64_t elements_per_item) { return most(1, kPoolGrain / most(1, elements_per_item)); }

struct Range {
  int64_t begin, end;
};

// The taps of output o that lie inside the input.
NNART_HD Range taps(const Axis& axis, int64_t o) {
  int64_t start = axis.source(o, 0);
  int64_t begin = start >= 0 ? 0 : ceil_div(-start, axis.dilation);
  int64_t end = start >= axis.in ? begin : least(axis.kernel, (axis.in - 1 - start) / axis.dilation + 1);
  return {begin, end};
}

// The outputs all of whose taps lie inside the input.
NNART_HD Range interior(const Axis& axis) {
  int64_t last = axis.in - 1 - (axis.kernel - 1) * axis.dilation + axis.pad;
  int64_t end = last < 0 ? 0 : least(axis.out, last / axis.stride + 1);
  return {least(ceil_div(axis.pad, axis.stride), end), end};
}

// Whether no input belongs to two windows.
NNART_HD bool disjoint(const Axis& axis) { return axis.stride > (axis.kernel - 1) * axis.dilation; }

NNART_HD bool is_halving(const Axis& axis) {
  return axis.kernel == 2 && axis.stride == 2 && axis.pad == 0 && axis.dilation == 1 && axis.out * 2 <= axis.in;
}

// ---- vectors ------------------------------------------------------------------------------------------------------

template <class C>
constexpr int64_t kWidth = Vec<C>::size;

template <class C>
using IndexVec = RawVec<Bits<C>>;

template <class C>
NNART_HD IndexVec<C> lane_numbers() {
  IndexVec<C> lanes;
  for (int i = 0; i < kWidth<C>; ++i) lanes[i] = i;
  return lanes;
}

// Lane i of the result is lane 2 i of a and b laid end to end.
template <class C>
NNART_HD Vec<C> even_lanes(Vec<C> a, Vec<C> b) {
  return Vec<C>(__builtin_shuffle(a.v, b.v, lane_numbers<C>() * 2));
}

// Loads a whole vector where the memory before end allows it: lanes past a row's last output are computed and thrown
// away.
template <class S>
NNART_HD Vec<ComputeType<S>> load_before(const S* p, const S* end) {
  constexpr int64_t width = kWidth<ComputeType<S>>;
  if (end - p >= width) return load(p);
  return load_partial(p, most(0, end - p));
}

// Stores a whole vector where the memory before end allows it: what it spills past a row's last output is overwritten
// when the next row, which the same thread computes later, is stored.
template <class S>
NNART_HD void store_before(S* p, S* end, Vec<ComputeType<S>> x) {
  constexpr int64_t width = kWidth<ComputeType<S>>;
  if (end - p >= width)
    store(p, x);
  else
    store_partial(p, x, end - p);
}

template <class C>
using WideIndexVec __attribute__((vector_size(kVectorBytes / sizeof(C) * 8))) = int64_t;

template <class C>
NNART_HD void store_index_before(int64_t* p, int64_t* end, const IndexVec<C>& index) {
  int64_t count = least(kWidth<C>, end - p);
  if constexpr (sizeof(C) == 8) {
    std::memcpy(p, &index, size_t(count) * 8);
  } else {
    WideIndexVec<C> wide = __builtin_convertvector(index, WideIndexVec<C>);
    if (count == kWidth<C>)
      std::memcpy(p, &wide, sizeof wide);
    else
      std::memcpy(p, &wide, size_t(count) * 8);
  }
}

template <class C>
NNART_HD IndexVec<C> load_index_before(const int64_t* p, const int64_t* end) {
  WideIndexVec<C> wide{};
  if (end - p >= kWidth<C>)
    std::memcpy(&wide, p, sizeof wide);
  else
    std::memcpy(&wide, p, size_t(end - p) * 8);
  if constexpr (sizeof(C) == 8)
    return reinterpret_cast<IndexVec<C>>(wide);
  else
    return __builtin_convertvector(wide, IndexVec<C>);
}

// W elements p[0], p[stride], ...; constant is stride where the compiler knows it, else 0.
template <int constant, class S>
NNART_HD Vec<ComputeType<S>> load_strided(const S* p, int64_t stride, const S* end) {
  using C = ComputeType<S>;
  if constexpr (constant == 1) {
    return load_before(p, end);
  } else if constexpr (constant == 2) {
    return even_lanes(load_before(p, end), load_before(p + kWidth<C>, end));
  } else {
    S lanes[kWidth<C>];
    for (int64_t i = 0; i < kWidth<C>; ++i) lanes[i] = p + i * stride < end ? p[i * stride] : *p;
    return load(lanes);
  }
}

template <class S>
NNART_HD ComputeType<S> load_one(const S* p) {
  if constexpr (std::is_same_v<S, BFloat16>) return __builtin_bit_cast(float, uint32_t(p->bits) << 16);
#if defined(__F16C__)
  else if constexpr (std::is_same_v<S, Float16>)
    return _cvtsh_ss(p->bits);
#endif
  else if constexpr (sizeof(S) == 2)
    return load_partial(p, 1).v[0];
  else
    return *p;
}

// ---- forward ------------------------------------------------------------------------------------------------------

// The largest elements seen so far and, if wanted, where in their planes they stand.
template <class C, bool with_index>
struct Best {
  Vec<C> value;
  IndexVec<C> index;

  NNART_HD void offer(Vec<C> x, IndexVec<C> at) {
    auto taken = math::Max().replaces(x, value);
    value = select(taken, x, value);
    if constexpr (with_index) index = taken.v ? at : index;
  }
};

template <class S, bool with_index>
struct Forward {
  using C = ComputeType<S>;
  using Index = Bits<C>;
  static constexpr int64_t width = kWidth<C>;

  const MaxPoolArgs& args;
  const S* x = static_cast<const S*>(args.x);
  const S* x_end = x + args.batch * args.channels * args.h.in * args.w.in;
  S* y = static_cast<S*>(args.y);

  // One output, for windows that are partly padding.
  NNART_HD void one(const S* plane, int64_t oh, int64_t ow, int64_t out) const {
    Range rows = taps(args.h, oh), columns = taps(args.w, ow);
    C best = -__builtin_inf();
    int64_t index = args.h.source(oh, rows.begin) * args.w.in + args.w.source(ow, columns.begin);
    for (int64_t kh = rows.begin; kh < rows.end; ++kh)
      for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
        int64_t at = args.h.source(oh, kh) * args.w.in + args.w.source(ow, kw);
        C value = load_one(plane + at);
        if (math::Max().replaces(value, best)) {
          best = value;
          index = at;
        }
      }
    Vec<C> lanes{};
    lanes.v[0] = best;
    store_partial(y + out, lanes, 1);
    if constexpr (with_index) args.indices[out] = index;
  }

  // The outputs [begin, end) of one row, none of whose windows is cut by the left or right edge.
  template <int stride, int kernel>
  NNART_HD void row(const S* plane, int64_t oh, int64_t begin, int64_t end, int64_t row_out, int64_t out_end) const {
    const Axis &h = args.h, &w = args.w;
    Range rows = taps(h, oh);
    int64_t columns = kernel ? kernel : w.kernel;
    int64_t row_begin = kernel ? 0 : rows.begin, row_end = kernel ? kernel : rows.end;
    IndexVec<C> steps = lane_numbers<C>() * Index(w.stride);
    for (int64_t ow = begin; ow < end; ow += width) {
      int64_t start = h.source(oh, row_begin) * w.in + w.source(ow, 0);
      Best<C, with_index> best{Vec<C>(-__builtin_inf()), steps + Index(start)};
      for (int64_t kh = row_begin; kh < row_end; ++kh, start += h.dilation * w.in)
        for (int64_t kw = 0; kw < columns; ++kw) {
          int64_t at = start + kw * w.dilation;
          best.offer(load_strided<stride>(plane + at, w.stride, x_end), steps + Index(at));
        }
      store_before(y + row_out + ow, y + out_end, best.value);
      if constexpr (with_index) store_index_before<C>(args.indices + row_out + ow, args.indices + out_end, best.index);
    }
  }

  template <int stride, int kernel>
  NNART_HD void planes() const {
    int64_t in = args.h.in * args.w.in, out = args.h.out * args.w.out;
    Range inside = interior(args.w);
    parallel_for(args.batch * args.channels, grain_of(in), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        for (int64_t oh = 0; oh < args.h.out; ++oh) {
          int64_t row_out = p * out + oh * args.w.out;
          for (int64_t ow = 0; ow < inside.begin; ++ow) one(x + p * in, oh, ow, row_out + ow);
          row<stride, kernel>(x + p * in, oh, inside.begin, inside.end, row_out, last * out);
          for (int64_t ow = inside.end; ow < args.w.out; ++ow) one(x + p * in, oh, ow, row_out + ow);
        }
    });
  }

  NNART_HD void channels_last() const {
    const Axis &h = args.h, &w = args.w;
    int64_t channels = args.channels;
    parallel_for(args.batch * h.out, grain_of(w.in * channels * h.stride), [&](int64_t first, int64_t last) {
      int64_t out_end = last * w.out * channels;
      for (int64_t r = first; r < last; ++r) {
        const S* image = x + r / h.out * h.in * w.in * channels;
        int64_t oh = r % h.out;
        Range rows = taps(h, oh);
        for (int64_t ow = 0; ow < w.out; ++ow) {
          Range columns = taps(w, ow);
          int64_t out = (r * w.out + ow) * channels;
          int64_t start = h.source(oh, rows.begin) * w.in + w.source(ow, columns.begin);
          for (int64_t c = 0; c < channels; c += width) {
            Best<C, with_index> best{Vec<C>(-__builtin_inf()), IndexVec<C>{} + Index(start)};
            for (int64_t kh = rows.begin; kh < rows.end; ++kh)
              for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
                int64_t at = h.source(oh, kh) * w.in + w.source(ow, kw);
                best.offer(load_before(image + at * channels + c, x_end), IndexVec<C>{} + Index(at));
              }
            store_before(y + out + c, y + out_end, best.value);
            if constexpr (with_index) store_index_before<C>(args.indices + out + c, args.indices + out_end, best.index);
          }
        }
      }
    });
  }

  NNART_HD void run() const {
    if (args.channels_last) return channels_last();
    if (is_halving(args.h) && is_halving(args.w)) return planes<2, 2>();
    if (args.w.stride == 1) return planes<1, 0>();
    if (args.w.stride == 2) return planes<2, 0>();
    planes<0, 0>();
  }
};

// ---- backward -----------------------------------------------------------------------------------------------------

// Memory of one task: sums in the compute type, where the storage type would round each of several additions.
template <class T>
struct Scratch {
  T* data;
  explicit Scratch(int64_t n) : data(n ? static_cast<T*>(std::malloc(size_t(n) * sizeof(T))) : nullptr) {
    if (n && !data) std::abort();
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
};

template <class S>
struct Backward {
  using C = ComputeType<S>;
  using Index = Bits<C>;
  static constexpr bool kSumsInPlace = sizeof(S) == sizeof(C);
  static constexpr int64_t width = kWidth<C>;

  const MaxPoolBackwardArgs& args;
  const S* grad_y = static_cast<const S*>(args.grad_y);
  S* grad_x = static_cast<S*>(args.grad_x);
  int64_t in = args.h.in * args.w.in, out = args.h.out * args.w.out;

  NNART_HD void clear(int64_t begin, int64_t end) const {
    std::memset(static_cast<void*>(grad_x + begin), 0, size_t(end - begin) * sizeof(S));
  }

  NNART_HD void disjoint_planes() const {
    parallel_for(args.batch * args.channels, grain_of(in), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        clear(p * in, (p + 1) * in);
        for (int64_t i = p * out; i < (p + 1) * out; ++i)
          if (uint64_t(args.indices[i]) < uint64_t(in)) grad_x[p * in + args.indices[i]] = grad_y[i];
      }
    });
  }

  // An input's gradients are added in the order of the outputs: in place, or in scratch where storage would round.
  NNART_HD void overlapping_planes() const {
    parallel_for(args.batch * args.channels, grain_of(in), [&](int64_t first, int64_t last) {
      Scratch<C> scratch(kSumsInPlace ? 0 : in);
      for (int64_t p = first; p < last; ++p) {
        C* sums = scratch.data;
        if constexpr (kSumsInPlace) sums = grad_x + p * in;
        std::memset(sums, 0, size_t(in) * sizeof(C));
        for (int64_t i = p * out; i < (p + 1) * out; ++i)
          if (uint64_t(args.indices[i]) < uint64_t(in)) sums[args.indices[i]] += load_one(grad_y + i);
        if constexpr (!kSumsInPlace) copy_out(sums, grad_x + p * in, in);
      }
    });
  }

  NNART_HD static void copy_out(const C* sums, S* target, int64_t n) {
    int64_t i = 0;
    for (; i + width <= n; i += width) store(target + i, load(sums + i));
    if (i < n) store_partial(target + i, load_partial(sums + i, n - i), n - i);
  }

  // Of a channels-last image, the channels [begin, begin + count).
  NNART_HD void disjoint_channels(int64_t image, int64_t begin, int64_t count) const {
    const Axis &h = args.h, &w = args.w;
    int64_t channels = args.channels;
    S* target = grad_x + image * in * channels + begin;
    for (int64_t i = 0; i < in; ++i)
      std::memset(static_cast<void*>(target + i * channels), 0, size_t(count) * sizeof(S));
    for (int64_t oh = 0; oh < h.out; ++oh)
      for (int64_t ow = 0; ow < w.out; ++ow) {
        int64_t from = (image * out + oh * w.out + ow) * channels + begin;
        Range rows = taps(h, oh), columns = taps(w, ow);
        for (int64_t c = 0; c < count; c += width) {
          int64_t lanes = least(width, count - c);
          Vec<C> grad = load_before(grad_y + from + c, grad_y + from + count);
          IndexVec<C> index = load_index_before<C>(args.indices + from + c, args.indices + from + count);
          for (int64_t kh = rows.begin; kh < rows.end; ++kh)
            for (int64_t kw = columns.begin; kw < columns.end; ++kw) {
              int64_t at = h.source(oh, kh) * w.in + w.source(ow, kw);
              Vec<C> mine = select(Mask<C>{index == IndexVec<C>{} + Index(at)}, grad, Vec<C>(0));
              store_before(target + at * channels + c, target + at * channels + c + lanes, mine);
            }
        }
      }
  }

  NNART_HD void overlapping_channels(int64_t image, int64_t begin, int64_t count, C* scratch) const {
    int64_t channels = args.channels, pitch = kSumsInPlace ? channels : count;
    S* target = grad_x + image * in * channels + begin;
    C* sums = scratch;
    if constexpr (kSumsInPlace) sums = target;
    for (int64_t i = 0; i < in; ++i) std::memset(sums + i * pitch, 0, size_t(count) * sizeof(C));
    for (int64_t o = 0; o < out; ++o)
      for (int64_t c = 0; c < count; ++c) {
        int64_t from = (image * out + o) * channels + begin + c;
        if (uint64_t(args.indices[from]) < uint64_t(in))
          sums[args.indices[from] * pitch + c] += load_one(grad_y + from);
      }
    if constexpr (!kSumsInPlace)
      for (int64_t i = 0; i < in; ++i) copy_out(sums + i * pitch, target + i * channels, count);
  }

  NNART_HD void channels_last(bool windows_are_disjoint) const {
    int64_t blocks = (args.channels + kChannelBlock - 1) / kChannelBlock;
    int64_t block = least(args.channels, kChannelBlock);
    parallel_for(args.batch * blocks, grain_of(in * block), [&](int64_t first, int64_t last) {
      Scratch<C> sums(windows_are_disjoint || kSumsInPlace ? 0 : in * block);
      for (int64_t item = first; item < last; ++item) {
        int64_t begin = item % blocks * block, count = least(block, args.channels - begin);
        if (windows_are_disjoint)
          disjoint_channels(item / blocks, begin, count);
        else
          overlapping_channels(item / blocks, begin, count, sums.data);
      }
    });
  }

  NNART_HD void run() const {
    bool apart = disjoint(args.h) && disjoint(args.w);
    if (args.channels_last) return channels_last(apart);
    if (apart) return disjoint_planes();
    overlapping_planes();
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaxPoolArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (args.indices)
      Forward<S, true>{args}.run();
    else
      Forward<S, false>{args}.run();
  });
}

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaxPoolBackwardArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    Backward<S>{args}.run();
  });
}

}  // namespace nnart::cpu

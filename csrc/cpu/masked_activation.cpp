// Activations whose derivative takes two values: the forward leaves one bit an element, from which the backward goes.
#include "cpu/kernels.h"
#include "cpu/map.h"

namespace nnart::cpu {
namespace {

// Elements whose bits are a word.
constexpr int64_t kWord = 64;

// Bit k for lane k.
template <class T>
NNART_HD uint64_t bits_of(Mask<T> mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return uint64_t(_mm512_movepi32_mask(reinterpret_cast<__m512i>(mask.v)));
  else
    return uint64_t(_mm512_movepi64_mask(reinterpret_cast<__m512i>(mask.v)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm256_movemask_ps(reinterpret_cast<__m256>(mask.v)));
  else
    return uint32_t(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask.v)));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm_movemask_ps(reinterpret_cast<__m128>(mask.v)));
  else
    return uint32_t(_mm_movemask_pd(reinterpret_cast<__m128d>(mask.v)));
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < Vec<T>::size; ++lane) bits |= uint64_t(mask.v[lane] & 1) << lane;
  return bits;
#endif
}

// The lanes whose bit, lane k's being bit k, is set.
template <class T>
NNART_HD Mask<T> lanes_of(uint64_t bits) {
  using Raw = RawVec<Bits<T>>;
  Raw own = (Raw{} + 1) << lane_numbers<T>();
  return {((Raw{} + Bits<T>(bits)) & own) != 0};
}

// Calls body(i, count) for the vectors of [0, n), of which the last has count lanes.
template <class V, class Body>
NNART_HD void each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + V::size <= n; i += V::size) body(i, V::size);
  if (i < n) body(i, n - i);
}

template <class S, class F>
NNART_HD void forward(const MaskedActivationArgs& args, F activation, int64_t begin, int64_t n) {
  using V = Vec<ComputeType<S>>;
  auto* x = static_cast<const S*>(args.x) + begin;
  auto* y = static_cast<S*>(args.y) + begin;
  V low(slopes_of(args.activation, args.parameters).low);
  bool from_output = saves_output(args.activation);
  uint64_t word = 0;
  each_vector<V>(n, [&](int64_t i, int64_t count) {
    V in = count == V::size ? load_streaming(x + i) : load_partial(x + i, count), out = activation.forward(in);
    V slope = activation.backward(V(1), from_output ? out : in);
    if (count == V::size)
      store_streaming(y + i, out);
    else
      store_partial(y + i, out, count);
    word |= bits_of(Mask<ComputeType<S>>(slope != low)) << (i % kWord);
    if (i + count < n && (i + count) % kWord != 0) return;
    std::memcpy(args.mask + (begin + i) / kWord * 8, &word, size_t(ceil_div(i % kWord + count, 8)));
    word = 0;
  });
}

// Where a slope is zero so is the gradient, whatever grad_y is.
template <class S, class Grad>
NNART_HD void backward(const MaskedActivationArgs& args, int64_t begin, int64_t n, Grad grad_y) {
  using V = Vec<ComputeType<S>>;
  auto* grad_x = static_cast<S*>(args.y) + begin;
  Slopes slopes = slopes_of(args.activation, args.parameters);
  V low(slopes.low), high(slopes.high);
  uint64_t word = 0;
  each_vector<V>(n, [&](int64_t i, int64_t count) {
    if (i % kWord == 0) std::memcpy(&word, args.mask + (begin + i) / 8, size_t(least(8, ceil_div(n - i, 8))));
    V grad((count == V::size ? grad_y.at(i) : grad_y.partial(i, count)).v);
    V otherwise = slopes.low == 0 ? V(0) : grad * low;
    V result = select(lanes_of<ComputeType<S>>(word >> (i % kWord)), grad * high, otherwise);
    if (count == V::size)
      store_streaming(grad_x + i, result);
    else
      store_partial(grad_x + i, result, count);
  });
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaskedActivationArgs& args) {
  static_assert(kMapBlock % kWord == 0);  // no two threads write into one word
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto blocks = [&](const auto& body) {
      parallel_for(ceil_div(args.n, kMapBlock), kMapGrainBlocks, [&](int64_t first, int64_t last) {
        body(first * kMapBlock, least(last * kMapBlock, args.n) - first * kMapBlock);
      });
    };
    if (args.grad_y) {
      auto* grad_y = static_cast<const S*>(args.grad_y);
      return blocks([&](int64_t begin, int64_t n) {
        if (args.grad_y_is_one_value)
          backward<S>(args, begin, n, OneValue<S>(grad_y));
        else
          backward<S>(args, begin, n, Elements<S>{grad_y + begin});
      });
    }
    with_two_slopes<ComputeType<S>>(args.activation, args.parameters, [&](auto activation) {
      blocks([&](int64_t begin, int64_t n) { forward<S>(args, activation, begin, n); });
    });
  });
}

}  // namespace nnart::cpu

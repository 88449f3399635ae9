// Leaky ReLU with random slopes: forward and backward are the same product.
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/random.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

template <class V>
struct RandomSlope {
  V lower, width;
  NNART_HD V operator()(V x, V sign, V u) const { return select(sign > V(0), x, x * (lower + width * u)); }
};

// The numbers that a block of elements draws, in the compute type whatever the elements are stored in.
template <class S>
struct Drawn {
  using C = ComputeType<S>;
  const C* data;
  NNART_HD Working<S> at(int64_t i) const { return Working<S>(load(data + i).v); }
  NNART_HD Working<S> partial(int64_t i, int64_t count) const { return Working<S>(load_partial(data + i, count).v); }
};

template <class S, class X>
NNART_HD void run(const RReluArgs& args, int64_t part, int64_t begin, int64_t n, const X& x, ComputeType<S>* buffer) {
  using V = Working<S>;
  auto* numbers = Uniforms<ComputeType<S>>{buffer}.fill(begin, n, uint64_t(args.seeds[part]));
  int64_t first = part * args.n + begin;
  Elements<S> sign{static_cast<const S*>(args.sign) + first};
  Drawn<S> u{numbers};
  S* y = static_cast<S*>(args.y) + first;
  RandomSlope<V> rule{V(args.lower), V(args.upper - args.lower)};
  int64_t i = 0;
  for (; i + V::size <= n; i += V::size)
    store_streaming(y + i, Vec<ComputeType<S>>(rule(x.at(first + i), sign.at(i), u.at(i)).v));
  if (int64_t count = n - i; count > 0)
    store_partial(y + i,
                  Vec<ComputeType<S>>(rule(x.partial(first + i, count), sign.partial(i, count), u.partial(i, count)).v),
                  count);
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const RReluArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    int64_t blocks = ceil_div(args.n, kMapBlock);  // of a part
    auto* x = static_cast<const S*>(args.x);
    parallel_for(args.parts * blocks, 1, [&](int64_t first, int64_t last) {
      Scratch<ComputeType<S>> buffer(Use::decisions, Uniforms<ComputeType<S>>::room(kMapBlock));
      for (int64_t task = first; task < last; ++task) {
        int64_t part = task / blocks, begin = task % blocks * kMapBlock, n = least(kMapBlock, args.n - begin);
        if (args.x_is_one_value)
          run<S>(args, part, begin, n, OneValue<S>(x), buffer.data());
        else
          run<S>(args, part, begin, n, Elements<S>{x}, buffer.data());
      }
    });
  });
}

}  // namespace nnart::cpu

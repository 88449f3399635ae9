// The gradient of depthwise 3x3 filters of stride 1 whose operands' lines lie in order (NCHW), with AVX-512.
// One vector's width of a plane is walked line by line, all taps in registers: a line of x is loaded once and
// multiplied with the lines of grad_y that are open. Lanes are added up at the very end.
#include "core/parallel.h"
#include "cpu/conv/grad_bias.h"
#include "cpu/conv/planes.h"
#include "cpu/conv/strategies.h"

namespace nnart::cpu {
namespace {

#if defined(__AVX512F__)

// Channels whose sums wait in the L1 and L2 caches while the images pass.
constexpr int64_t kChannels = 32;
// Lines after which the sums start anew, so that a long sum rounds like its parts.
constexpr int64_t kShortSum = 32;

template <class S, bool pairs>  // Note [pairs of planes]
struct PlaneFilterSums {
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int taps = 3;
  static constexpr int64_t lanes = V::size;
  static constexpr auto kLanes = std::make_integer_sequence<int, lanes>{};

  const ConvArgs& args;
  math::Axis h, w;
  bool from_large;  // x is_large()

  NNART_HD explicit PlaneFilterSums(const ConvArgs& args)
      : args(args), h(args.axis[1]), w(args.axis[2]), from_large(is_large<S>(args, h.in * w.in)) {}

  struct Planes {
    const S *x[2], *grad_y[2];
  };

  // The lanes of a vector of outputs from `at` on that exist, and whose source for tap k does.
  NNART_HD uint32_t outputs_from(int64_t at) const { return lanes_between(0, w.out - at); }
  NNART_HD uint32_t sources_from(int64_t at, int64_t k) const {
    int64_t first = at - w.pad + k;
    return lanes_between(-first, w.in - first) & outputs_from(at);
  }
  NNART_HD static uint32_t lanes_between(int64_t begin, int64_t end) {
    begin = least(lanes, most(0, begin));
    end = least(lanes, end);
    return end > begin ? uint32_t((1u << end) - (1u << begin)) : 0;
  }

  NNART_HD V load_both(uint32_t where, const S* a, const S* b) const {
    V x = load_where(where, a);
    if constexpr (pairs) x = join_halves(x, load_where(where, b), kLanes);
    return x;
  }

  // The products of a line of x with the open lines of grad_y that exist.
  template <class Exists>
  NNART_HD void add_line(const S* const (&x)[2], const uint32_t (&inside)[taps], const V (&g)[taps],
                         V (&sum)[taps][taps], const Exists& exists) const {
#pragma GCC unroll 3
    for (int k = 0; k < taps; ++k) {
      V pixels = load_both(inside[k], x[0] + k, x[1] + k);
      keep_in_register(pixels);
#pragma GCC unroll 3
      for (int j = 0; j < taps; ++j)
        if (exists(j)) sum[j][k] = sum[j][k] + pixels * g[j];
    }
  }

  // Adds the products of the lines that the outputs [at, at + lanes) of all lines meet.
  void add_column(const Planes& planes, int64_t at, T* totals) const {
    uint32_t inside[taps], written = outputs_from(at);
    for (int k = 0; k < taps; ++k) inside[k] = sources_from(at, k);
    int64_t x_line = args.x.space[1], grad_line = args.y.space[1];
    const S* x[2] = {planes.x[0] + at - w.pad, planes.x[1] + at - w.pad};
    const S* grad_y[2] = {planes.grad_y[0] + at, planes.grad_y[1] + at};
    // Line i of the padded x meets the lines i, i - 1, ... of grad_y: g[0], g[1], ...
    V sum[taps][taps], g[taps];
    for (V& each : g) each = V(0);
    int64_t count = h.out + taps - 1;
    for (int64_t begin = 0; begin < count; begin += kShortSum) {
      for (auto& line : sum)
        for (V& s : line) s = V(0);
      for (int64_t i = begin; i < least(begin + kShortSum, count); ++i) {
#pragma GCC unroll 3
        for (int j = taps - 1; j > 0; --j) g[j] = g[j - 1];
        g[0] = V(0);
        if (i < h.out) {
          fetch_source_ahead(grad_y[0] + i * grad_line, from_large);
          g[0] = load_both(written, grad_y[0] + i * grad_line, grad_y[1] + i * grad_line);
        }
        int64_t line = i - h.pad;
        if (line < 0 || line >= h.in) continue;
        fetch_source_ahead(x[0] + line * x_line, from_large);
        const S* const from[2] = {x[0] + line * x_line, x[1] + line * x_line};
        if (i >= taps - 1 && i < h.out)
          add_line(from, inside, g, sum, [](int) { return true; });
        else  // The zeros in place of a line of grad_y that does not exist must not meet an infinity.
          add_line(from, inside, g, sum, [&](int j) { return i >= j && i - j < h.out; });
      }
      for (int j = 0; j < taps; ++j)
        for (int k = 0; k < taps; ++k) {
          T* total = totals + (j * taps + k) * lanes;
          store(total, load(total) + sum[j][k]);
        }
    }
  }

  // The sums of the lanes of x, or of either half of them, in lanes 0 and lanes / 2.
  template <int by>
  NNART_HD V add_lanes(V x) const {
    if constexpr (by == 0) {
      return x;
    } else {
      return add_lanes<by / 2>(x + rotate<T, by>(x, kLanes));
    }
  }

  NNART_HD void write(int64_t channel, int64_t tap, T value) const {
    S result[lanes];
    store(result, V(double(value)));
    const ConvOperand& weight = args.weight;
    static_cast<S*>(weight.data)[channel * weight.batch + tap / taps * weight.space[1] + tap % taps * weight.space[2]] =
        result[0];
  }

  // While the cache has it.
  double sum_of_plane(const S* grad_y) const {
    int64_t line = args.y.space[1];
    if (line == w.out) return sum_of_run(grad_y, h.out * w.out);
    double sum = 0;
    for (int64_t i = 0; i < h.out; ++i) sum += sum_of_run(grad_y + i * line, w.out);
    return sum;
  }

  void run() const {
    int64_t each = pairs ? 2 : 1, blocks = ceil_div(args.groups, kChannels);
    parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch(Use::partial, kChannels * taps * taps * lanes);
      double grad_bias[kChannels];
      for (int64_t block = begin; block < end; ++block) {
        int64_t first = block * kChannels, last = least(first + kChannels, args.groups);
        zero_run(scratch.data(), kChannels * taps * taps * lanes);
        for (double& sum : grad_bias) sum = 0;
        auto totals = [&](int64_t channel) { return scratch.data() + (channel - first) * taps * taps * lanes; };
        for (int64_t image = 0; image < args.batch; ++image)
          for (int64_t c = first; c < last; c += each) {
            int64_t second = least(c + each - 1, last - 1);
            auto plane = [&](const ConvOperand& operand, int64_t channel) {
              return static_cast<const S*>(operand.data) + image * operand.batch + channel * operand.channel;
            };
            Planes planes{{plane(args.x, c), plane(args.x, second)}, {plane(args.y, c), plane(args.y, second)}};
            for (int64_t at = 0; at < w.out; at += lanes) add_column(planes, at, totals(c));
            if (args.grad_bias)
              for (int64_t i = 0; i <= second - c; ++i) grad_bias[c - first + i] += sum_of_plane(planes.grad_y[i]);
          }
        for (int64_t c = first; c < last; c += each)
          for (int64_t tap = 0; tap < taps * taps; ++tap) {
            V total = load(totals(c) + tap * lanes);
            if (!pairs) {
              write(c, tap, add_lanes<lanes / 2>(total).v[0]);
              continue;
            }
            total = add_lanes<lanes / 4>(total);
            write(c, tap, total.v[0]);
            if (c + 1 < last) write(c + 1, tap, total.v[lanes / 2]);
          }
        if (args.grad_bias)
          for (int64_t c = first; c < last; ++c) store_grad_bias<S>(args, c, grad_bias[c - first]);
      }
    });
  }
};

#endif

}  // namespace

template <>
bool ConvStrategies<Isa::NNART_ISA>::depthwise_planes_wgrad([[maybe_unused]] const ConvArgs& args) {
#if defined(__AVX512F__)
  const math::Axis *h = args.axis + 1, *w = args.axis + 2;
  bool plain = args.axis[0].kernel == 1 && args.axis[0].in == 1 && args.axis[0].out == 1 && h->stride == 1 &&
               w->stride == 1 && h->dilation == 1 && w->dilation == 1 && h->kernel == 3 && w->kernel == 3;
  if (!plain || !has_plane_lines(args.x) || !has_plane_lines(args.y)) return false;
  bool taken = false;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    taken = w->out > kShortLine<S>;
    if (!taken) return;
    if (most(w->in, w->out) <= Vec<ComputeType<S>>::size / 2)
      PlaneFilterSums<S, true>(args).run();
    else
      PlaneFilterSums<S, false>(args).run();
  });
  return taken;
#else
  return false;
#endif
}

}  // namespace nnart::cpu

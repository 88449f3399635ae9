// The gradient of depthwise filters of 3x3, 5x5 or 7x7 and stride 1 or 2 whose operands' lines lie in order (NCHW),
// with AVX-512. One vector's width of a plane is walked line by line, up to three rows of taps in registers: a line of
// x is loaded once for them and multiplied with the lines of grad_y that meet it. Lanes are added up at the very end.
#include "core/parallel.h"
#include "cpu/conv/grad_bias.h"
#include "cpu/conv/sliding.h"
#include "cpu/conv/strategies.h"

namespace nnart::cpu {
namespace {

#if defined(__AVX512F__)

// Channels whose sums wait in the L1 and L2 caches while the images pass.
constexpr int64_t kChannels = 32;
// Lines of grad_y that are worked on together, after which the sums start anew, so that a long sum rounds like its
// parts.
constexpr int64_t kBand = 32;
// Rows of taps whose sums are held at once: three rows of seven leave registers for the lines they meet.
constexpr int64_t kRows = 3;

template <class S, int taps, bool pairs>  // Note [pairs of planes]
struct PlaneFilterSums {
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size;
  static constexpr auto kLanes = std::make_integer_sequence<int, lanes>{};

  const ConvArgs& args;
  PlaneAxis h, w;
  bool from_large;  // x is_large()
  ShuffledTaps<S, taps, pairs ? 2 : 1> shuffled;

  NNART_HD explicit PlaneFilterSums(const ConvArgs& args)
      : args(args),
        h(plane_axis(args.axis[1], false)),
        w(plane_axis(args.axis[2], false)),
        from_large(is_large<S>(args, h.sources * w.sources)),
        shuffled(w) {}

  struct Planes {
    const S *x[2], *grad_y[2];
  };
  // Lines of grad_y.
  struct Band {
    int64_t row, height;
  };

  template <int rows, class Exists>
  NNART_HD static void add_products(V (&sum)[rows][taps], const V (&x)[taps], const V (&g)[rows],
                                    const Exists& exists) {
#pragma GCC unroll 7
    for (int k = 0; k < taps; ++k)
#pragma GCC unroll 3
      for (int j = 0; j < rows; ++j)
        if (exists(j)) sum[j][k] = sum[j][k] + x[k] * g[j];
  }

  // Rows first, first + stride, ... of the taps and a vector's width of the outputs: line i of the x that they read
  // meets the lines i, i - 1, ... of grad_y, g[0], g[1], ...
  template <int rows, class Taps>
  void add_rows(const Planes& planes, const Band& band, int64_t first, int64_t at, const Taps& loads, T* totals) const {
    int64_t line = h.source(band.row, first), x_line = args.x.space[1], grad_line = args.y.space[1];
    LineReader<S, pairs, Taps> reader(loads, planes.x[0] + line * x_line, planes.x[1] - planes.x[0], x_line, line,
                                      h.sources, at * w.step, from_large);
    const S* grad_y = planes.grad_y[0] + band.row * grad_line + at;
    int64_t other = planes.grad_y[1] - planes.grad_y[0], step = h.step, height = band.height;
    uint32_t where = lanes_between(0, w.outputs - at, lanes);
    bool large = from_large;
    V sum[rows][taps], g[rows];
#pragma GCC unroll 3
    for (int j = 0; j < rows; ++j) {
      g[j] = V(0);
#pragma GCC unroll 7
      for (int k = 0; k < taps; ++k) sum[j][k] = V(0);
    }
    for (int64_t i = 0; i < height + rows - 1; ++i) {
#pragma GCC unroll 3
      for (int j = rows - 1; j > 0; --j) g[j] = g[j - 1];
      g[0] = V(0);
      if (i < height) {
        fetch_source_ahead(grad_y, large);
        g[0] = load_where(where, grad_y);
        if constexpr (pairs) g[0] = join_halves(g[0], load_where(where, grad_y + other), kLanes);
        grad_y += grad_line;
      }
      V x[taps];
      if (!reader.next(x, step)) continue;
      // The zeros in place of a line of grad_y that does not exist must not meet an infinity.
      if (i >= rows - 1 && i < height)
        add_products(sum, x, g, [](int) { return true; });
      else
        add_products(sum, x, g, [&](int j) { return i >= j && i - j < height; });
    }
#pragma GCC unroll 3
    for (int j = 0; j < rows; ++j)
#pragma GCC unroll 7
      for (int k = 0; k < taps; ++k) {
        T* total = totals + ((first + j * step) * taps + k) * lanes;
        store(total, load(total) + sum[j][k]);
      }
  }

  template <class Taps>
  void add_column(const Planes& planes, const Band& band, int64_t at, const Taps& loads, T* totals) const {
    for (int64_t start = 0; start < h.step; ++start) {
      Even parts(ceil_div(h.taps - start, h.step), kRows);
      for (int64_t part = 0; part < parts.pieces; ++part) {
        int64_t first = start + parts.begin(part) * h.step, n = parts.begin(part + 1) - parts.begin(part);
        if (n == 3)
          add_rows<3>(planes, band, first, at, loads, totals);
        else if (n == 2)
          add_rows<2>(planes, band, first, at, loads, totals);
        else
          add_rows<1>(planes, band, first, at, loads, totals);
      }
    }
  }

  void add_planes(const Planes& planes, T* totals) const {
    Even bands(h.outputs, kBand);
    for (int64_t i = 0; i < bands.pieces; ++i) {
      Band band{bands.begin(i), bands.begin(i + 1) - bands.begin(i)};
      if (pairs || pays_to_shuffle<S, taps>(w)) {
        add_column(planes, band, 0, shuffled, totals);
      } else if constexpr (!pairs) {
        for (int64_t at = 0; at < w.outputs; at += lanes) {
          if (w.step == 1)
            add_column(planes, band, at, LoadedTaps<S, taps>(w, at), totals);
          else
            add_column(planes, band, at, AlternatingTaps<S, taps>(w, at), totals);
        }
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
    if (line == w.outputs) return sum_of_run(grad_y, h.outputs * w.outputs);
    double sum = 0;
    for (int64_t i = 0; i < h.outputs; ++i) sum += sum_of_run(grad_y + i * line, w.outputs);
    return sum;
  }

  void run() const {
    int64_t each = pairs ? 2 : 1, blocks = ceil_div(args.groups, kChannels), all_taps = h.taps * taps;
    parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch(Use::partial, kChannels * all_taps * lanes);
      double grad_bias[kChannels];
      for (int64_t block = begin; block < end; ++block) {
        int64_t first = block * kChannels, last = least(first + kChannels, args.groups);
        zero_run(scratch.data(), kChannels * all_taps * lanes);
        for (double& sum : grad_bias) sum = 0;
        auto totals = [&](int64_t channel) { return scratch.data() + (channel - first) * all_taps * lanes; };
        for (int64_t image = 0; image < args.batch; ++image)
          for (int64_t c = first; c < last; c += each) {
            int64_t second = least(c + each - 1, last - 1);
            auto plane = [&](const ConvOperand& operand, int64_t channel) {
              return static_cast<const S*>(operand.data) + image * operand.batch + channel * operand.channel;
            };
            Planes planes{{plane(args.x, c), plane(args.x, second)}, {plane(args.y, c), plane(args.y, second)}};
            add_planes(planes, totals(c));
            if (args.grad_bias)
              for (int64_t i = 0; i <= second - c; ++i) grad_bias[c - first + i] += sum_of_plane(planes.grad_y[i]);
          }
        for (int64_t c = first; c < last; c += each)
          for (int64_t tap = 0; tap < all_taps; ++tap) {
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

// Whether this is faster than copying planes into blocks of channels: where the multiplications and not the loads are
// the limit, and most lanes are filled.
template <class S>
bool pays(const math::Axis& w) {
  constexpr int64_t lanes = Vec<ComputeType<S>>::size;
  if (w.stride == 2 && w.out > lanes) return false;
  if (w.kernel == 3) return w.out > short_line<S>(w.stride);
  int64_t used = w.out <= lanes / 2 ? lanes / 2 : ceil_div(w.out, lanes) * lanes;
  if (sizeof(S) == 8 || 8 * w.out < 7 * used) return false;
  if (w.kernel == 7) return sizeof(S) == 4 && w.stride == 1 && w.out > lanes / 2;
  return sizeof(S) == 4 || (w.stride == 2 && w.out <= lanes / 2);
}

#endif

}  // namespace

template <>
bool ConvStrategies<Isa::NNART_ISA>::depthwise_planes_wgrad([[maybe_unused]] const ConvArgs& args) {
#if defined(__AVX512F__)
  const math::Axis *d = args.axis, *h = args.axis + 1, *w = args.axis + 2;
  bool plain = d->kernel == 1 && d->in == 1 && d->out == 1 && h->stride == w->stride && h->stride <= 2 &&
               h->dilation == 1 && w->dilation == 1 && h->kernel == w->kernel;
  if (!plain || !has_plane_lines(args.x) || !has_plane_lines(args.y)) return false;
  bool taken = false;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (!pays<S>(*w)) return;
    auto run = [&](auto taps) {
      if (w->kernel != taps) return;
      taken = true;
      if (ShuffledTaps<S, taps, 2>::fit(plane_axis(*w, false)))
        PlaneFilterSums<S, taps, true>(args).run();
      else
        PlaneFilterSums<S, taps, false>(args).run();
    };
    run(std::integral_constant<int, 3>{});
    run(std::integral_constant<int, 5>{});
    run(std::integral_constant<int, 7>{});
  });
  return taken;
#else
  return false;
#endif
}

}  // namespace nnart::cpu

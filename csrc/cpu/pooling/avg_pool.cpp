// Average pooling and its gradient. Both are sums along one axis after the other: over the lines of a plane by vectors,
// then along the line.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/pooling/lines.h"
#include "cpu/scratch.h"
#include "cpu/streaming.h"

namespace nnart::cpu {
namespace {

// Pixels of a channels-last window that are summed by themselves, so that no sum in float has thousands of terms.
constexpr int64_t kSumRun = 64;

// Bytes of channels-last pixels that are copied at once.
constexpr int64_t kCopied = 8 << 10;

// Windows of up to so many pixels are written at once, larger ones line by line.
constexpr int64_t kTiledWindow = 9;

// The elements of each window of one axis that an average divides by; their product is the window's.
class Counts {
 public:
  Counts(const AxisWindows& windows, const AvgPoolArgs& args) : counts_(windows.axis().out) {
    for (int64_t o = 0; o < windows.axis().out; ++o)
      counts_.data()[o] = args.count_include_pad ? windows.axis().padded_taps(o) : windows.end(o) - windows.begin(o);
  }
  NNART_HD int64_t operator[](int64_t o) const { return counts_.data()[o]; }

 private:
  Numbers counts_;
};

// Which of an axis's outputs have windows of one size: a number for each size, in the order of their first outputs.
class Sizes {
 public:
  Sizes(const Counts& counts, int64_t outputs) : index_(outputs), size_(outputs) {
    for (int64_t o = 0; o < outputs; ++o) {
      int64_t i = 0;
      while (i < n && size_.data()[i] != counts[o]) ++i;
      index_.data()[o] = i;
      if (i == n) size_.data()[n++] = counts[o];
    }
  }
  int64_t n = 0;
  NNART_HD int64_t of(int64_t o) const { return index_.data()[o]; }
  NNART_HD int64_t operator[](int64_t i) const { return size_.data()[i]; }

 private:
  Numbers index_, size_;
};

template <class S>
struct AvgPool {
  using C = ComputeType<S>;
  using V = Vec<C>;
  using P = Pack<S>;
  static constexpr int64_t width = V::size;

  const AvgPoolArgs& args;
  const Windows& windows;
  const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
  int64_t channels = args.shape.channels;
  Counts d_count{d, args}, h_count{h, args}, w_count{w, args};
  Sizes d_sizes{d_count, d.axis().out}, h_sizes{h_count, h.axis().out};
  int64_t factor_step = w.axis().out + width;
  Scratch<C> factors{Use::partial, d_sizes.n * h_sizes.n * factor_step};

  AvgPool(const AvgPoolArgs& args, const Windows& windows) : args(args), windows(windows) {
    for (int64_t i = 0; i < d_sizes.n * h_sizes.n; ++i) {
      int64_t lines = d_sizes[i / h_sizes.n] * h_sizes[i % h_sizes.n];
      C* to = factors.data() + i * factor_step;
      for (int64_t ow = 0; ow < w.axis().out; ++ow)
        to[ow] = C(1) / C(args.divisor ? args.divisor : lines * w_count[ow]);
      for (int64_t ow = w.axis().out; ow < factor_step; ++ow) to[ow] = 0;
    }
  }
  // What the outputs of one line are multiplied with.
  NNART_HD const C* factors_of(int64_t od, int64_t oh) const {
    return factors.data() + (d_sizes.of(od) * h_sizes.n + h_sizes.of(oh)) * factor_step;
  }

  // ---- forward, planes ----------------------------------------------------------------------------------------------

  // Calls visit(source line) for the lines of x that line (od, oh) of y reads.
  template <class Visit>
  NNART_HD void each_line(const S* plane, int64_t od, int64_t oh, const Visit& visit) const {
    for (int64_t kd = d.begin(od); kd < d.end(od); ++kd)
      for (int64_t kh = h.begin(oh); kh < h.end(oh); ++kh)
        visit(plane + (d.input(od, kd) * h.axis().in + h.input(oh, kh)) * w.axis().in);
  }
  NNART_HD V column_sum(const S* plane, int64_t od, int64_t oh, int64_t i, int64_t count) const {
    V sum(0);
    each_line(plane, od, oh, [&](const S* line) {
      fetch_source_ahead(line + i);
      sum = sum + (count >= width ? load(line + i) : load_partial(line + i, count));
    });
    return sum;
  }

  // run(plane of x, od, oh, line of y, first y of another thread, factors, so many elements of scratch, at first zero)
  template <class Run>
  NNART_HD void each_output_line(int64_t scratch, const Run& run) const {
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> sums(Use::source, scratch);
      std::memset(sums.data(), 0, size_t(scratch) * sizeof(C));
      for (int64_t p = first; p < last; ++p)
        for (int64_t od = 0; od < d.axis().out; ++od)
          for (int64_t oh = 0; oh < h.axis().out; ++oh) {
            S* to = y + p * windows.out + (od * h.axis().out + oh) * w.axis().out;
            run(x + p * windows.in, od, oh, to, y + last * windows.out, factors_of(od, oh), sums.data());
          }
    });
  }
  // Stores a whole vector where `end` allows it: what spills past the line is overwritten with the next.
  NNART_HD static void store_before(S* to, const S* end, V value) {
    if (end - to >= width)
      store(to, value);
    else
      store_partial(to, value, end - to);
  }

  NNART_HD void halving() const {
    each_output_line(0, [&](const S* plane, int64_t, int64_t oh, S* to, const S* end, const C* factors, C*) {
      const S* upper = plane + 2 * oh * w.axis().in;
      for (int64_t o = 0; o < w.axis().out; o += width) {
        int64_t left = w.axis().in - 2 * o;
        for (const S* p : {upper + 2 * o, upper + w.axis().in + 2 * o}) Halves<S>::fetch_source(p);
        fetch_target_ahead(to + o);
        auto a = Halves<S>::read(upper + 2 * o, left), b = Halves<S>::read(upper + w.axis().in + 2 * o, left);
        store_before(to + o, end, ((a.even + a.odd) + (b.even + b.odd)) * load(factors + o));
      }
    });
  }

  // Steps of 1 or 2: the lines of a window are summed into one, Note [phases of a line].
  NNART_HD void phased() const {
    PhasedLine<C> summed(w.axis());
    int64_t in_w = w.axis().in, kernel = w.axis().kernel;
    each_output_line(summed.elements + in_w + width,
                     [&](const S* plane, int64_t od, int64_t oh, S* to, const S* end, const C* factors, C* scratch) {
                       C* flat = scratch + summed.elements;
                       for (int64_t i = 0; i < in_w; i += width)
                         store(flat + i, column_sum(plane, od, oh, i, in_w - i));
                       summed.fill(scratch, flat);
                       for (int64_t o = 0; o < w.axis().out; o += width) {
                         V sum(0);
                         for (int64_t k = 0; k < kernel; ++k) sum = sum + load(scratch + summed.tap(k) + o);
                         store_before(to + o, end, sum * load(factors + o));
                       }
                     });
  }

  // Adaptive windows and large steps.
  NNART_HD void columns() const {
    int64_t in_w = w.axis().in;
    each_output_line(
        in_w + width, [&](const S* plane, int64_t od, int64_t oh, S* to, const S*, const C* factors, C* flat) {
          for (int64_t i = 0; i < in_w; i += width) store(flat + i, column_sum(plane, od, oh, i, in_w - i));
          for (int64_t ow = 0; ow < w.axis().out; ++ow)
            store_one(to + ow, sum_along(flat + w.input(ow, w.begin(ow)), w.end(ow) - w.begin(ow)) * factors[ow]);
        });
  }
  // Of several sums side by side, so that none waits for another.
  template <class T>
  NNART_HD static C sum_along(const T* p, int64_t n) {
    int64_t i = 0;
    if (n >= width) {
      V sums[4] = {V(0), V(0), V(0), V(0)};
      for (; i + 4 * width <= n; i += 4 * width)
        for (int k = 0; k < 4; ++k) sums[k] = sums[k] + load_streaming(p + i + k * width);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k, i += width) {
        int64_t count = n - i;
        if (count <= 0) break;
        sums[k] = sums[k] + (count >= width ? load(p + i) : load_partial(p + i, count));
      }
      return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    C parts[4] = {0, 0, 0, 0};
    for (; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) parts[k] += widen_one<C>(p + i + k);
    for (; i < n; ++i) parts[0] += widen_one<C>(p + i);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
  NNART_HD void whole() const {
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    C share = factors_of(0, 0)[0];
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) store_one(y + p, sum_along(x + p * windows.in, windows.in) * share);
    });
  }

  // ---- forward, channels-last ---------------------------------------------------------------------------------------

  // One output pixel: `packs` packs of channels, the last of `lanes` of them. With kernel sizes the window is whole and
  // flat.
  template <int kernel_h, int kernel_w, int packs>
  NNART_HD void piece(const S* corner, int64_t od, int64_t oh, int64_t ow, C share, S* to, int64_t lanes) const {
    int64_t row = w.axis().in * channels;
    P total[packs];
    for (int i = 0; i < packs; ++i) {
      total[i] = P::all(0);
      fetch_target_ahead(to + i * P::size);
    }
    auto add = [](P(&sum)[packs], const auto& term) {
      for (int i = 0; i < packs; ++i)
        for (int part = 0; part < P::parts; ++part) sum[i].part[part] = sum[i].part[part] + term(i).part[part];
    };
    auto read = [&](const S* from) {
      return [=](int i) { return P::read(from + i * P::size, packs > 1 ? P::size : lanes); };
    };
    if constexpr (kernel_h > 0) {
#pragma GCC unroll 3
      for (int kh = 0; kh < kernel_h; ++kh)
#pragma GCC unroll 3
        for (int kw = 0; kw < kernel_w; ++kw) {
          const S* from = corner + kh * row + kw * channels;
          // Whether no window before has read it.
          bool is_new = kh >= kernel_h - h.axis().stride && kw >= kernel_w - w.axis().stride;
          for (int i = 0; is_new && i < packs; ++i) fetch_source_ahead(from + i * P::size);
          add(total, read(from));
        }
    } else {
      // Several pixels beside each other, so that no sum waits for another.
      constexpr int ways = packs < 4 ? 8 / packs : 1;
      P runs[ways][packs];
      for (auto& run : runs)
        for (P& sum : run) sum = P::all(0);
      int64_t terms = 0;  // of the longest run
      auto flush = [&] {
        terms = 0;
        for (auto& run : runs) {
          add(total, [&](int i) { return run[i]; });
          for (P& sum : run) sum = P::all(0);
        }
      };
      for (int64_t kd = d.begin(od); kd < d.end(od); ++kd)
        for (int64_t kh = h.begin(oh); kh < h.end(oh); ++kh) {
          const S* line = corner + (kd * h.axis().in + kh) * row;
          auto visit = [&](int64_t kw, int way) {
            for (int i = 0; i < packs; ++i) fetch_source_ahead(line + kw * channels + i * P::size);
            add(runs[way], read(line + kw * channels));
          };
          int64_t kw = w.begin(ow);
          for (; kw + ways <= w.end(ow); kw += ways) {
#pragma GCC unroll 8
            for (int way = 0; way < ways; ++way) visit(kw + way, way);
            if (++terms == kSumRun) flush();
          }
          for (; ways > 1 && kw < w.end(ow); ++kw) {
            visit(kw, 0);
            if (++terms == kSumRun) flush();
          }
        }
      flush();
    }
    for (int i = 0; i < packs; ++i) {
      for (int part = 0; part < P::parts; ++part) total[i].part[part] = total[i].part[part] * V(double(share));
      total[i].write(to + i * P::size, packs > 1 ? P::size : lanes);
    }
  }
  template <int kernel_h, int kernel_w>
  NNART_HD void pixel(const S* image, int64_t od, int64_t oh, int64_t ow, C share, S* to) const {
    const S* corner = image + ((d.start(od) * h.axis().in + h.start(oh)) * w.axis().in + w.start(ow)) * channels;
    each_channels<S, true>(channels, [&](int64_t c, auto packs, int64_t lanes) {
      piece<kernel_h, kernel_w, packs>(corner + c, od, oh, ow, share, to + c, lanes);
    });
  }
  template <int kernel_h, int kernel_w>
  NNART_HD void channels_forward() const {
    auto* x = static_cast<const S*>(args.x);
    auto* y = static_cast<S*>(args.y);
    int64_t rows = d.axis().out * h.axis().out;
    parallel_for(args.shape.batch * rows, pool_grain(windows.in * channels / rows), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const S* image = x + r / rows * windows.in * channels;
        int64_t od = r % rows / h.axis().out, oh = r % h.axis().out;
        const C* shares = factors_of(od, oh);
        bool whole = kernel_h > 0 && h.is_whole(oh);
        for (int64_t ow = 0; ow < w.axis().out; ++ow) {
          S* to = y + (r * w.axis().out + ow) * channels;
          if (whole && w.is_whole(ow))
            pixel<kernel_h, kernel_w>(image, od, oh, ow, shares[ow], to);
          else
            pixel<0, 0>(image, od, oh, ow, shares[ow], to);
        }
      }
    });
  }

  // ---- backward -----------------------------------------------------------------------------------------------------

  // The outputs along d and h whose windows reach a line of x.
  struct Reached {
    int64_t first_d, end_d, first_h, end_h;
    bool operator==(const Reached&) const = default;
  };

  // n inputs beside each other along w, which the windows [first, end) reach.
  struct Run {
    int64_t first, end, n;
  };
  // Of a whole line, one of no input behind them.
  NNART_HD void find_runs(Run* run) const {
    if (windows.is_whole_plane()) {
      *run++ = {0, 1, windows.in};
      *run = {0, 0, 0};
      return;
    }
    int64_t begin = 0;
    for (int64_t i = 0; i < w.axis().in; ++i) {
      bool is_last = i + 1 == w.axis().in;
      if (!is_last && w.first_output(i + 1) == w.first_output(i) && w.end_output(i + 1) == w.end_output(i)) continue;
      *run++ = {w.first_output(i), w.end_output(i), i + 1 - begin};
      begin = i + 1;
    }
    *run = {0, 0, 0};
  }
  // The outputs that each input of a line belongs to, as lanes of the one vector that has them all, which is 0 in the
  // lane behind them. The k-th of the inputs from i on begin at lane[k * pitch + i].
  struct Takers {
    int64_t each, pitch;
    Scratch<Bits<C>> lane;
    explicit Takers(const AxisWindows& axis)
        : each(overlap(axis.axis())), pitch(ceil_div(axis.axis().in, width) * width), lane(Use::weight, each * pitch) {
      for (int64_t k = 0; k < each; ++k)
        for (int64_t i = 0; i < pitch; ++i) {
          bool belongs = i < axis.axis().in && axis.first_output(i) + k < axis.end_output(i);
          lane.data()[k * pitch + i] = Bits<C>(belongs ? axis.first_output(i) + k : axis.axis().out);
        }
    }
    NNART_HD V sum_at(int64_t i, V of) const {
      V total(0);
      for (int64_t k = 0; k < each; ++k) {
        IndexVec<C> from;
        std::memcpy(&from, lane.data() + k * pitch + i, sizeof from);
        total = total + V(__builtin_shuffle(of.v, from));
      }
      return total;
    }
  };
  // The line above once more.
  NNART_HD void repeat_line(S* to, const S* end) const {
    int64_t n = w.axis().in;
    for (int64_t i = 0; i < n; i += width) {
      const S* above = to + i - n;
      store_before(to + i, end, end - above >= width ? load(above) : load_partial(above, least(width, n - i)));
    }
  }

  // Lines of grad_x that belong to the same lines of outputs are equal: the first is computed, the others copied.
  template <class Spread>
  NNART_HD void planes_backward(int64_t margin, int64_t outputs, const Spread& spread) const {
    auto* grad_y = static_cast<const S*>(args.x);
    auto* grad_x = static_cast<S*>(args.y);
    const math::PoolAxis& axis = w.axis();
    int64_t elements = margin + ceil_div(outputs, width) * width + width;
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> sums(Use::source, elements);
      std::memset(sums.data(), 0, size_t(elements) * sizeof(C));
      C* sum = sums.data() + margin;
      const S* end = grad_x + last * windows.in;
      for (int64_t p = first; p < last; ++p) {
        const S* from = grad_y + p * windows.out;
        S* to = grad_x + p * windows.in;
        Reached before{-1, -1, -1, -1};
        for (int64_t id = 0; id < d.axis().in; ++id)
          for (int64_t ih = 0; ih < h.axis().in; ++ih, to += axis.in) {
            Reached now{d.first_output(id), d.end_output(id), h.first_output(ih), h.end_output(ih)};
            if (now == before) {
              repeat_line(to, end);
              continue;
            }
            before = now;
            bool is_first = true;
            for (int64_t od = now.first_d; od < now.end_d; ++od)
              for (int64_t oh = now.first_h; oh < now.end_h; ++oh) {
                const C* shares = factors_of(od, oh);
                const S* line = from + (od * h.axis().out + oh) * axis.out;
                for (int64_t o = 0; o < axis.out; o += width) {
                  int64_t count = least(width, axis.out - o);
                  V term = (count == width ? load(line + o) : load_partial(line + o, count)) * load(shares + o);
                  store(sum + o, is_first ? term : load(sum + o) + term);
                }
                is_first = false;
              }
            if (is_first) std::memset(sum, 0, size_t(axis.out) * sizeof(C));
            spread(sum, to, end);
          }
      }
    });
  }
  // Few outputs, which one vector has: each vector of inputs picks its own.
  NNART_HD void picked_backward() const {
    const Takers takers(w);
    planes_backward(0, w.axis().out, [&](const C* sum, S* to, const S* end) {
      V sums = load(sum);
      for (int64_t i = 0; i < w.axis().in; i += width) {
        fetch_target_ahead(to + i);
        store_before(to + i, end, takers.sum_at(i, sums));
      }
    });
  }
  // Large windows: the inputs of a run are equal.
  NNART_HD void runs_backward() const {
    Scratch<Run> runs(Use::tables, w.axis().in + 1);
    find_runs(runs.data());
    planes_backward(0, w.axis().out, [&](const C* sum, S* to, const S* end) {
      for (const Run* run = runs.data(); run->n > 0; to += run++->n) {
        C total = 0;
        for (int64_t o = run->first; o < run->end; ++o) total += sum[o];
        V value(static_cast<double>(total));
        for (int64_t i = 0; i < run->n; i += width) {
          fetch_target_ahead(to + i);
          store_before(to + i, end, value);
        }
      }
    });
  }
  // Steps of 1 or 2: each output is added once for each of its taps.
  template <int step>
  NNART_HD void stepped_backward() const {
    const math::PoolAxis& axis = w.axis();
    int64_t most_shift = div_floor(step - 1 + axis.pad, step);
    int64_t outputs = most(axis.out, ceil_div(axis.in, step)) + most_shift;
    planes_backward(ceil_div(axis.kernel, step), outputs, [&](const C* sum, S* to, const S*) {
      auto at = [&](int64_t phase, int64_t j) {
        // Input step j + phase is tap k of output j + (phase + pad - k) / step where that is whole.
        V total(0);
        for (int64_t k = (phase + axis.pad) % step; k < axis.kernel; k += step)
          total = total + load(sum + j + div_floor(phase + axis.pad - k, step));
        return total;
      };
      for (int64_t j = 0; step * j < axis.in; j += width) {
        int64_t left = axis.in - step * j;
        if constexpr (step == 2)
          Halves<S>{at(0, j), at(1, j)}.write(to + 2 * j, left);
        else if (left >= width)
          store(to + j, at(0, j));
        else
          store_partial(to + j, at(0, j), left);
      }
    });
  }

  // Planes, 2x2 windows that tile the input.
  NNART_HD void double_planes() const {
    auto* grad_y = static_cast<const S*>(args.x);
    auto* grad_x = static_cast<S*>(args.y);
    const math::PoolAxis &y = h.axis(), &x = w.axis();
    V share(double(factors_of(0, 0)[0]));
    parallel_for(windows.planes() * y.out, pool_grain(2 * x.in), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        for (int64_t o = 0; o < x.out; o += width) {
          int64_t count = least(width, x.out - o);
          const S* from = grad_y + r * x.out + o;
          V grad = (count == width ? load(from) : load_partial(from, count)) * share;
          S* to = grad_x + 2 * r * x.in + 2 * o;
          for (S* line : {to, to + x.in}) {
            Halves<S>::fetch_target(line);
            Halves<S>{grad, grad}.write(line, x.in - 2 * o);
          }
        }
    });
  }

  // Channels-last, windows of one size that tile the input: each output writes all of its window.
  NNART_HD void tile_channels() const {
    auto* grad_y = static_cast<const S*>(args.x);
    auto* grad_x = static_cast<S*>(args.y);
    int64_t kernel_h = h.axis().kernel, kernel_w = w.axis().kernel, row = w.axis().in * channels;
    V share(double(factors_of(0, 0)[0]));
    parallel_for(args.shape.batch * h.axis().out, pool_grain(kernel_h * row), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        for (int64_t ow = 0; ow < w.axis().out; ++ow) {
          const S* from = grad_y + (r * w.axis().out + ow) * channels;
          S* corner = grad_x + r * kernel_h * row + ow * kernel_w * channels;
          for (int64_t c = 0; c < channels; c += P::size) {
            int64_t lanes = least(P::size, channels - c);
            P grad = P::read(from + c, lanes);
            for (auto& part : grad.part) part = part * share;
            for (int64_t kh = 0; kh < kernel_h; ++kh)
              for (int64_t kw = 0; kw < kernel_w; ++kw) {
                fetch_target_ahead(corner + c + kh * row + kw * channels);
                grad.write(corner + c + kh * row + kw * channels, lanes);
              }
          }
        }
    });
  }

  // Pixels beside each other that belong to the same windows are equal: the first is computed, the others copied.
  NNART_HD void channels_backward() const {
    auto* grad_y = static_cast<const S*>(args.x);
    auto* grad_x = static_cast<S*>(args.y);
    int64_t rows = d.axis().in * h.axis().in, most_copied = most(1, kCopied / (channels * int64_t(sizeof(S))));
    Scratch<Run> runs(Use::tables, w.axis().in + 1);
    find_runs(runs.data());
    parallel_for(args.shape.batch * rows, pool_grain(w.axis().in * channels), [&](int64_t first, int64_t last) {
      struct Line {
        const S* grad;
        const C* shares;
      };
      Scratch<Line> list(Use::pixels, overlap(d.axis()) * overlap(h.axis()));
      Line* lines = list.data();
      for (int64_t r = first; r < last; ++r) {
        int64_t id = r % rows / h.axis().in, ih = r % h.axis().in, count = 0;
        const S* image = grad_y + r / rows * windows.out * channels;
        for (int64_t od = d.first_output(id); od < d.end_output(id); ++od)
          for (int64_t oh = h.first_output(ih); oh < h.end_output(ih); ++oh)
            lines[count++] = {image + (od * h.axis().out + oh) * w.axis().out * channels, factors_of(od, oh)};
        S* to = grad_x + r * w.axis().in * channels;
        for (const Run* run = runs.data(); run->n > 0; to += run++->n * channels) {
          with_count<1, 2, 3>(count, [&](auto line_count) {
            with_count<1, 2, 3>(run->end - run->first, [&](auto window_count) {
              for (int64_t c = 0; c < channels; c += P::size) {
                int64_t lanes = least(P::size, channels - c);
                P sum = P::all(0);
                fetch_target_ahead(to + c);
                // No line before has read the last one.
                if (count > 0 && window_count() > 0)
                  fetch_source_ahead(lines[count - 1].grad + (run->end - 1) * channels + c);
                for (const Line* line = lines; line < lines + line_count(); ++line)
                  for (int64_t o = run->first; o < run->first + window_count(); ++o) {
                    P grad = P::read(line->grad + o * channels + c, lanes);
                    for (int part = 0; part < P::parts; ++part)
                      sum.part[part] = sum.part[part] + grad.part[part] * V(double(line->shares[o]));
                  }
                sum.write(to + c, lanes);
              }
            });
          });
          // Twice as many at each copy, as long as the first-level cache has what is copied.
          for (int64_t done = 1, n; done < run->n; done += n) {
            n = least(least(done, most_copied), run->n - done);
            std::memcpy(static_cast<void*>(to + done * channels), to, size_t(n * channels) * sizeof(S));
          }
        }
      }
    });
  }

  NNART_HD void run() const {
    bool stepped = w.axis().adaptive || w.axis().stride > 2;
    if (args.backward) {
      bool small = d.axis().in == 1 && h.axis().kernel * w.axis().kernel <= kTiledWindow;
      if (args.shape.channels_last)
        return small && tiles(h.axis()) && tiles(w.axis()) ? tile_channels() : channels_backward();
      if (windows.is_flat_window(2, 2) && tiles(h.axis()) && tiles(w.axis())) return double_planes();
      if (stepped) return w.axis().out < width && !windows.is_whole_plane() ? picked_backward() : runs_backward();
      return w.axis().stride == 2 ? stepped_backward<2>() : stepped_backward<1>();
    }
    if (args.shape.channels_last) {
      if (windows.is_flat_window(2, 2)) return channels_forward<2, 2>();
      if (windows.is_flat_window(3, 3)) return channels_forward<3, 3>();
      return channels_forward<0, 0>();
    }
    if (windows.is_halving(2)) return halving();
    if (windows.is_whole_plane()) return whole();
    if (stepped) return columns();
    phased();
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const AvgPoolArgs& args) {
  Windows windows(args.shape);
  with_dtype(args.shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    AvgPool<S>{args, windows}.run();
  });
}

}  // namespace nnart::cpu

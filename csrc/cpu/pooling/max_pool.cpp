// Max pooling, and what turns its offsets into indices.
#include "core/parallel.h"
#include "cpu/clear.h"
#include "cpu/kernels.h"
#include "cpu/pooling/lines.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// Stands for offsets that nobody wants.
struct NoOffset {};
template <class O>
constexpr bool kWanted = !std::is_same_v<O, NoOffset>;

// The largest elements seen so far and, if wanted, their taps.
template <class C, class O>
struct Largest {
  Vec<C> best{-__builtin_inf()};
  Vec<C> nan{0.0};  // the last one, kept aside where no tap is wanted: an element then waits for one comparison only
  IndexVec<C> tap{};

  NNART_HD void offer(Vec<C> x, Bits<C> at) {
    if constexpr (kWanted<O>) {
      auto taken = math::Max().replaces(x, best);
      best = select(taken, x, best);
      tap = taken.v ? IndexVec<C>{} + at : tap;
    } else {
      best = select(x > best, x, best);
      nan = select(x != x, x, nan);
    }
  }
  NNART_HD Vec<C> value() const {
    if constexpr (kWanted<O>)
      return best;
    else
      return select(nan != nan, nan, best);
  }
};

// Of a pack of channels, whose window has its first tap at `first`.
template <class S, class O>
struct Best {
  using P = Pack<S>;
  using C = typename P::C;
  Largest<C, O> part[P::parts];

  NNART_HD void start(int64_t first) {
    for (auto& one : part) one.tap = IndexVec<C>{} + Bits<C>(first);
  }
  NNART_HD void offer(const P& x, int64_t at) {
    for (int i = 0; i < P::parts; ++i) part[i].offer(x.part[i], Bits<C>(at));
  }
  NNART_HD P value() const {
    P result;
    for (int i = 0; i < P::parts; ++i) result.part[i] = part[i].value();
    return result;
  }
  NNART_HD PackIndex<S> tap() const {
    PackIndex<S> result;
    for (int i = 0; i < P::parts; ++i) result.part[i] = part[i].tap;
    return result;
  }
};

// ---- channels-last: vectors along the channels ----------------------------------------------------------------------

template <class S, class O>
struct Channels {
  using P = Pack<S>;

  const Windows& windows;
  const S* x;
  S* y;
  O* offsets;
  int64_t channels = windows.shape.channels;

  // One output pixel: `packs` packs of channels, the last of `lanes` of them. With kernel sizes the window is whole and
  // flat.
  template <int kernel_h, int kernel_w, int packs>
  NNART_HD void piece(const S* corner, int64_t od, int64_t oh, int64_t ow, int64_t out, int64_t lanes) const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t row = w.axis().in * channels;
    Best<S, O> best[packs];
    auto offer = [&](const S* from, int64_t tap) {
      for (int i = 0; i < packs; ++i) best[i].offer(P::read(from + i * P::size, packs > 1 ? P::size : lanes), tap);
    };
    int64_t first = (d.begin(od) * h.axis().kernel + h.begin(oh)) * w.axis().kernel + w.begin(ow);
    for (auto& one : best) one.start(first);
    for (int i = 0; i < packs; ++i) {
      fetch_target_ahead(y + out + i * P::size);
      if constexpr (kWanted<O>) fetch_target_ahead(offsets + out + i * P::size);
    }
    if constexpr (kernel_h > 0) {
#pragma GCC unroll 3
      for (int kh = 0; kh < kernel_h; ++kh)
#pragma GCC unroll 3
        for (int kw = 0; kw < kernel_w; ++kw) {
          const S* from = corner + kh * row + kw * channels;
          // Whether no window before has read it.
          bool is_new = kh >= kernel_h - h.axis().stride && kw >= kernel_w - w.axis().stride;
          for (int i = 0; is_new && i < packs; ++i) fetch_source_ahead(from + i * P::size);
          offer(from, kh * kernel_w + kw);
        }
    } else {
      for (int64_t kd = d.begin(od); kd < d.end(od); ++kd)
        for (int64_t kh = h.begin(oh); kh < h.end(oh); ++kh) {
          int64_t tap = (kd * h.axis().kernel + kh) * w.axis().kernel;
          const S* line = corner + (kd * d.axis().dilation * h.axis().in + kh * h.axis().dilation) * row;
          for (int64_t kw = w.begin(ow); kw < w.end(ow); ++kw) {
            const S* from = line + kw * w.axis().dilation * channels;
            for (int i = 0; i < packs; ++i) fetch_source_ahead(from + i * P::size);
            offer(from, tap + kw);
          }
        }
    }
    for (int i = 0; i < packs; ++i) {
      best[i].value().write(y + out + i * P::size, packs > 1 ? P::size : lanes);
      if constexpr (kWanted<O>) best[i].tap().write(offsets + out + i * P::size, packs > 1 ? P::size : lanes);
    }
  }
  template <int kernel_h, int kernel_w>
  NNART_HD void pixel(const S* image, int64_t od, int64_t oh, int64_t ow, int64_t out) const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    const S* corner = image + ((d.start(od) * h.axis().in + h.start(oh)) * w.axis().in + w.start(ow)) * channels;
    each_channels<S>(channels, [&](int64_t c, auto packs, int64_t lanes) {
      piece<kernel_h, kernel_w, packs>(corner + c, od, oh, ow, out + c, lanes);
    });
  }

  template <int kernel_h, int kernel_w>
  NNART_HD void all() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t rows = d.axis().out * h.axis().out;
    parallel_for(windows.shape.batch * rows, pool_grain(windows.in * channels / rows),
                 [&](int64_t first, int64_t last) {
                   for (int64_t r = first; r < last; ++r) {
                     const S* image = x + r / rows * windows.in * channels;
                     int64_t od = r % rows / h.axis().out, oh = r % h.axis().out;
                     bool whole = kernel_h > 0 && h.is_whole(oh);
                     for (int64_t ow = 0; ow < w.axis().out; ++ow) {
                       int64_t out = (r * w.axis().out + ow) * channels;
                       if (whole && w.is_whole(ow))
                         pixel<kernel_h, kernel_w>(image, od, oh, ow, out);
                       else
                         pixel<0, 0>(image, od, oh, ow, out);
                     }
                   }
                 });
  }
};

// ---- planes: vectors along the outputs of a line --------------------------------------------------------------------

template <class S, class O>
struct Planes {
  using C = ComputeType<S>;
  using V = Vec<C>;
  static constexpr int64_t width = V::size;

  const Windows& windows;
  const S* x;
  S* y;
  O* offsets;

  // Writes what `taps(best, o)` finds for the outputs of one line; y and offsets may be written up to `end`, the first
  // that is not this thread's: what spills past the line is overwritten with the next.
  template <class Taps>
  NNART_HD void line(int64_t out, int64_t end, const Bits<C>* first_taps, const Taps& taps) const {
    for (int64_t o = 0; o < windows.w.axis().out; o += width) {
      Largest<C, O> best;
      fetch_target_ahead(y + out + o);
      if constexpr (kWanted<O>) std::memcpy(&best.tap, first_taps + o, sizeof best.tap);
      taps(o, [&](V value, Bits<C> at) { best.offer(value, at); });
      int64_t count = least(width, end - out - o);
      if (count == width)
        store(y + out + o, best.value());
      else
        store_partial(y + out + o, best.value(), count);
      if constexpr (kWanted<O>) write_index<C>(offsets + out + o, best.tap, count);
    }
  }

  // Windows of one line or two and two wide that step by their size, without padding, read where they are.
  template <int lines>
  NNART_HD void halving() const {
    const math::PoolAxis &h = windows.h.axis(), &w = windows.w.axis();
    Scratch<Bits<C>> zeros(Use::tables, w.out + width);
    std::memset(zeros.data(), 0, size_t(w.out + width) * sizeof(Bits<C>));
    const Bits<C>* first_taps = zeros.data();
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        for (int64_t oh = 0; oh < h.out; ++oh) {
          const S* upper = x + p * windows.in + lines * oh * w.in;
          line(p * windows.out + oh * w.out, last * windows.out, first_taps, [&](int64_t o, auto offer) {
            for (int k = 0; k < lines; ++k) Halves<S>::fetch_source(upper + k * w.in + 2 * o);
            for (int k = 0; k < lines; ++k) {
              auto halves = Halves<S>::read(upper + k * w.in + 2 * o, w.in - 2 * o);
              offer(halves.even, 2 * k);
              offer(halves.odd, 2 * k + 1);
            }
          });
        }
    });
  }

  // Any window that is not adaptive: lines are copied, Note [phases of a line], and stay until no window needs them.
  template <int kernel_h, int kernel_w>
  NNART_HD void copied() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    PhasedLine<S> shape(w.axis());
    int64_t kernel = kernel_w ? kernel_w : w.axis().kernel;
    int64_t deep = least(d.axis().in, (d.axis().kernel - 1) * d.axis().dilation + 1);
    int64_t high = d.axis().in > 1 ? h.axis().in : least(h.axis().in, (h.axis().kernel - 1) * h.axis().dilation + 1);
    Numbers slots_d(d.axis().in), slots_h(h.axis().in);
    for (int64_t i = 0; i < d.axis().in; ++i) slots_d.data()[i] = i % deep * high;
    for (int64_t i = 0; i < h.axis().in; ++i) slots_h.data()[i] = i % high;
    Scratch<int64_t> shifts(Use::tables, kernel);
    for (int64_t k = 0; k < kernel; ++k) shifts.data()[k] = shape.tap(k);
    const int64_t* shift = shifts.data();
    Scratch<Bits<C>> begins(Use::partial, w.axis().out + width);
    for (int64_t o = 0; o < w.axis().out + width; ++o)
      begins.data()[o] = o < w.axis().out ? Bits<C>(w.begin(o)) : Bits<C>(0);
    const Bits<C>* begin = begins.data();

    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      int64_t elements = deep * high * shape.elements;
      Scratch<C> kept(Use::source, elements + width);
      for (int64_t i = 0; i < elements; i += width) store(kept.data() + i, V(-__builtin_inf()));
      Scratch<int64_t> in_slots(Use::pixels, deep * high);
      struct Row {
        const C* line;
        Bits<C> tap;
      };
      Scratch<Row> row_scratch(Use::tile, d.axis().kernel * h.axis().kernel);
      Scratch<Bits<C>> first_scratch(Use::gradient, w.axis().out + width);
      Row* rows = row_scratch.data();
      Bits<C>* first_taps = first_scratch.data();
      for (int64_t p = first; p < last; ++p) {
        for (int64_t i = 0; i < deep * high; ++i) in_slots.data()[i] = -1;
        int64_t base_of_firsts = -1;
        for (int64_t od = 0; od < d.axis().out; ++od)
          for (int64_t oh = 0; oh < h.axis().out; ++oh) {
            int64_t count = 0;
            for (int64_t kd = d.begin(od); kd < d.end(od); ++kd)
              for (int64_t kh = h.begin(oh); kh < h.end(oh); ++kh) {
                int64_t id = d.input(od, kd), ih = h.input(oh, kh), place = id * h.axis().in + ih;
                int64_t slot = slots_d.data()[id] + slots_h.data()[ih];
                C* line = kept.data() + slot * shape.elements;
                if (in_slots.data()[slot] != place) {
                  shape.fill(line, x + p * windows.in + place * w.axis().in);
                  in_slots.data()[slot] = place;
                }
                rows[count++] = {line, Bits<C>((kd * h.axis().kernel + kh) * kernel)};
              }
            if (kWanted<O> && rows[0].tap != base_of_firsts) {
              base_of_firsts = rows[0].tap;
              for (int64_t o = 0; o < w.axis().out + width; ++o) first_taps[o] = begin[o] + rows[0].tap;
            }
            int64_t out = p * windows.out + (od * h.axis().out + oh) * w.axis().out;
            auto offer_rows = [&](int64_t o, auto offer, int64_t row_count) {
#pragma GCC unroll 3
              for (int64_t r = 0; r < row_count; ++r)
#pragma GCC unroll 3
                for (int64_t k = 0; k < (kernel_w ? kernel_w : kernel); ++k)
                  offer(load(rows[r].line + shift[k] + o), rows[r].tap + Bits<C>(k));
            };
            if (kernel_h > 0 && count == kernel_h)
              line(out, last * windows.out, first_taps, [&](int64_t o, auto offer) { offer_rows(o, offer, kernel_h); });
            else
              line(out, last * windows.out, first_taps, [&](int64_t o, auto offer) { offer_rows(o, offer, count); });
          }
      }
    });
  }

  // One window a plane: each lane has a maximum of its own, of which the first or, among NaNs, the last is the plane's.
  NNART_HD void whole() const {
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      IndexVec<C> lanes;
      for (int lane = 0; lane < width; ++lane) lanes[lane] = lane;
      for (int64_t p = first; p < last; ++p) {
        const S* plane = x + p * windows.in;
        V best(-__builtin_inf());
        IndexVec<C> place = lanes, next_place = lanes;
        int64_t i = 0;
        for (; i + width <= windows.in; i += width, next_place += Bits<C>(width)) {
          fetch_source_ahead(plane + i);
          V next = load(plane + i);
          auto taken = math::Max().replaces(next, best);
          best = select(taken, next, best);
          place = taken.v ? next_place : place;
        }
        C value = -C(__builtin_inf());
        int64_t at = 0;
        auto offer = [&](C next, int64_t where) {
          bool later_nan = next != next && (value == value || where > at);
          if (!(next > value || later_nan || (next == value && where < at))) return;
          value = next;
          at = where;
        };
        for (int lane = 0; i > 0 && lane < width; ++lane) offer(best.v[lane], int64_t(place[lane]));
        for (; i < windows.in; ++i) offer(widen_one<C>(plane + i), i);
        store_one(y + p, value);
        if constexpr (kWanted<O>) offsets[p] = O(at);
      }
    });
  }

  // Adaptive windows and large steps: down the columns first, by vectors, then along each window, one by one. Of equal
  // maxima the first in the order of the rows wins, of NaNs the last.
  NNART_HD void columns() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t in_w = w.axis().in;
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> values(Use::source, in_w + width);
      Scratch<Bits<C>> places(Use::pixels, in_w + width);
      C* value = values.data();
      Bits<C>* place = places.data();
      for (int64_t p = first; p < last; ++p)
        for (int64_t od = 0; od < d.axis().out; ++od)
          for (int64_t oh = 0; oh < h.axis().out; ++oh) {
            Bits<C> first_row = Bits<C>(d.begin(od) * h.axis().kernel + h.begin(oh));
            for (int64_t i = 0; i < in_w; i += width) {
              V best(-__builtin_inf());
              IndexVec<C> row = IndexVec<C>{} + first_row;
              int64_t count = least(width, in_w - i);
              for (int64_t kd = d.begin(od); kd < d.end(od); ++kd)
                for (int64_t kh = h.begin(oh); kh < h.end(oh); ++kh) {
                  const S* from = x + p * windows.in + (d.input(od, kd) * h.axis().in + h.input(oh, kh)) * in_w + i;
                  V next = count == width ? load(from) : load_partial(from, count);
                  auto taken = math::Max().replaces(next, best);
                  best = select(taken, next, best);
                  row = taken.v ? IndexVec<C>{} + Bits<C>(kd * h.axis().kernel + kh) : row;
                }
              store(value + i, best);
              std::memcpy(place + i, &row, sizeof row);
            }
            int64_t out = p * windows.out + (od * h.axis().out + oh) * w.axis().out;
            for (int64_t ow = 0; ow < w.axis().out; ++ow) along(value, place, ow, first_row, out + ow);
          }
    });
  }
  NNART_HD void along(const C* value, const Bits<C>* row, int64_t ow, Bits<C> first_row, int64_t out) const {
    const AxisWindows& w = windows.w;
    C best = -C(__builtin_inf());
    Bits<C> best_row = first_row;
    int64_t best_tap = w.begin(ow);
    for (int64_t kw = w.begin(ow); kw < w.end(ow); ++kw) {
      int64_t i = w.input(ow, kw);
      C next = value[i];
      bool later_nan = next != next && (best == best || row[i] >= best_row);
      bool earlier_tie = next == best && row[i] < best_row;
      if (next > best || later_nan || earlier_tie) {
        best = next;
        best_row = row[i];
        best_tap = kw;
      }
    }
    store_one(y + out, best);
    if constexpr (kWanted<O>) offsets[out] = O(best_row * w.axis().kernel + best_tap);
  }
};

template <class S, class O>
void forward(const MaxPoolArgs& args) {
  Windows windows(args.shape);
  auto* x = static_cast<const S*>(args.x);
  auto* y = static_cast<S*>(args.y);
  O* offsets = nullptr;
  if constexpr (kWanted<O>) offsets = static_cast<O*>(args.offsets);
  if (args.shape.channels_last) {
    Channels<S, O> images{windows, x, y, offsets};
    if (windows.is_flat_window(2, 2)) return images.template all<2, 2>();
    if (windows.is_flat_window(3, 3)) return images.template all<3, 3>();
    return images.template all<0, 0>();
  }
  Planes<S, O> planes{windows, x, y, offsets};
  const math::PoolAxis& w = windows.w.axis();
  if (windows.is_whole_plane()) return planes.whole();
  if (w.adaptive || w.stride > 2) return planes.columns();
  if (windows.is_halving(2)) return planes.template halving<2>();
  if (windows.is_halving(1)) return planes.template halving<1>();
  if (windows.is_flat_window(2, 2)) return planes.template copied<2, 2>();
  if (windows.is_flat_window(3, 3)) return planes.template copied<3, 3>();
  planes.template copied<0, 0>();
}

template <class O>
void indices_of(const MaxPoolIndicesArgs& args) {
  Windows windows(args.shape);
  const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
  auto* offsets = static_cast<const O*>(args.offsets);
  int64_t inner = args.shape.channels_last ? args.shape.channels : 1;
  int64_t images = args.shape.channels_last ? args.shape.batch : windows.planes();
  int64_t rows = d.axis().out * h.axis().out;
  parallel_for(images * rows, pool_grain(w.axis().out * inner), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      int64_t od = r % rows / h.axis().out, oh = r % h.axis().out;
      for (int64_t ow = 0; ow < w.axis().out; ++ow)
        for (int64_t c = 0; c < inner; ++c) {
          int64_t o = (r * w.axis().out + ow) * inner + c;
          uint32_t offset = uint32_t(offsets[o]), kernel_w = uint32_t(w.axis().kernel),
                   kernel_h = uint32_t(h.axis().kernel);
          uint32_t rest = offset / kernel_w;
          int64_t id = d.input(od, rest / kernel_h), ih = h.input(oh, rest % kernel_h);
          args.indices[o] = (id * h.axis().in + ih) * w.axis().in + w.input(ow, offset % kernel_w);
        }
    }
  });
}

template <class S>
void unpool(const MaxUnpoolArgs& args) {
  auto* x = static_cast<const S*>(args.x);
  auto* y = static_cast<S*>(args.y);
  int64_t inner = args.channels_last ? args.channels : 1;
  int64_t images = args.channels_last ? args.batch : args.batch * args.channels;
  parallel_for(images, pool_grain((args.in + args.out) * inner), [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image) {
      S* to = y + image * args.out * inner;
      clear(to, args.out * inner);
      for (int64_t i = 0; i < args.in; ++i)
        for (int64_t c = 0; c < inner; ++c) {
          int64_t at = (image * args.in + i) * inner + c, index = args.indices[at];
          if (uint64_t(index) < uint64_t(args.out))
            to[index * inner + c] = x[at];
          else
            __atomic_store_n(args.wrong_index, index, __ATOMIC_RELAXED);
        }
    }
  });
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaxPoolArgs& args) {
  with_dtype(args.shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (!args.offsets) return forward<S, NoOffset>(args);
    with_offset(args.shape, [&](auto offset) { forward<S, typename decltype(offset)::type>(args); });
  });
}

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaxPoolIndicesArgs& args) {
  with_offset(args.shape, [&](auto offset) { indices_of<typename decltype(offset)::type>(args); });
}

template <>
void Kernels<Isa::NNART_ISA>::launch(const MaxUnpoolArgs& args) {
  with_dtype(args.dtype, [&](auto type) { unpool<typename decltype(type)::type>(args); });
}

}  // namespace nnart::cpu

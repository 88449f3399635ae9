// Max pooling, and what turns its offsets into indices.
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/pooling/lines.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// Stands for offsets that nobody wants.
struct NoOffset {};
template <class O>
constexpr bool kWanted = !std::is_same_v<O, NoOffset>;

// The largest elements seen so far and, if wanted, their taps. Starts with minus infinity at a window's first tap.
template <class S, class O>
struct Best {
  using P = Pack<S>;
  P value = P::all(-std::numeric_limits<double>::infinity());
  PackIndex<S> tap;

  NNART_HD void offer(int part, Vec<typename P::C> x, Bits<typename P::C> at) {
    auto taken = math::Max().replaces(x, value.part[part]);
    value.part[part] = select(taken, x, value.part[part]);
    if constexpr (kWanted<O>) tap.part[part] = taken.v ? IndexVec<typename P::C>{} + at : tap.part[part];
  }
  NNART_HD void offer(const P& x, int64_t at) {
    for (int part = 0; part < P::parts; ++part) offer(part, x.part[part], Bits<typename P::C>(at));
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
    for (auto& one : best) one.tap = PackIndex<S>::all(first);
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
          bool is_new = kernel_h == 2 || (kh == kernel_h - 1 && kw == kernel_w - 1);  // no window before read it
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
      best[i].value.write(y + out + i * P::size, packs > 1 ? P::size : lanes);
      if constexpr (kWanted<O>) best[i].tap.write(offsets + out + i * P::size, packs > 1 ? P::size : lanes);
    }
  }
  template <int kernel_h, int kernel_w>
  NNART_HD void pixel(const S* image, int64_t od, int64_t oh, int64_t ow, int64_t out) const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    const S* corner = image + ((d.start(od) * h.axis().in + h.start(oh)) * w.axis().in + w.start(ow)) * channels;
    constexpr int kPacks = 4 / P::parts;
    int64_t c = 0;
    for (; c + kPacks * P::size <= channels; c += kPacks * P::size)
      piece<kernel_h, kernel_w, kPacks>(corner + c, od, oh, ow, out + c, P::size);
    for (; c < channels; c += P::size)
      piece<kernel_h, kernel_w, 1>(corner + c, od, oh, ow, out + c, least(P::size, channels - c));
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
      V best(-std::numeric_limits<double>::infinity());
      IndexVec<C> tap{};
      fetch_target_ahead(y + out + o);
      if constexpr (kWanted<O>) std::memcpy(&tap, first_taps + o, sizeof tap);
      taps(o, [&](V value, Bits<C> at) {
        auto taken = math::Max().replaces(value, best);
        best = select(taken, value, best);
        if constexpr (kWanted<O>) tap = taken.v ? IndexVec<C>{} + at : tap;
      });
      int64_t count = least(width, end - out - o);
      if (count == width)
        store(y + out + o, best);
      else
        store_partial(y + out + o, best, count);
      if constexpr (kWanted<O>) write_index<C>(offsets + out + o, tap, count);
    }
  }

  // 2x2 windows of stride 2 without padding, read where they are.
  NNART_HD void halving() const {
    const math::PoolAxis &h = windows.h.axis(), &w = windows.w.axis();
    Scratch<Bits<C>> zeros(Use::tables, w.out + width);
    std::memset(zeros.data(), 0, size_t(w.out + width) * sizeof(Bits<C>));
    const Bits<C>* first_taps = zeros.data();
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        for (int64_t oh = 0; oh < h.out; ++oh) {
          const S* upper = x + p * windows.in + 2 * oh * w.in;
          line(p * windows.out + oh * w.out, last * windows.out, first_taps, [&](int64_t o, auto offer) {
            for (const S* p : {upper + 2 * o, upper + w.in + 2 * o}) {
              fetch_source_ahead(p);
              fetch_source_ahead(p + width);
            }
            auto a = Halves<S>::read(upper + 2 * o, w.in - 2 * o),
                 b = Halves<S>::read(upper + w.in + 2 * o, w.in - 2 * o);
            offer(a.even, 0);
            offer(a.odd, 1);
            offer(b.even, 2);
            offer(b.odd, 3);
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
    Scratch<int64_t> shifts(Use::tables, kernel);
    for (int64_t k = 0; k < kernel; ++k) shifts.data()[k] = shape.tap(k);
    const int64_t* shift = shifts.data();
    Scratch<Bits<C>> begins(Use::partial, w.axis().out + width);
    for (int64_t o = 0; o < w.axis().out + width; ++o)
      begins.data()[o] = o < w.axis().out ? Bits<C>(w.begin(o)) : Bits<C>(0);
    const Bits<C>* begin = begins.data();

    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> kept(Use::source, deep * high * shape.elements);
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
                int64_t slot = id % deep * high + ih % high;
                C* line = kept.data() + slot * shape.elements;
                if (in_slots.data()[slot] != place) {
                  shape.fill(line, x + p * windows.in + place * w.axis().in, -std::numeric_limits<C>::infinity());
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
        V best(-std::numeric_limits<double>::infinity());
        IndexVec<C> place = lanes, next_place = lanes;
        int64_t i = 0;
        for (; i + width <= windows.in; i += width, next_place += Bits<C>(width)) {
          fetch_source_ahead(plane + i);
          V next = load(plane + i);
          auto taken = math::Max().replaces(next, best);
          best = select(taken, next, best);
          place = taken.v ? next_place : place;
        }
        C value = -std::numeric_limits<C>::infinity();
        int64_t at = 0;
        auto offer = [&](C next, int64_t where) {
          bool later_nan = next != next && (value == value || where > at);
          if (!(next > value || later_nan || (next == value && where < at))) return;
          value = next;
          at = where;
        };
        for (int lane = 0; i > 0 && lane < width; ++lane) offer(best.v[lane], int64_t(place[lane]));
        for (; i < windows.in; ++i) offer(load_one(plane + i), i);
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
              V best(-std::numeric_limits<double>::infinity());
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
    C best = -std::numeric_limits<C>::infinity();
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
  const math::PoolAxis &h = windows.h.axis(), &w = windows.w.axis();
  if (windows.is_whole_plane()) return planes.whole();
  if (w.adaptive || w.stride > 2) return planes.columns();
  bool halves = h.stride == 2 && w.stride == 2 && h.pad == 0 && w.pad == 0 && h.out * 2 <= h.in && w.out * 2 <= w.in;
  if (windows.is_flat_window(2, 2) && halves) return planes.halving();
  if (windows.is_flat_window(2, 2)) return planes.template copied<2, 2>();
  if (windows.is_flat_window(3, 3)) return planes.template copied<3, 3>();
  planes.template copied<0, 0>();
}

template <class Visit>
void with_offset(const PoolShape& shape, Visit visit) {
  switch (pool_offset_bytes(shape)) {
    case 1:
      return visit(Type<uint8_t>{});
    case 2:
      return visit(Type<uint16_t>{});
    default:
      return visit(Type<int32_t>{});
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Taps of one input that a gather may visit: beyond it, scattering each output once is less work.
constexpr int64_t kMaxGathered = 16;
// Inputs an output up to which a gather pays: where outputs are fewer, most inputs get zeros.
constexpr int64_t kMaxInputsAnOutput = 12;
// Channels that one task of a channels-last scatter takes: two cache lines of 16-bit elements or more.
constexpr int64_t kChannelBlock = 64;

template <class S, class O>
struct Backward {
  using C = ComputeType<S>;
  using V = Vec<C>;
  using P = Pack<S>;
  static constexpr int64_t width = V::size;
  static constexpr bool kSumsInPlace = sizeof(S) == sizeof(C);

  const Windows& windows;
  const S* grad_y;
  const O* offsets;
  S* grad_x;
  int64_t channels = windows.shape.channels;

  // From the first input of a window to the one at each tap, in the plane.
  struct Steps {
    std::vector<int64_t> of;
    explicit Steps(const Windows& windows) {
      const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
      of.reserve(size_t(d.kernel * h.kernel * w.kernel));
      for (int64_t kd = 0; kd < d.kernel; ++kd)
        for (int64_t kh = 0; kh < h.kernel; ++kh)
          for (int64_t kw = 0; kw < w.kernel; ++kw)
            of.push_back((kd * d.dilation * h.in + kh * h.dilation) * w.in + kw * w.dilation);
    }
  };
  // visit(place of the output in its plane, place of its window's first input)
  template <class Visit>
  NNART_HD void each_output(const Visit& visit) const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t o = 0;
    for (int64_t od = 0; od < d.axis().out; ++od)
      for (int64_t oh = 0; oh < h.axis().out; ++oh) {
        int64_t line = (d.start(od) * h.axis().in + h.start(oh)) * w.axis().in;
        for (int64_t ow = 0; ow < w.axis().out; ++ow, ++o) visit(o, line + w.start(ow));
      }
  }
  // The input that an output took, or -1 for an offset that no window has.
  NNART_HD int64_t taken(const Steps& steps, int64_t start, O offset) const {
    if (uint64_t(offset) >= steps.of.size()) return -1;
    int64_t i = start + steps.of.data()[uint64_t(offset)];
    return uint64_t(i) < uint64_t(windows.in) ? i : -1;
  }

  // Each output adds to the input it took, in the order of the outputs: in place, or in scratch where storage rounds.
  // In disjoint windows it is the only one.
  NNART_HD void scatter_planes(bool disjoint) const {
    const Steps steps(windows);
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> scratch(Use::gradient, kSumsInPlace || disjoint ? 0 : windows.in);
      for (int64_t p = first; p < last; ++p) {
        const S* from = grad_y + p * windows.out;
        const O* offset = offsets + p * windows.out;
        S* to = grad_x + p * windows.in;
        if (disjoint) {
          std::memset(static_cast<void*>(to), 0, size_t(windows.in) * sizeof(S));
          each_output([&](int64_t o, int64_t start) {
            int64_t i = taken(steps, start, offset[o]);
            if (i >= 0) to[i] = from[o];
          });
          continue;
        }
        C* sums = scratch.data();
        if constexpr (kSumsInPlace) sums = to;
        std::memset(sums, 0, size_t(windows.in) * sizeof(C));
        each_output([&](int64_t o, int64_t start) {
          int64_t i = taken(steps, start, offset[o]);
          if (i >= 0) sums[i] += load_one(from + o);
        });
        if constexpr (!kSumsInPlace) copy_out(sums, to, windows.in);
      }
    });
  }
  NNART_HD static void copy_out(const C* sums, S* target, int64_t n) {
    int64_t i = 0;
    for (; i + width <= n; i += width) store(target + i, load(sums + i));
    if (i < n) store_partial(target + i, load_partial(sums + i, n - i), n - i);
  }
  NNART_HD void scatter_channels(bool disjoint) const {
    const Steps steps(windows);
    if (disjoint) {
      parallel_for(windows.shape.batch, 1, [&](int64_t first, int64_t last) {
        for (int64_t image = first; image < last; ++image) {
          const S* from = grad_y + image * windows.out * channels;
          const O* offset = offsets + image * windows.out * channels;
          S* to = grad_x + image * windows.in * channels;
          std::memset(static_cast<void*>(to), 0, size_t(windows.in * channels) * sizeof(S));
          each_output([&](int64_t o, int64_t start) {
            for (int64_t c = 0; c < channels; ++c) {
              int64_t i = taken(steps, start, offset[o * channels + c]);
              if (i >= 0) to[i * channels + c] = from[o * channels + c];
            }
          });
        }
      });
      return;
    }
    int64_t block = least(channels, kChannelBlock), blocks = ceil_div(channels, block);
    parallel_for(windows.shape.batch * blocks, pool_grain(windows.in * block), [&](int64_t first, int64_t last) {
      Scratch<C> scratch(Use::gradient, kSumsInPlace ? 0 : windows.in * block);
      for (int64_t item = first; item < last; ++item) {
        int64_t begin = item % blocks * block, count = least(block, channels - begin), image = item / blocks;
        int64_t pitch = kSumsInPlace ? channels : count;
        S* target = grad_x + image * windows.in * channels + begin;
        C* sums = scratch.data();
        if constexpr (kSumsInPlace) sums = target;
        for (int64_t i = 0; i < windows.in; ++i) std::memset(sums + i * pitch, 0, size_t(count) * sizeof(C));
        each_output([&](int64_t o, int64_t start) {
          int64_t from = (image * windows.out + o) * channels + begin;
          for (int64_t c = 0; c < count; ++c) {
            int64_t i = taken(steps, start, offsets[from + c]);
            if (i >= 0) sums[i * pitch + c] += load_one(grad_y + from + c);
          }
        });
        if constexpr (!kSumsInPlace)
          for (int64_t i = 0; i < windows.in; ++i) copy_out(sums + i * pitch, target + i * channels, count);
      }
    });
  }

  NNART_HD static void add_asked(P& sum, const P& grad, const O* offset, int64_t tap) {
    if constexpr (P::parts == 1) {
      sum.part[0] = add_where(sum.part[0], grad.part[0], offset, Bits<C>(tap));
    } else {
      PackIndex<S> index = PackIndex<S>::read(offset);
      for (int part = 0; part < P::parts; ++part) {
        Mask<C> mine{index.part[part] == IndexVec<C>{} + Bits<C>(tap)};
        sum.part[part] = select(mine, sum.part[part] + grad.part[part], sum.part[part]);
      }
    }
  }

  // Channels-last, each input asks the windows it belongs to.
  NNART_HD void gather_channels() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t rows = d.axis().in * h.axis().in;
    parallel_for(windows.shape.batch * rows, pool_grain(w.axis().in * channels), [&](int64_t first, int64_t last) {
      struct Asked {
        int64_t out, tap;
      };
      Scratch<Asked> list(Use::tables, overlap(d.axis()) * overlap(h.axis()) * overlap(w.axis()));
      Asked* asked = list.data();
      for (int64_t r = first; r < last; ++r) {
        int64_t image = r / rows, id = r % rows / h.axis().in, ih = r % h.axis().in;
        for (int64_t iw = 0; iw < w.axis().in; ++iw) {
          int64_t count = 0;
          for (int64_t od = d.first_output(id); od < d.end_output(id); ++od)
            for (int64_t oh = h.first_output(ih); oh < h.end_output(ih); ++oh)
              for (int64_t ow = w.first_output(iw); ow < w.end_output(iw); ++ow) {
                int64_t kd = d.tap(id, od), kh = h.tap(ih, oh), kw = w.tap(iw, ow);
                if (kd < 0 || kh < 0 || kw < 0) continue;
                int64_t o = (od * h.axis().out + oh) * w.axis().out + ow;
                asked[count++] = {(image * windows.out + o) * channels,
                                  (kd * h.axis().kernel + kh) * w.axis().kernel + kw};
              }
          S* to = grad_x + (r * w.axis().in + iw) * channels;
          auto ask = [&](auto fixed) {
            constexpr int kPacks = 4 / P::parts;
            int64_t c = 0, asks = fixed() ? fixed() : count;
            for (; c + kPacks * P::size <= channels; c += kPacks * P::size) {
              P sum[kPacks];
              for (int i = 0; i < kPacks; ++i) {
                sum[i] = P::all(0);
                fetch_target_ahead(to + c + i * P::size);
              }
              for (int64_t a = 0; a < asks; ++a)
                for (int i = 0; i < kPacks; ++i) {
                  int64_t at = asked[a].out + c + i * P::size;
                  add_asked(sum[i], P::read(grad_y + at), offsets + at, asked[a].tap);
                }
              for (int i = 0; i < kPacks; ++i) sum[i].write(to + c + i * P::size);
            }
            for (; c < channels; c += P::size) {
              int64_t lanes = least(P::size, channels - c);
              P sum = P::all(0);
              fetch_target_ahead(to + c);
              for (int64_t a = 0; a < asks; ++a) {
                int64_t at = asked[a].out + c;
                O some[P::size] = {};
                if (lanes < P::size) std::memcpy(some, offsets + at, size_t(lanes) * sizeof(O));
                add_asked(sum, P::read(grad_y + at, lanes), lanes < P::size ? some : offsets + at, asked[a].tap);
              }
              sum.write(to + c, lanes);
            }
          };
          if (count == 1)
            ask([] { return 1; });
          else if (count == 2)
            ask([] { return 2; });
          else if (count == 4)
            ask([] { return 4; });
          else if (count == 9)
            ask([] { return 9; });
          else
            ask([] { return 0; });
        }
      }
    });
  }

  // Of windows that tile their planes, for each line of outputs: visit(its place in y, its first window's in x); and
  // for each line of a window: visit(its first tap, the way from the window's first input to it).
  template <class Visit>
  NNART_HD void each_tiled_line(int64_t first, int64_t last, const Visit& visit) const {
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    for (int64_t r = first; r < last; ++r) {
      int64_t oh = r % h.out, id = r / h.out * d.kernel;
      visit(r * w.out, (id * h.in + oh * h.kernel) * w.in);
    }
  }
  template <class Visit>
  NNART_HD void each_window_line(const Visit& visit) const {
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    for (int64_t kd = 0; kd < d.kernel; ++kd)
      for (int64_t kh = 0; kh < h.kernel; ++kh) visit((kd * h.kernel + kh) * w.kernel, (kd * h.in + kh) * w.in);
  }

  // Channels-last, windows that tile the input: each output writes all of its window.
  NNART_HD void tile_channels() const {
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    int64_t window = d.kernel * h.kernel * w.kernel;
    parallel_for(windows.shape.batch * d.out * h.out, pool_grain(window * w.out * channels), [&](int64_t f, int64_t l) {
      each_tiled_line(f, l, [&](int64_t out, int64_t in) {
        for (int64_t ow = 0; ow < w.out; ++ow)
          for (int64_t c = 0; c < channels; c += P::size) {
            int64_t lanes = least(P::size, channels - c), from = (out + ow) * channels + c;
            P grad = P::read(grad_y + from, lanes);
            PackIndex<S> index = PackIndex<S>::read(offsets + from, lanes);
            S* corner = grad_x + (in + ow * w.kernel) * channels + c;
            each_window_line([&](int64_t tap, int64_t step) {
              for (int64_t kw = 0; kw < w.kernel; ++kw) {
                P mine;
                for (int part = 0; part < P::parts; ++part)
                  mine.part[part] =
                      select(Mask<C>{index.part[part] == IndexVec<C>{} + Bits<C>(tap + kw)}, grad.part[part], V(0));
                S* to = corner + (step + kw) * channels;
                fetch_target_ahead(to);
                mine.write(to, lanes);
              }
            });
          }
      });
    });
  }

  // Planes, windows that tile the input and are two wide.
  NNART_HD void double_planes() const {
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    int64_t lines = windows.planes() * d.out * h.out;
    parallel_for(lines, pool_grain(d.kernel * h.kernel * w.in), [&](int64_t first, int64_t last) {
      each_tiled_line(first, last, [&](int64_t out, int64_t in) {
        for (int64_t o = 0; o < w.out; o += width) {
          int64_t count = least(width, w.out - o);
          const S* from = grad_y + out + o;
          V grad = count == width ? load(from) : load_partial(from, count);
          O some[width] = {};
          if (count < width) std::memcpy(some, offsets + out + o, size_t(count) * sizeof(O));
          IndexVec<C> tap = read_index<C>(count < width ? some : offsets + out + o);
          auto mine = [&](int64_t k) { return select(Mask<C>{tap == IndexVec<C>{} + Bits<C>(k)}, grad, V(0)); };
          each_window_line([&](int64_t k, int64_t step) {
            S* to = grad_x + in + step + 2 * o;
            fetch_target_ahead(to);
            fetch_target_ahead(to + width);
            Halves<S>{mine(k), mine(k + 1)}.write(to, w.in - 2 * o);
          });
        }
      });
    });
  }

  // Planes, for steps of 1 or 2 along a line: the gradients and the offsets of a plane get zeros around their lines,
  // and the vectors run along the inputs, of step 2 along the even and the odd ones.
  template <int step>
  NNART_HD void gather_planes() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    const math::PoolAxis& axis = w.axis();
    // Input step * j + phase is tap k of output j + shift, for the taps where that is whole.
    struct Tap {
      int64_t shift;
      Bits<C> k;
    };
    Scratch<Tap> tap_scratch(Use::tables, step * axis.kernel);
    int64_t counts[step], least_shift = 0, most_shift = 0;
    for (int64_t phase = 0; phase < step; ++phase) {
      counts[phase] = 0;
      for (int64_t k = axis.kernel; k-- > 0;) {
        int64_t place = phase + axis.pad - k * axis.dilation;
        if (modulo(place, step) != 0) continue;
        int64_t shift = div_floor(place, step);
        tap_scratch.data()[phase * axis.kernel + counts[phase]++] = {shift, Bits<C>(k)};
        least_shift = least(least_shift, shift);
        most_shift = most(most_shift, shift);
      }
    }
    const Tap* taps = tap_scratch.data();
    int64_t margin = -least_shift;
    int64_t pitch = margin + ceil_div(most(axis.out, ceil_div(axis.in, step)) + most_shift, width) * width + width;
    int64_t lines = d.axis().out * h.axis().out;

    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> grads(Use::gradient, lines * pitch);
      Scratch<O> kept_offsets(Use::pixels, lines * pitch);
      struct Row {
        const C* grad;
        const O* offset;
        Bits<C> tap;
      };
      Scratch<Row> row_scratch(Use::tile, overlap(d.axis()) * overlap(h.axis()));
      Row* rows = row_scratch.data();
      std::memset(grads.data(), 0, size_t(lines * pitch) * sizeof(C));
      std::memset(kept_offsets.data(), 0, size_t(lines * pitch) * sizeof(O));
      for (int64_t p = first; p < last; ++p) {
        // Beside a line lie other offsets, which meet gradients of zero: they need no zeros of their own, but memory.
        bool in_place = p * windows.out >= margin && (p + 1) * windows.out + pitch <= windows.planes() * windows.out;
        for (int64_t l = 0; l < lines; ++l) {
          const S* from = grad_y + p * windows.out + l * axis.out;
          C* to = grads.data() + l * pitch + margin;
          for (int64_t o = 0; o < axis.out; o += width) {
            int64_t count = least(width, axis.out - o);
            store(to + o, count == width ? load(from + o) : load_partial(from + o, count));
          }
          if (!in_place)
            std::memcpy(kept_offsets.data() + l * pitch + margin, offsets + p * windows.out + l * axis.out,
                        size_t(axis.out) * sizeof(O));
        }
        for (int64_t id = 0; id < d.axis().in; ++id)
          for (int64_t ih = 0; ih < h.axis().in; ++ih) {
            int64_t count = 0;
            for (int64_t od = d.first_output(id); od < d.end_output(id); ++od)
              for (int64_t oh = h.first_output(ih); oh < h.end_output(ih); ++oh) {
                int64_t kd = d.tap(id, od), kh = h.tap(ih, oh);
                if (kd < 0 || kh < 0) continue;
                int64_t l = od * h.axis().out + oh, at = l * pitch + margin;
                rows[count++] = {grads.data() + at,
                                 in_place ? offsets + p * windows.out + l * axis.out : kept_offsets.data() + at,
                                 Bits<C>((kd * h.axis().kernel + kh) * axis.kernel)};
              }
            S* to = grad_x + p * windows.in + (id * h.axis().in + ih) * axis.in;
            auto sum = [&](int64_t phase, int64_t j) {
              V total(0);
              for (int64_t r = 0; r < count; ++r)
                for (int64_t t = 0; t < counts[phase]; ++t) {
                  Tap tap = taps[phase * axis.kernel + t];
                  total = add_where(total, load(rows[r].grad + j + tap.shift), rows[r].offset + j + tap.shift,
                                    Bits<C>(rows[r].tap + tap.k));
                }
              return total;
            };
            for (int64_t j = 0; step * j < axis.in; j += width) {
              int64_t left = axis.in - step * j;
              fetch_target_ahead(to + step * j);
              if constexpr (step == 2) {
                fetch_target_ahead(to + 2 * j + width);
                Halves<S>{sum(0, j), sum(1, j)}.write(to + 2 * j, left);
              } else if (left >= width) {
                store(to + j, sum(0, j));
              } else {
                store_partial(to + j, sum(0, j), left);
              }
            }
          }
      }
    });
  }

  NNART_HD void run() const {
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    bool tiled = tiles(d) && tiles(h) && tiles(w) && d.kernel * h.kernel * w.kernel <= kMaxGathered;
    bool disjoint = windows.are_disjoint();
    bool gathers = sizeof(O) == 1 && overlap(d) * overlap(h) * overlap(w) <= kMaxGathered &&
                   windows.in <= kMaxInputsAnOutput * windows.out;
    if (windows.shape.channels_last) {
      if (tiled) return tile_channels();
      if (gathers) return gather_channels();
      return scatter_channels(disjoint);
    }
    if (tiled && w.kernel == 2) return double_planes();
    bool narrow = w.in < 2 * width;  // then most lanes would be idle
    if (disjoint || !gathers || w.adaptive || w.stride > 2 || narrow) return scatter_planes(disjoint);
    if (w.stride == 1) return gather_planes<1>();
    gather_planes<2>();
  }
};

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
      std::memset(static_cast<void*>(to), 0, size_t(args.out * inner) * sizeof(S));
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
void Kernels<Isa::NNART_ISA>::launch(const MaxPoolBackwardArgs& args) {
  Windows windows(args.shape);
  with_dtype(args.shape.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    with_offset(args.shape, [&](auto offset) {
      using O = typename decltype(offset)::type;
      Backward<S, O>{windows, static_cast<const S*>(args.grad_y), static_cast<const O*>(args.offsets),
                     static_cast<S*>(args.grad_x)}
          .run();
    });
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

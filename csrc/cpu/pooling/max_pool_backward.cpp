// The gradient of max pooling: each output's, to the input that its offset names.
#include "core/parallel.h"
#include "cpu/clear.h"
#include "cpu/kernels.h"
#include "cpu/pooling/lines.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

// Inputs that windows which tile their planes may have, each of which is written for every output.
constexpr int64_t kMaxTiled = 16;
// Windows that a gather may ask for each output: beyond it, scattering each output once is less work.
constexpr int64_t kMaxAsked = 24;
// Note [picked gradients]: inputs of a plane for which it is worth while, slots, and planes for each of those.
constexpr int64_t kMostPicked = 2048;
constexpr int64_t kMostSlots = 3;
constexpr int64_t kPlanesForPicks = 64;
// Planes that a scatter goes through side by side, and elements up to which they are small ones.
constexpr int kTogether = 4, kSmallTogether = 8;
constexpr int64_t kSmallPlane = 256;
// Bytes of small planes that are cleared at once.
constexpr int64_t kClearedTogether = 8 << 10;
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

  // From the first input of a window to the one at each tap, where inputs of a plane are `pitch` apart; far from it for
  // a byte that is no tap.
  struct Steps {
    static constexpr int64_t kFar = int64_t{1} << 62;
    int64_t count, pitch;
    Numbers of;
    Steps(const Windows& windows, int64_t pitch)
        : count(windows.d.axis().kernel * windows.h.axis().kernel * windows.w.axis().kernel),
          pitch(pitch),
          of(most(count, 256)) {
      const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
      int64_t* next = of.data();
      for (int64_t kd = 0; kd < d.kernel; ++kd)
        for (int64_t kh = 0; kh < h.kernel; ++kh)
          for (int64_t kw = 0; kw < w.kernel; ++kw)
            *next++ = ((kd * d.dilation * h.in + kh * h.dilation) * w.in + kw * w.dilation) * pitch;
      while (next < of.data() + 256) *next++ = kFar;
    }
  };
  // visit(place of the output in its plane, place of its window's first input)
  template <class Visit>
  NNART_HD void each_output(const Visit& visit) const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    const int64_t out_w = w.axis().out, stride = w.axis().stride;
    int64_t o = 0;
    for (int64_t od = 0; od < d.axis().out; ++od)
      for (int64_t oh = 0; oh < h.axis().out; ++oh) {
        int64_t line = (d.start(od) * h.axis().in + h.start(oh)) * w.axis().in;
        if (w.axis().adaptive) {
          for (int64_t ow = 0; ow < out_w; ++ow, ++o) visit(o, line + w.start(ow));
        } else {
          int64_t start = line + w.start(0);
          for (int64_t end = o + out_w; o < end; ++o, start += stride) visit(o, start);
        }
      }
  }
  // Where the input is that an output took, given where its window begins; beyond the plane for an offset that no
  // window has.
  NNART_HD uint64_t taken(const int64_t* steps, int64_t count, int64_t start, O offset) const {
    if (sizeof(O) > 1 && uint64_t(offset) >= uint64_t(count)) return uint64_t(Steps::kFar);
    return uint64_t(start + steps[uint64_t(offset)]);
  }

  // One window a plane: all is 0 but the input it took.
  NNART_HD void whole() const {
    int64_t inner = windows.shape.channels_last ? channels : 1;
    parallel_for(windows.planes() / inner, pool_grain(windows.in * inner), [&](int64_t first, int64_t last) {
      int64_t elements = windows.in * inner, together = most(1, kClearedTogether / (elements * int64_t(sizeof(S))));
      for (int64_t image = first; image < last; ++image) {
        S* to = grad_x + image * elements;
        if ((image - first) % together == 0) clear(to, least(together, last - image) * elements);
        for (int64_t c = 0; c < inner; ++c)
          if (auto i = uint64_t(offsets[image * inner + c]); i < uint64_t(windows.in))
            to[int64_t(i) * inner + c] = grad_y[image * inner + c];
      }
    });
  }

  // Each output adds to the input it took, in the order of the outputs: in place, or in scratch where storage rounds.
  // In disjoint windows it is the only one.
  NNART_HD void scatter_planes(bool disjoint) const {
    const Steps steps(windows, 1);
    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      bool small = windows.in <= kSmallPlane;
      int64_t together = small ? kSmallTogether : kTogether, p = first;
      Scratch<C> scratch(Use::gradient, kSumsInPlace || disjoint ? 0 : together * windows.in);
      for (; small && p + kSmallTogether <= last; p += kSmallTogether)
        scatter<kSmallTogether>(steps, p, disjoint, scratch.data());
      for (; p + kTogether <= last; p += kTogether) scatter<kTogether>(steps, p, disjoint, scratch.data());
      for (; p < last; ++p) scatter<1>(steps, p, disjoint, scratch.data());
    });
  }
  // Planes side by side: an output that adds to what the one before it did waits for that, but not the next plane's.
  template <int planes>
  NNART_HD void scatter(const Steps& steps, int64_t p, bool disjoint, C* scratch) const {
    const int64_t *step = steps.of.data(), in = windows.in, out = windows.out;
    const S* from = grad_y + p * out;
    const O* offset = offsets + p * out;
    S* to = grad_x + p * in;
    if (disjoint) {
      clear(to, planes * in);
      each_output([&](int64_t o, int64_t start) {
        for (int k = 0; k < planes; ++k) {
          uint64_t i = taken(step, steps.count, start, offset[k * out + o]);
          if (i < uint64_t(in)) to[k * in + int64_t(i)] = from[k * out + o];
        }
      });
      return;
    }
    C* sums = scratch;
    Scratch<C> widened(Use::source, kSumsInPlace ? 0 : planes * out + width);
    const C* grads = widened.data();
    if constexpr (kSumsInPlace) {
      sums = to;
      grads = from;
    } else {
      for (int64_t o = 0; o < planes * out; o += width) {
        int64_t count = planes * out - o;
        store(widened.data() + o, count >= width ? load(from + o) : load_partial(from + o, count));
      }
    }
    clear(sums, planes * in);
    each_output([&](int64_t o, int64_t start) {
      for (int k = 0; k < planes; ++k) {
        uint64_t i = taken(step, steps.count, start, offset[k * out + o]);
        if (i < uint64_t(in)) sums[k * in + int64_t(i)] += grads[k * out + o];
      }
    });
    if constexpr (!kSumsInPlace) copy_out(sums, to, planes * in);
  }
  NNART_HD static void copy_out(const C* sums, S* target, int64_t n) {
    int64_t i = 0;
    for (; i + width <= n; i += width) store(target + i, load(sums + i));
    if (i < n) store_partial(target + i, load_partial(sums + i, n - i), n - i);
  }
  NNART_HD void scatter_channels(bool disjoint) const {
    int64_t block = least(channels, kChannelBlock), blocks = ceil_div(channels, block);
    const Steps steps(windows, kSumsInPlace || disjoint ? channels : block);
    const int64_t *step = steps.of.data(), pitch = steps.pitch;
    const auto end = uint64_t(windows.in * pitch);
    if (disjoint) {
      parallel_for(windows.shape.batch, 1, [&](int64_t first, int64_t last) {
        for (int64_t image = first; image < last; ++image) {
          const S* from = grad_y + image * windows.out * channels;
          const O* offset = offsets + image * windows.out * channels;
          S* to = grad_x + image * windows.in * channels;
          clear(to, windows.in * channels);
          each_output([&](int64_t o, int64_t start) {
            for (int64_t c = 0; c < channels; ++c) {
              uint64_t i = taken(step, steps.count, start * channels, offset[o * channels + c]);
              if (i < end) to[int64_t(i) + c] = from[o * channels + c];
            }
          });
        }
      });
      return;
    }
    parallel_for(windows.shape.batch * blocks, pool_grain(windows.in * block), [&](int64_t first, int64_t last) {
      Scratch<C> scratch(Use::gradient, kSumsInPlace ? 0 : windows.in * block);
      for (int64_t item = first; item < last; ++item) {
        int64_t begin = item % blocks * block, count = least(block, channels - begin), image = item / blocks;
        S* target = grad_x + image * windows.in * channels + begin;
        C* sums = scratch.data();
        if constexpr (kSumsInPlace) sums = target;
        int64_t run = count == pitch ? windows.in * pitch : count;  // what is cleared at once
        for (int64_t i = 0; i < windows.in * pitch; i += most(run, pitch)) clear(sums + i, run);
        each_output([&](int64_t o, int64_t start) {
          int64_t from = (image * windows.out + o) * channels + begin;
          for (int64_t c = 0; c < count; ++c) {
            uint64_t i = taken(step, steps.count, start * pitch, offsets[from + c]);
            if (i < end) sums[int64_t(i) + c] += widen_one<C>(grad_y + from + c);
          }
        });
        if (kSumsInPlace) continue;
        if (count == channels) {
          copy_out(sums, target, windows.in * channels);
          continue;
        }
        for (int64_t i = 0; i < windows.in; ++i) copy_out(sums + i * pitch, target + i * channels, count);
      }
    });
  }

  // Which lanes of a pack a window's offset names, and the sum with its gradient there.
  NNART_HD static void add_asked(P& sum, const P& grad, const O* offset, int64_t lanes, int64_t tap) {
    if constexpr (P::parts == 1) {
      if (lanes == P::size) {
        sum.part[0] = TapMatch<C, O>(tap).add(sum.part[0], grad.part[0], offset);
        return;
      }
    }
    PackIndex<S> index = PackIndex<S>::read(offset, lanes);
    for (int part = 0; part < P::parts; ++part) {
      Mask<C> mine{index.part[part] == IndexVec<C>{} + Bits<C>(tap)};
      sum.part[part] = select(mine, sum.part[part] + grad.part[part], sum.part[part]);
    }
  }

  // The outputs whose windows reach an input of an axis, with their taps, those of input i from begin(i) to begin(i +
  // 1).
  struct Asking {
    struct Window {
      int64_t out, tap;
    };
    Numbers begins;
    Scratch<Window> list;
    Asking(const AxisWindows& axis, Use use)
        : begins(axis.axis().in + 1), list(use, axis.axis().in * overlap(axis.axis())) {
      int64_t count = 0;
      for (int64_t i = 0; i < axis.axis().in; ++i) {
        begins.data()[i] = count;
        for (int64_t o = axis.first_output(i); o < axis.end_output(i); ++o)
          if (int64_t tap = axis.tap(i, o); tap >= 0) list.data()[count++] = {o, tap};
      }
      begins.data()[axis.axis().in] = count;
    }
    NNART_HD const Window* begin(int64_t i) const { return list.data() + begins.data()[i]; }
    NNART_HD const Window* end(int64_t i) const { return list.data() + begins.data()[i + 1]; }
  };

  // Channels-last, each input asks the windows it belongs to.
  NNART_HD void gather_channels() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    int64_t rows = d.axis().in * h.axis().in;
    const Asking across(w, Use::pixels);
    parallel_for(windows.shape.batch * rows, pool_grain(w.axis().in * channels), [&](int64_t first, int64_t last) {
      struct Line {
        const S* grad;
        const O* offset;
        int64_t tap;
      };
      Scratch<Line> list(Use::tables, overlap(d.axis()) * overlap(h.axis()));
      Line* lines = list.data();
      for (int64_t r = first; r < last; ++r) {
        int64_t image = r / rows, id = r % rows / h.axis().in, ih = r % h.axis().in, line_count = 0;
        for (int64_t od = d.first_output(id); od < d.end_output(id); ++od)
          for (int64_t oh = h.first_output(ih); oh < h.end_output(ih); ++oh) {
            int64_t kd = d.tap(id, od), kh = h.tap(ih, oh);
            if (kd < 0 || kh < 0) continue;
            int64_t at = (image * windows.out + (od * h.axis().out + oh) * w.axis().out) * channels;
            lines[line_count++] = {grad_y + at, offsets + at, (kd * h.axis().kernel + kh) * w.axis().kernel};
          }
        for (int64_t iw = 0; iw < w.axis().in; ++iw) {
          auto* beside = across.begin(iw);
          S* to = grad_x + (r * w.axis().in + iw) * channels;
          with_count<1, 2, 3>(across.end(iw) - beside, [&](auto count) {
            each_channels<S, true>(channels, [&](int64_t c, auto packs, int64_t some) {
              // Known to be whole where there are several: then nothing asks for each of them.
              int64_t lanes = packs > 1 ? P::size : some;
              P sum[packs];
              for (int i = 0; i < packs; ++i) {
                sum[i] = P::all(0);
                fetch_target_ahead(to + c + i * P::size);
              }
              if (line_count > 0 && count() > 0) {  // no line before has read the last one
                int64_t last_read = beside[count() - 1].out * channels + c;
                const Line& last_line = lines[line_count - 1];
                fetch_source_ahead(last_line.offset + last_read);
                for (int i = 0; i < packs; ++i) fetch_source_ahead(last_line.grad + last_read + i * P::size);
              }
              for (const Line* line = lines; line < lines + line_count; ++line)
                for (int64_t k = 0; k < count(); ++k) {
                  int64_t first = beside[k].out * channels + c, tap = line->tap + beside[k].tap;
                  for (int i = 0; i < packs; ++i) {
                    int64_t at = first + i * P::size;
                    add_asked(sum[i], P::read(line->grad + at, lanes), line->offset + at, lanes, tap);
                  }
                }
              for (int i = 0; i < packs; ++i) sum[i].write(to + c + i * P::size, lanes);
            });
          });
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
          IndexVec<C> tap = read_index<C>(offsets + out + o, count);
          auto mine = [&](int64_t k) { return select(Mask<C>{tap == IndexVec<C>{} + Bits<C>(k)}, grad, V(0)); };
          each_window_line([&](int64_t k, int64_t step) {
            S* to = grad_x + in + step + 2 * o;
            Halves<S>::fetch_target(to);
            Halves<S>{mine(k), mine(k + 1)}.write(to, w.in - 2 * o);
          });
        }
      });
    });
  }

  // Planes of 16-bit elements, for windows a step of 1 apart: the gradients and the offsets of a plane get zeros around
  // their lines, and the vectors run along the inputs. Input j is tap k of output j + pad - k dilation.
  NNART_HD void gather_planes() const {
    const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
    const math::PoolAxis& axis = w.axis();
    int64_t most_shift = most(axis.pad, 0), margin = most((axis.kernel - 1) * axis.dilation - axis.pad, 0);
    int64_t pitch = margin + ceil_div(most(axis.out, axis.in) + most_shift, width) * width + width;
    int64_t lines = d.axis().out * h.axis().out;

    parallel_for(windows.planes(), pool_grain(windows.in), [&](int64_t first, int64_t last) {
      Scratch<C> grads(Use::gradient, lines * pitch);
      Scratch<O> kept_offsets(Use::pixels, lines * pitch);
      // What an input line asks: where the gradients and the offsets of a window line begin for it, and by which tap.
      struct Asked {
        const C* grad;
        const O* offset;
        TapMatch<C, O> tap;
      };
      Scratch<Asked> asked_scratch(Use::tile, overlap(d.axis()) * overlap(h.axis()) * axis.kernel);
      Asked* asked = asked_scratch.data();
      clear(grads.data(), lines * pitch);
      clear(kept_offsets.data(), lines * pitch);
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
            int64_t asks = 0;
            for (int64_t od = d.first_output(id); od < d.end_output(id); ++od)
              for (int64_t oh = h.first_output(ih); oh < h.end_output(ih); ++oh) {
                int64_t kd = d.tap(id, od), kh = h.tap(ih, oh);
                if (kd < 0 || kh < 0) continue;
                int64_t l = od * h.axis().out + oh, at = l * pitch + margin;
                const C* grad = grads.data() + at;
                const O* offset = in_place ? offsets + p * windows.out + l * axis.out : kept_offsets.data() + at;
                for (int64_t k = axis.kernel; k-- > 0;) {
                  int64_t shift = axis.pad - k * axis.dilation;
                  new (asked + asks++) Asked{grad + shift, offset + shift,
                                             TapMatch<C, O>((kd * h.axis().kernel + kh) * axis.kernel + k)};
                }
              }
            S* to = grad_x + p * windows.in + (id * h.axis().in + ih) * axis.in;
            with_count<1, 2, 4, 9>(asks, [&](auto count) {
              for (int64_t j = 0; j < axis.in; j += width) {
                fetch_target_ahead(to + j);
                V total(0);
                for (int64_t a = 0; a < count(); ++a)
                  total = asked[a].tap.add(total, load(asked[a].grad + j), asked[a].offset + j);
                if (int64_t left = axis.in - j; left >= width)
                  store(to + j, total);
                else
                  store_partial(to + j, total, left);
              }
            });
          }
      }
    });
  }

  // Note [picked gradients]: the inputs of a vector may belong to windows that lie so close together that one vector
  // holds their gradients, as in small planes and on lines. What each lane picks from there is the same in all planes
  // and written down once, for the first window of each input, the second, ...: the slots.
  struct Pick {
    int64_t base;
    uint8_t lane[width];
    uint16_t tap[width];
  };
  static constexpr uint16_t kNoTap = 256;  // no byte
  struct Picks {
    int64_t vectors;
    Scratch<Pick> list;
    bool fit = true;  // whether all that a slot names is in one vector

    explicit Picks(const Windows& windows)
        : vectors(ceil_div(windows.in, width)), list(Use::tables, vectors * slots(windows)) {
      Pick* pick = list.data();
      for (int64_t v = 0; v < vectors; ++v)
        for (int64_t slot = 0; slot < slots(windows) && fit; ++slot) write(windows, v, slot, *pick++);
    }
    static int64_t slots(const Windows& windows) {
      return overlap(windows.d.axis()) * overlap(windows.h.axis()) * overlap(windows.w.axis());
    }
    void write(const Windows& windows, int64_t v, int64_t slot, Pick& pick) {
      const AxisWindows &d = windows.d, &h = windows.h, &w = windows.w;
      int64_t slots_h = overlap(h.axis()), slots_w = overlap(w.axis()), output[width], low = windows.out, high = -1;
      int64_t of_d = slot / (slots_h * slots_w), of_h = slot / slots_w % slots_h, of_w = slot % slots_w;
      for (int64_t lane = 0; lane < width; ++lane) {
        int64_t i = v * width + lane, iw = i % w.axis().in, ih = i / w.axis().in % h.axis().in;
        int64_t id = i / (w.axis().in * h.axis().in);
        pick.tap[lane] = kNoTap;
        output[lane] = -1;
        if (i >= windows.in) continue;
        int64_t od = d.first_output(id) + of_d, oh = h.first_output(ih) + of_h, ow = w.first_output(iw) + of_w;
        if (od >= d.end_output(id) || oh >= h.end_output(ih) || ow >= w.end_output(iw)) continue;
        output[lane] = (od * h.axis().out + oh) * w.axis().out + ow;
        low = least(low, output[lane]);
        high = most(high, output[lane]);
        int64_t tap = (d.tap(id, od) * h.axis().kernel + h.tap(ih, oh)) * w.axis().kernel + w.tap(iw, ow);
        pick.tap[lane] = uint16_t(tap);
      }
      fit = fit && high - low < width;
      pick.base = most(0, least(low, windows.out - width));
      for (int64_t lane = 0; lane < width; ++lane)
        pick.lane[lane] = output[lane] < 0 ? 0 : uint8_t(output[lane] - pick.base);
    }
  };

  NNART_HD bool may_pick() const {
    bool dilated = false;  // then a window may be all padding
    for (const math::PoolAxis& axis : windows.shape.axis) dilated = dilated || axis.dilation != 1;
    return kVectorBytes >= 32 && sizeof(O) == 1 && !dilated && windows.in <= kMostPicked &&
           Picks::slots(windows) <= kMostSlots && windows.planes() >= kPlanesForPicks * Picks::slots(windows);
  }
  NNART_HD void pick_planes(const Picks& picks, bool disjoint) const {
    const Steps steps(windows, 1);
    int64_t in = windows.in, out = windows.out, whole_reads = windows.planes() - ceil_div(most(out, width), out);
    parallel_for(windows.planes(), pool_grain(in), [&](int64_t first, int64_t last) {
      Scratch<C> scratch(Use::gradient, kSumsInPlace || disjoint ? 0 : in);
      for (int64_t p = first; p < last; ++p) {
        if (p > whole_reads) {  // a vector would reach past the end of the tensors
          scatter<1>(steps, p, disjoint, scratch.data());
          continue;
        }
        const S* from = grad_y + p * out;
        const O* offset = offsets + p * out;
        with_count<1, 2, 3>(Picks::slots(windows), [&](auto slots) {
          const Pick* pick = picks.list.data();
          for (int64_t i = 0; i < in; i += width, pick += slots()) {
            V sum(0);
            for (int64_t slot = 0; slot < slots(); ++slot) {
              IndexVec<C> lanes = read_index<C>(pick[slot].lane);
              IndexVec<C> taken = __builtin_shuffle(read_index<C>(offset + pick[slot].base), lanes);
              V grad(__builtin_shuffle(load(from + pick[slot].base).v, lanes));
              sum = select(Mask<C>{taken == read_index<C>(pick[slot].tap)}, sum + grad, sum);
            }
            S* to = grad_x + p * in + i;
            if (in - i >= width)
              store(to, sum);
            else
              store_partial(to, sum, in - i);
          }
        });
      }
    });
  }

  NNART_HD void run() const {
    if (windows.is_whole_plane()) return whole();
    const math::PoolAxis &d = windows.d.axis(), &h = windows.h.axis(), &w = windows.w.axis();
    bool tiled = tiles(d) && tiles(h) && tiles(w) && d.kernel * h.kernel * w.kernel <= kMaxTiled;
    bool disjoint = windows.are_disjoint();
    bool gathers = sizeof(O) == 1 && overlap(d) * overlap(h) * overlap(w) * windows.in <= kMaxAsked * windows.out;
    if (windows.shape.channels_last) {
      if (tiled) return tile_channels();
      if (gathers) return gather_channels();
      return scatter_channels(disjoint);
    }
    // Shorter lines leave lanes of double_planes idle.
    if (tiled && w.kernel == 2 && w.out > (kSumsInPlace ? width : 3 * width / 4)) return double_planes();
    bool narrow = w.in < 2 * width;  // then most lanes would be idle
    bool gathers_lines = gathers && !disjoint && !narrow && !kSumsInPlace && !w.adaptive && w.stride == 1;
    if (gathers_lines) return gather_planes();
    if ((tiled || !disjoint) && may_pick()) {
      const Picks picks(windows);
      if (picks.fit) return pick_planes(picks, disjoint);
    }
    scatter_planes(disjoint);
  }
};

}  // namespace

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

}  // namespace nnart::cpu

// Planes whose lines lie in order, copied and widened into the L1 cache, where every tap of a depthwise filter finds
// its neighbours. The vectors run along the lines.
//
// Note [padded lines]: a copied line begins at a multiple of a vector and has zeros behind it, which are its padding on
// the right and the next line's on the left. Where the width has stride 2, the even pixels of a line come first and the
// odd ones, with zeros of their own, behind them, so that a tap reads neighbours all the same.
//
// Note [pairs of planes]: two planes of at most half a vector's width share the lines, the second one in the upper
// half.
#pragma once

#include <utility>

#include "cpu/conv/source.h"
#include "cpu/prefetch.h"

namespace nnart::cpu {
namespace {

// Output o reads step * o + lowest + k * dilation, k < taps. A dgrad of stride 1 reads grad_y so, with its filter
// turned around. In one of stride s, s outputs beside each other share an o here, and each has some of the taps.
struct PlaneAxis {
  int64_t outputs, sources, step, lowest, dilation, taps, phases;
  NNART_HD int64_t source(int64_t output, int64_t k) const { return output * step + lowest + k * dilation; }
  // Lines that `n` outputs beside each other read, from source(first, 0) on.
  NNART_HD int64_t lines(int64_t n) const { return (n - 1) * step + (taps - 1) * dilation + 1; }
};

NNART_HD PlaneAxis plane_axis(const math::Axis& axis, bool transposed) {
  int64_t reach = (axis.kernel - 1) * axis.dilation, s = axis.stride;
  if (!transposed) return {axis.out, axis.in, s, -axis.pad, axis.dilation, axis.kernel, 1};
  if (s == 1) return {axis.in, axis.out, 1, axis.pad - reach, axis.dilation, axis.kernel, 1};
  int64_t lowest = div_up(axis.pad - reach, s), highest = div_floor(axis.pad + s - 1, s);
  return {ceil_div(axis.in, s), axis.out, 1, lowest, 1, highest - lowest + 1, s};
}

// Whether the lines of the planes lie in order, as the lanes of a vector do.
NNART_HD bool has_plane_lines(const ConvOperand& operand) { return operand.space[2] == 1 && operand.channel != 1; }

// Whether an operand of so many pixels a channel is too large for any cache, for fetch_source_ahead.
template <class S>
NNART_HD bool is_large(const ConvArgs& args, int64_t pixels) {
  return args.batch * args.groups * pixels * int64_t(sizeof(S)) >= past_caches_bytes();
}

// Outputs of a line up to which it pays to copy planes into blocks of channels, for 3x3 filters.
template <class S>
constexpr int64_t short_line(int64_t stride) {
  return sizeof(S) == 2 && stride == 1 ? 8 : 5;
}

// The lower half of a, then the lower half of b.
template <class T, int... i>
NNART_HD Vec<T> join_halves(Vec<T> a, Vec<T> b, std::integer_sequence<int, i...>) {
  constexpr int half = sizeof...(i) / 2;
  return Vec<T>(__builtin_shuffle(a.v, b.v, RawVec<Bits<T>>{(i < half ? i : i + half)...}));
}
// The upper half of a in the lower one.
template <class T, int... i>
NNART_HD Vec<T> upper_half(Vec<T> a, std::integer_sequence<int, i...>) {
  constexpr int half = sizeof...(i) / 2;
  return Vec<T>(__builtin_shuffle(a.v, RawVec<Bits<T>>{(i % half + half)...}));
}

// Of a copy, beside the result in an L1 cache of 32 or 48 KB.
constexpr int64_t kCopyBytes = 24 << 10;

template <class S>
struct PaddedLines {
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size;
  static constexpr auto kLanes = std::make_integer_sequence<int, lanes>{};

  int64_t width, step;  // of the source
  int64_t pitch, line;  // from one phase to the next, from one line to the next
  int64_t gap;          // zeros behind each phase of a line, at least
  bool pairs;           // Note [pairs of planes]
  bool from_large;      // the source is_large()

  NNART_HD PaddedLines(const PlaneAxis& w, bool from_large) : width(w.sources), step(w.step), from_large(from_large) {
    int64_t first = div_floor(w.lowest, step), last = div_floor(w.lowest + (w.taps - 1) * w.dilation, step);
    gap = most(0, most(-first, w.outputs + last - width / step));
    pairs = kVectorBytes == 64 && step == 1 && most(w.outputs, width + gap) <= lanes / 2;
    pitch = pairs ? lanes : ceil_div(ceil_div(width, step) + gap, lanes) * lanes;
    line = step * pitch;
  }

  // Where output 0 of a line finds tap k.
  NNART_HD int64_t offset(const PlaneAxis& w, int64_t k) const {
    int64_t shift = w.lowest + k * w.dilation;
    return modulo(shift, step) * pitch + div_floor(shift, step);
  }

  // Room for `lines` lines, what is read to the left of the first and to the right of the last included.
  NNART_HD int64_t margin() const { return ceil_div(gap, lanes) * lanes; }
  NNART_HD int64_t elements(int64_t lines) const { return margin() + lines * line + 2 * lanes; }

  NNART_HD void copy_line(const S* from, T* to) const {
    if (step == 1) {
      int64_t i = 0;
      for (; i + lanes <= width; i += lanes) {
        fetch_source_ahead(from + i, from_large);
        store(to + i, load(from + i));
      }
      if (i == width) return;
      fetch_source_ahead(from + i, from_large);
      store(to + i, load_partial(from + i, width - i));
      return;
    }
    for (int64_t i = 0; i < width; i += 2 * lanes) {
      fetch_source_ahead(from + i, from_large);
      fetch_source_ahead(from + i + lanes, from_large);
      int64_t left = width - i;
      V a = left >= lanes ? load(from + i) : load_partial(from + i, left);
      V b = left >= 2 * lanes ? load(from + i + lanes)
            : left > lanes    ? load_partial(from + i + lanes, left - lanes)
                              : V(0);
      store(to + i / 2, every_other<T, false>(a, b, kLanes));
      store(to + i / 2 + pitch, every_other<T, true>(a, b, kLanes));
    }
  }

  // Lines [first, first + n) of a plane of `height` lines, `stride` elements apart; `other` is the pair's second plane.
  NNART_HD void copy(const S* from, const S* other, int64_t stride, int64_t height, int64_t first, int64_t n,
                     T* to) const {
    for (int64_t i = 0; i < n; ++i, to += line) {
      int64_t at = first + i;
      if (at < 0 || at >= height)
        std::memset(to, 0, size_t(line) * sizeof(T));
      else if (pairs)
        store(to,
              join_halves(load_partial(from + at * stride, width), load_partial(other + at * stride, width), kLanes));
      else
        copy_line(from + at * stride, to);
    }
  }
};

#if defined(__AVX512F__)
// Lane i from lane i + by, around the end.
template <class T, int by, int... i>
NNART_HD Vec<T> rotate(Vec<T> x, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i);
  return Vec<T>(__builtin_shuffle(x.v, RawVec<Bits<T>>{(i + by + n) % n...}));
}
#endif

}  // namespace
}  // namespace nnart::cpu

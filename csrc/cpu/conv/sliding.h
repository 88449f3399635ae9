// Walking down planes where they lie, for depthwise filters with AVX-512: how lines are read and written, and the walks
// of 3x3 filters.
//
// Note [sliding 3x3]: one vector's width of a plane is walked line by line, all taps in registers; each line is loaded
// once and goes into all lines of the result that read it.
#pragma once

#include "cpu/conv/finish.h"
#include "cpu/conv/line_taps.h"

namespace nnart::cpu {
namespace {

#if defined(__AVX512F__)

// What some taps read of one line after the other.
template <class S, bool pair, class Taps>
class LineReader {
 public:
  using V = Vec<ComputeType<S>>;

  // first: the line of that number, `other` elements from the other plane's if they are a pair. ahead: where what is
  // read of a line begins.
  NNART_HD LineReader(const Taps& taps, const S* first, int64_t other, int64_t stride, int64_t line, int64_t sources,
                      int64_t ahead, bool from_large)
      : taps_(taps),
        line_(first),
        other_(other),
        stride_(stride),
        number_(line),
        sources_(sources),
        ahead_(ahead),
        from_large_(from_large) {}

  // Reads a line and goes on; false where there is no such line.
  NNART_HD bool next(V (&x)[Taps::count], int64_t step = 1) {
    bool exists = uint64_t(number_) < uint64_t(sources_);
    if (exists) {
      fetch_source_ahead(line_ + ahead_, from_large_);
      if (pair) fetch_source_ahead(line_ + other_, from_large_);
      taps_(line_, line_ + other_, x);
#pragma GCC unroll 7
      for (int k = 0; k < Taps::count; ++k) keep_in_register(x[k]);
    }
    skip(step);
    return exists;
  }
  NNART_HD void skip(int64_t n) {
    number_ += n;
    line_ += n * stride_;
  }

 private:
  Taps taps_;
  const S* line_;
  int64_t other_, stride_, number_, sources_, ahead_;
  bool from_large_;
};

// Writes a vector's width of one line after the other.
template <class S, bool pair>
class LineWriter {
 public:
  using T = ComputeType<S>;
  using V = Vec<T>;
  static constexpr int64_t lanes = V::size;
  static constexpr auto kLanes = std::make_integer_sequence<int, lanes>{};

  // other: to the other plane's line, 0 if there is none. left: elements from there to the end of the line.
  NNART_HD LineWriter(S* line, int64_t other, int64_t stride, int64_t left, const Interval<T>* interval)
      : line_(line), other_(other), stride_(stride), left_(left), clamps_(interval != nullptr) {
    if (interval) interval_ = *interval;
  }

  NNART_HD void next(V y, int64_t step = 1) {
    if (clamps_) y = interval_.of(y);
    if constexpr (pair) {
      put_half<false>(line_, y);
      if (other_ != 0) put_half<true>(line_ + other_, y);
    } else {
      put(line_, y, left_);
    }
    skip(step);
  }
  // Two vectors of elements in turn: two beside each other, or one of each plane.
  NNART_HD void next_alternating(V even, V odd) {
    if (clamps_) {
      even = interval_.of(even);
      odd = interval_.of(odd);
    }
    V lower = alternate<T, false>(even, odd, kLanes), upper = alternate<T, true>(even, odd, kLanes);
    put(line_, lower, left_);
    int64_t left = !pair ? left_ - lanes : other_ != 0 ? left_ : 0;
    if (left > 0) put(line_ + (pair ? other_ : lanes), upper, left);
    skip(1);
  }
  NNART_HD void skip(int64_t n) { line_ += n * stride_; }

 private:
  NNART_HD static void put(S* to, V y, int64_t left) {
    fetch_target_ahead(to);
    if (left >= lanes)
      store(to, y);
    else
      store_partial(to, y, left);
  }

  // Half a vector, if the line has room for it: a fraction of the time that one takes of which half is left out.
  template <bool upper>
  NNART_HD void put_half(S* to, V y) const {
    fetch_target_ahead(to);
    store_half<upper>(to, y, left_);
  }

  S* line_;
  int64_t other_, stride_, left_;
  bool clamps_;
  Interval<T> interval_;
};

template <class V>
NNART_HD V add_products(V sum, const V (&x)[3], const V (&by)[3]) {
#pragma GCC unroll 3
  for (int k = 0; k < 3; ++k) sum = sum + x[k] * by[k];
  return sum;
}

// Filters of stride 1, whose lines are so many apart.
template <class Reader, class Writer, class V>
NNART_HD void slide_lines(const Reader& from, const Writer& to, const V (&by)[3][3], V bias, int64_t height,
                          int64_t dilation) {
  for (int64_t first = 0; first < least(dilation, height); ++first) {
    Reader reader = from;
    Writer writer = to;
    reader.skip(first);
    writer.skip(first);
    V above = bias, middle = bias;
    for (int64_t i = -2, count = ceil_div(height - first, dilation); i < count; ++i) {
      V below = bias, x[3];
      if (reader.next(x, dilation)) {
        above = add_products(above, x, by[2]);
        middle = add_products(middle, x, by[1]);
        below = add_products(below, x, by[0]);
      }
      if (i >= 0) writer.next(above, dilation);
      above = middle;
      middle = below;
    }
  }
}

// Filters of stride 2.
template <class Reader, class Writer, class V>
NNART_HD void slide_halved(Reader reader, Writer writer, const V (&by)[3][3], V bias, int64_t height) {
  V sum = bias, x[3];
  if (reader.next(x)) sum = add_products(sum, x, by[0]);
  for (int64_t i = 0; i < height; ++i) {
    V below = bias;
    if (reader.next(x)) sum = add_products(sum, x, by[1]);
    if (reader.next(x)) {
      sum = add_products(sum, x, by[2]);
      below = add_products(below, x, by[0]);
    }
    writer.next(sum);
    sum = below;
  }
}

// The dgrad of filters of stride 2, which are turned around: height pairs of lines, of which `left` exist. The middle
// tap alone reaches one line and one pixel of each two, the first if the padding is odd; the outer taps reach the
// others.
template <bool odd, class Reader, class Writer, class V>
NNART_HD void slide_doubled(Reader reader, Writer writer, const V (&by)[3][3], V bias, int64_t height, int64_t left) {
  constexpr int middle = odd ? 0 : 1;
  V x[2], next[2];
  if (!reader.next(x)) x[0] = x[1] = V(0);
  for (int64_t i = 0; i < height; ++i, left -= 2) {
    if (!reader.next(next)) next[0] = next[1] = V(0);
    const V(&only)[2] = odd ? x : next;
    V once = bias + only[middle] * by[1][1], twice = bias + only[0] * by[1][0] + only[1] * by[1][2];
    V both = bias + x[middle] * by[0][1] + next[middle] * by[2][1];
    V all = bias + x[0] * by[0][0] + x[1] * by[0][2] + next[0] * by[2][0] + next[1] * by[2][2];
    if constexpr (odd) {
      writer.next_alternating(once, twice);
      if (left > 1) writer.next_alternating(both, all);
    } else {
      writer.next_alternating(all, both);
      if (left > 1) writer.next_alternating(twice, once);
    }
    x[0] = next[0];
    x[1] = next[1];
  }
}

#endif

}  // namespace
}  // namespace nnart::cpu

// Lines of a plane in the compute type, with room on both sides for what windows read beyond them.
//
// Note [phases of a line]: windows that step by s read every s-th element. A line is kept as s phases, the elements 0,
// s, 2 s, ..., then 1, s + 1, ..., counted from the left padding on, so that output o reads tap k of its window at
// o + a constant, and the vectors run along the outputs.
#pragma once

#include <utility>

#include "cpu/pooling/pack.h"
#include "cpu/pooling/windows.h"

namespace nnart::cpu {
namespace {

template <class T>
constexpr auto kLanes = std::make_integer_sequence<int, Vec<T>::size>{};

// Elements 0, 2, 4, ... and 1, 3, 5, ... of two vectors' worth.
template <class S>
struct Halves {
  Vec<ComputeType<S>> even, odd;

  // What reading or writing here will need soon.
  NNART_HD static void fetch_source(const S* p) {
    fetch_source_ahead(p);
    fetch_source_ahead(p + Vec<ComputeType<S>>::size);
  }
  NNART_HD static void fetch_target(S* p) {
    fetch_target_ahead(p);
    fetch_target_ahead(p + Vec<ComputeType<S>>::size);
  }

  NNART_HD static Halves read(const S* p, int64_t count) {
    using C = ComputeType<S>;
    if constexpr (Pack<S>::parts == 2) {
      Pack<S> pack = Pack<S>::read(p, count);
      return {pack.part[0], pack.part[1]};
    } else {
      constexpr int64_t width = Vec<C>::size;
      Vec<C> a = count >= width ? load(p) : load_partial(p, count);
      Vec<C> b = count >= 2 * width ? load(p + width)
                 : count > width    ? load_partial(p + width, count - width)
                                    : Vec<C>(0);
      return {every_other<C, false>(a, b, kLanes<C>), every_other<C, true>(a, b, kLanes<C>)};
    }
  }
  NNART_HD void write(S* p, int64_t count) const {
    using C = ComputeType<S>;
    if constexpr (Pack<S>::parts == 2) {
      Pack<S>{{even, odd}}.write(p, count);
    } else {
      constexpr int64_t width = Vec<C>::size;
      Vec<C> a = alternate<C, false>(even, odd, kLanes<C>), b = alternate<C, true>(even, odd, kLanes<C>);
      if (count >= 2 * width) {
        store(p, a);
        store(p + width, b);
        return;
      }
      store_partial(p, a, least(width, count));
      if (count > width) store_partial(p + width, b, count - width);
    }
  }
};

// Note [phases of a line]
template <class S>
struct PhasedLine {
  using C = ComputeType<S>;
  static constexpr int64_t width = Vec<C>::size;

  int64_t in, stride, pad, dilation;
  int64_t phase, elements;  // from one phase to the next; in all

  explicit PhasedLine(const math::PoolAxis& w) : in(w.in), stride(w.stride), pad(w.pad), dilation(w.dilation) {
    int64_t reach = (w.kernel - 1) * w.dilation / w.stride + 1;
    phase = ceil_div(most(w.out + reach, (w.in + w.pad) / w.stride + 1), width) * width + width;
    elements = phase * stride;
  }
  // From output o to where it reads tap k.
  NNART_HD int64_t tap(int64_t k) const { return k * dilation % stride * phase + k * dilation / stride; }

  // The elements of a line to their places. What lies around them stays: whoever owns the line fills it once.
  NNART_HD void fill(C* line, const S* source) const {
    if (stride == 1) {
      int64_t i = 0;
      for (; i + width <= in; i += width) store(line + pad + i, load(source + i));
      if (i < in) store_partial(line + pad + i, load_partial(source + i, in - i), in - i);
    } else if (stride == 2) {
      C *even = line + pad % 2 * phase + pad / 2, *odd = line + (pad + 1) % 2 * phase + (pad + 1) / 2;
      for (int64_t i = 0; i < in; i += 2 * width) {
        int64_t left = in - i;
        auto halves = Halves<S>::read(source + i, left);
        if (left >= 2 * width) {
          store(even + i / 2, halves.even);
          store(odd + i / 2, halves.odd);
        } else {
          store_partial(even + i / 2, halves.even, (left + 1) / 2);
          if (left > 1) store_partial(odd + i / 2, halves.odd, left / 2);
        }
      }
    } else {
      for (int64_t i = 0, r = pad % stride, j = pad / stride; i < in; ++i) {
        line[r * phase + j] = widen_one<C>(source + i);
        if (++r < stride) continue;
        r = 0;
        ++j;
      }
    }
  }
};

}  // namespace
}  // namespace nnart::cpu

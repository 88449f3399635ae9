// Sums of elements beside each other, and of rows below each other.
#pragma once

#include "cpu/pack.h"

namespace nnart::cpu {
namespace {

// Terms that are added in float before the sum goes on in double: as exact as native's cascade.
constexpr int64_t kFloatTerms = 16;
// Sums on their way side by side: so many that none waits for another, and of rows as many as there are registers for,
// since memory likes long pieces.
constexpr int kSums = 8, kSumsOfRow = kVectorBytes == 64 ? 16 : 8;

// sum[w] += the pack at p + w step, of which `lanes` elements are there.
template <int ways, class S, int packs>
NNART_HD void add_packs(Pack<S> (*sum)[packs], const S* p, int64_t step, int64_t lanes) {
  for (int w = 0; w < ways; ++w)
    for (int i = 0; i < packs; ++i) {
      const S* from = p + w * step + i * Pack<S>::size;
      Pack<S> term = Pack<S>::read(from, lanes);
      for (int part = 0; part < Pack<S>::parts; ++part) sum[w][i].part[part] = sum[w][i].part[part] + term.part[part];
    }
}

// Of so many packs side by side in n rows, `step` apart: add(pack, part, sum of a few rows) until all are added.
template <class S, int packs, class Add>
NNART_HD void each_sum(const S* p, int64_t n, int64_t step, int64_t lanes, const Add& add) {
  constexpr int of_row = packs * Pack<S>::parts, ways = of_row < kSums ? kSums / of_row : 1;
  for (int64_t r = 0; r < n;) {
    Pack<S> sum[ways][packs];
    for (auto& way : sum)
      for (Pack<S>& pack : way) pack = Pack<S>::all(0);
    int64_t stop = least(n, r + kFloatTerms * ways);
    for (; r + ways <= stop; r += ways) add_packs<ways, S>(sum, p + r * step, step, lanes);
    for (; r < stop; ++r) add_packs<1, S>(sum, p + r * step, step, lanes);
    for (int i = 0; i < packs; ++i)
      for (int part = 0; part < Pack<S>::parts; ++part) {
        auto total = sum[0][i].part[part];
        for (int w = 1; w < ways; ++w) total = total + sum[w][i].part[part];
        add(i, part, total);
      }
  }
}

template <class S>
NNART_HD double sum_of_run(const S* p, int64_t n) {
  using P = Pack<S>;
  constexpr int width = Vec<ComputeType<S>>::size;
  double totals[width] = {};
  auto add = [&](int, int, auto sum) {
    for (int lane = 0; lane < width; ++lane) totals[lane] += double(sum.v[lane]);
  };
  int64_t whole = n / P::size;
  each_sum<S, 1>(p, whole, P::size, P::size, add);
  if (int64_t rest = n - whole * P::size) each_sum<S, 1>(p + whole * P::size, 1, 0, rest, add);
  for (int half = width / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) totals[lane] += totals[lane + half];
  return totals[0];
}

// totals[c] += the sum of element c of n rows, `step` apart, from element c on. In pieces of so many packs, and the
// rest in smaller ones.
template <class S, int packs = kSumsOfRow / Pack<S>::parts>
NNART_HD void add_rows(const S* p, int64_t n, int64_t channels, int64_t step, double* totals, int64_t c = 0) {
  using P = Pack<S>;
  constexpr int width = Vec<ComputeType<S>>::size;
  constexpr int64_t piece = packs * P::size;
  for (; c + piece <= channels || (packs == 1 && c < channels); c += piece) {
    int64_t count = least(piece, channels - c);
    each_sum<S, packs>(p + c, n, step, packs > 1 ? P::size : count, [&](int i, int part, auto sum) {
      double* to = totals + c + i * P::size + part;
      if (count == piece) {
        for (int lane = 0; lane < width; ++lane) to[lane * P::parts] += double(sum.v[lane]);
      } else {  // of one pack
        for (int lane = 0; lane * P::parts + part < count; ++lane) to[lane * P::parts] += double(sum.v[lane]);
      }
    });
  }
  if constexpr (packs > 1) add_rows<S, packs / 2>(p, n, channels, step, totals, c);
}

}  // namespace
}  // namespace nnart::cpu

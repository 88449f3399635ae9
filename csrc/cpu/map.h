// The loop over elements: one skeleton for every element-wise kernel. The tail runs through the same vector code as the
// body, so an element's result does not depend on where it stands or on how the work is divided.
#pragma once

#include "core/parallel.h"
#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

// Elements in a unit of work: a multiple of every vector and cache line; 32 KB of float in and out fit the L1 cache.
constexpr int64_t kMapBlock = 4096;
// Below this many blocks a thread does not pay for its wake-up (about 5 us).
constexpr int64_t kMapGrainBlocks = 8;

// An input that advances with the output.
template <class S>
struct Elements {
  const S* data;
  NNART_HD auto at(int64_t i) const { return load(data + i); }
  NNART_HD auto partial(int64_t i, int64_t count) const { return load_partial(data + i, count); }
};

// An input that is one value for all elements, as the gradient of a sum is (Note [stride-0 gradients] in ops/).
template <class S>
struct OneValue {
  Vec<ComputeType<S>> value;
  explicit OneValue(const S* data) : value(load_broadcast(data)) {}
  NNART_HD auto at(int64_t) const { return value; }
  NNART_HD auto partial(int64_t, int64_t) const { return value; }
};

template <class S, class F, class... Inputs>
NNART_HD void map_range(S* y, int64_t begin, int64_t end, const F& f, const Inputs&... inputs) {
  constexpr int64_t width = Vec<ComputeType<S>>::size;
  int64_t i = begin;
  // Four independent chains hide the latency of an exponential's polynomial.
  for (; i + 4 * width <= end; i += 4 * width) {
    auto y0 = f(inputs.at(i)...), y1 = f(inputs.at(i + width)...);
    auto y2 = f(inputs.at(i + 2 * width)...), y3 = f(inputs.at(i + 3 * width)...);
    store(y + i, y0);
    store(y + i + width, y1);
    store(y + i + 2 * width, y2);
    store(y + i + 3 * width, y3);
  }
  for (; i + width <= end; i += width) store(y + i, f(inputs.at(i)...));
  if (i < end) store_partial(y + i, f(inputs.partial(i, end - i)...), end - i);
}

// y[i] = f(inputs[i]...) for i < n; y may be one of the inputs.
template <class S, class F, class... Inputs>
NNART_HD void map(S* y, int64_t n, const F& f, const Inputs&... inputs) {
  parallel_for((n + kMapBlock - 1) / kMapBlock, kMapGrainBlocks, [&](int64_t first, int64_t last) {
    int64_t end = last * kMapBlock < n ? last * kMapBlock : n;
    map_range(y, first * kMapBlock, end, f, inputs...);
  });
}

}  // namespace
}  // namespace nnart::cpu

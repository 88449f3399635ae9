// The loop over elements: one skeleton for every element-wise kernel. The tail runs through the same vector code as the
// body, so an element's result does not depend on where it stands or on how the work is divided.
#pragma once

#include "core/parallel.h"
#include "cpu/elementary.h"
#include "cpu/streaming.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

// Elements in a unit of work: a multiple of every vector and cache line; 32 KB of float in and out fit the L1 cache.
constexpr int64_t kMapBlock = 4096;
// Below this many blocks a thread does not pay for its wake-up (about 5 us).
constexpr int64_t kMapGrainBlocks = 8;

// The vector that elements of type S are computed in.
template <class S>
using Working = Vec<ComputeType<S>, sizeof(S) == 2 ? Precision::brief : Precision::full>;

// An input that advances with the output.
template <class S>
struct Elements {
  const S* data;
  NNART_HD Working<S> at(int64_t i) const { return load_streaming(data + i).v; }
  NNART_HD Working<S> partial(int64_t i, int64_t count) const { return load_partial(data + i, count).v; }
  NNART_HD Working<S> of(EvenOdd pair, bool odd) const { return odd ? pair.odd.v : pair.even.v; }
  NNART_HD EvenOdd pair_at(int64_t i) const { return load_even_odd(data + i); }
  NNART_HD bool starts_at(const void* p) const { return data == p; }
};

// An input that is one value for all elements, as the gradient of a sum is (Note [stride-0 gradients] in ops/checks.h).
template <class S>
struct OneValue {
  Working<S> value;
  NNART_HD explicit OneValue(const S* data) : value(load_broadcast(data).v) {}
  NNART_HD Working<S> at(int64_t) const { return value; }
  NNART_HD Working<S> partial(int64_t, int64_t) const { return value; }
  NNART_HD Working<S> of(EvenOdd, bool) const { return value; }
  NNART_HD EvenOdd pair_at(int64_t) const { return {}; }
  NNART_HD bool starts_at(const void*) const { return false; }
};

// The next width * count elements, four chains of them independent to hide the latency of an exponential's polynomial.
template <class S, class F, class... Inputs>
NNART_HD void map_four(S* y, bool past_caches, int64_t i, const F& f, const Inputs&... inputs) {
  constexpr int64_t width = Working<S>::size;
  Working<S> y0 = f(inputs.at(i)...), y1 = f(inputs.at(i + width)...);
  Working<S> y2 = f(inputs.at(i + 2 * width)...), y3 = f(inputs.at(i + 3 * width)...);
  auto write = [&](auto store) {
    store(y + i, Vec<ComputeType<S>>(y0.v));
    store(y + i + width, Vec<ComputeType<S>>(y1.v));
    store(y + i + 2 * width, Vec<ComputeType<S>>(y2.v));
    store(y + i + 3 * width, Vec<ComputeType<S>>(y3.v));
  };
  if (past_caches)
    write([](S* p, auto x) { store_past_caches(p, x); });
  else
    write([](S* p, auto x) { store_streaming(p, x); });
}

template <class F, class... Inputs>
NNART_HD void map_four(BFloat16* y, bool past_caches, int64_t i, const F& f, const Inputs&... inputs) {
  for (int64_t k = i; k < i + 4 * Vec<float>::size; k += 2 * Vec<float>::size) {
    auto both = [&](auto... pairs) {
      Vec<float> even(f(inputs.of(pairs, false)...).v), odd(f(inputs.of(pairs, true)...).v);
      store_even_odd(y + k, {even, odd}, past_caches);
    };
    both(inputs.pair_at(k)...);
  }
}

// Stores past the caches if it shall and y is aligned; whoever asks for it calls finish_stores() in the end. The inputs
// come by value: behind a reference their pointers would be read again after every store.
template <class S, class F, class... Inputs>
NNART_HD void map_range_stored(S* y, bool past_caches, int64_t begin, int64_t end, F f, Inputs... inputs) {
  constexpr int64_t width = Working<S>::size;
  past_caches = past_caches && reinterpret_cast<uintptr_t>(y) % kVectorBytes == 0;
  int64_t i = begin;
  for (; i + 4 * width <= end; i += 4 * width) map_four(y, past_caches, i, f, inputs...);
  for (; i < end; i += width) {
    int64_t count = least(width, end - i);
    store_partial(y + i, Vec<ComputeType<S>>(f(inputs.partial(i, count)...).v), count);
  }
}

template <class S, class F, class... Inputs>
NNART_HD void map_range(S* y, int64_t begin, int64_t end, const F& f, const Inputs&... inputs) {
  bool in_place = (inputs.starts_at(y) || ...);
  bool past_caches = (end - begin) * int64_t(sizeof(S)) >= past_caches_bytes() && !in_place;
  map_range_stored(y, past_caches, begin, end, f, inputs...);
  if (past_caches) finish_stores();
}

// Calls body(i, count, read, write) for each vector of [0, n), for loops that are no map; the last may be a partial
// one. past_caches asks that every vector written be aligned.
template <class S, class Body>
NNART_HD void each_vector(int64_t n, bool past_caches, const Body& body) {
  using V = Working<S>;
  using C = ComputeType<S>;
  int64_t i = 0;
  auto read = [](const S* p) { return V(load(p).v); };
  if (past_caches)
    for (; i + V::size <= n; i += V::size) body(i, V::size, read, [](S* p, V v) { store_past_caches(p, Vec<C>(v.v)); });
  else
    for (; i + V::size <= n; i += V::size) body(i, V::size, read, [](S* p, V v) { store(p, Vec<C>(v.v)); });
  if (int64_t count = n - i; count > 0)
    body(
        i, count, [count](const S* p) { return V(load_partial(p, count).v); },
        [count](S* p, V v) { store_partial(p, Vec<C>(v.v), count); });
}

// y[i] = f(inputs[i]...) for i < n; y may be one of the inputs.
template <class S, class F, class... Inputs>
NNART_HD void map(S* y, int64_t n, const F& f, const Inputs&... inputs) {
  parallel_for(ceil_div(n, kMapBlock), kMapGrainBlocks, [&](int64_t first, int64_t last) {
    map_range(y, first * kMapBlock, least(last * kMapBlock, n), f, inputs...);
  });
}

}  // namespace
}  // namespace nnart::cpu

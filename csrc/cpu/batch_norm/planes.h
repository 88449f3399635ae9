// Batch normalization where a channel is a plane of each image (inner > 1): each is swept twice while it is in a cache.
#pragma once

#include "cpu/batch_norm/elements.h"

namespace nnart::cpu {
namespace {

template <class S, class F>
struct Planes {
  using V = Working<S>;
  using C = ComputeType<S>;
  const BatchNormArgs& args;
  Elementwise<S, F> elements;
  Table<S> table;

  static constexpr int64_t run = kBlockRows * kHeld * V::size;  // elements of a piece
  int64_t inner = args.inner, step = args.channels * args.inner;
  int64_t planes = most(1, run / inner);  // of a piece, where a plane is shorter than one

  // Calls body(first element, number of planes, elements of each) for each piece of a channel.
  template <class Body>
  NNART_HD void each_piece(int64_t c, const Body& body) const {
    for (int64_t o = 0; o < args.outer; o += planes)
      for (int64_t i = 0; i < inner; i += run)
        body(o * step + c * inner + i, least(planes, args.outer - o), least(inner - i, run));
  }

  // Calls body(accumulator, i, count) for each vector of a piece, accumulators taking turns.
  template <class Body>
  NNART_HD void each_vector(int64_t first, int64_t count, int64_t n, const Body& body) const {
    for (int64_t plane = 0; plane < count; ++plane) {
      int64_t i = first + plane * step, end = i + n;
      for (; i + kHeld * V::size <= end; i += kHeld * V::size) {
        body(Count<0>{}, i, V::size);
        body(Count<1>{}, i + V::size, V::size);
        body(Count<2>{}, i + 2 * V::size, V::size);
        body(Count<3>{}, i + 3 * V::size, V::size);
      }
      int64_t whole = (end - i) / V::size, rest = (end - i) % V::size;
      if (whole > 0) body(Count<0>{}, i, V::size);
      if (whole > 1) body(Count<1>{}, i + V::size, V::size);
      if (whole > 2) body(Count<2>{}, i + 2 * V::size, V::size);
      if (rest > 0) body(Count<3>{}, end - rest, rest);
    }
  }
  NNART_HD static double total(const V (&sums)[kHeld]) {
    V four = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double sum = 0;
    for (int lane = 0; lane < V::size; ++lane) sum += four.v[lane];
    return sum;
  }

  __attribute__((noinline)) Sums moments(int64_t c) const {
    Sums channel;
    int64_t before = 0;
    each_piece(c, [&](int64_t first, int64_t count, int64_t n) {
      C center = widen_one<C>(elements.x + first);
      if constexpr (kSweepsTwice<S>) {
        V sums[kHeld] = {V(0), V(0), V(0), V(0)};
        each_vector(first, count, n,
                    [&](auto k, int64_t i, int64_t lanes) { sums[k] = sums[k] + read_some(elements.x + i, lanes); });
        center = C(total(sums) / double(count * n));
      }
      V middle{double(center)};
      V distances[kHeld] = {V(0), V(0), V(0), V(0)}, squares[kHeld] = {V(0), V(0), V(0), V(0)};
      each_vector(first, count, n, [&](auto k, int64_t i, int64_t lanes) {
        V distance = read_some(elements.x + i, lanes) - middle;
        if (lanes < V::size) distance = first_lanes(distance, lanes, V(0));
        distances[k] = distances[k] + distance;
        squares[k] = squares[k] + distance * distance;
      });
      Join(count * n, before).block(channel.first, channel.second, double(center), total(distances), total(squares));
      before += count * n;
    });
    return channel;
  }

  __attribute__((noinline)) Sums gradients(int64_t c) const {
    Sums channel;
    Constants<S> of = Constants<S>::of_one(table, c);
    each_piece(c, [&](int64_t first, int64_t count, int64_t n) {
      V sums[kHeld] = {V(0), V(0), V(0), V(0)}, products[kHeld] = {V(0), V(0), V(0), V(0)};
      each_vector(first, count, n, [&](auto k, int64_t i, int64_t lanes) {
        auto read = [&](const S* p) { return read_some(p, lanes); };
        V distance = read(elements.x + i) - of.mean;
        V grad = elements.gradient(i, distance, of, read);
        if (elements.grad_residual) write_some(elements.grad_residual + i, grad, lanes);
        if (lanes < V::size) grad = first_lanes(grad, lanes, V(0));
        sums[k] = sums[k] + grad;
        products[k] = products[k] + grad * distance;
      });
      channel.first += total(sums);
      channel.second += total(products);
    });
    return channel;
  }

  // Not inlined: the compiler's loop is better alone.
  template <bool is_forward>
  __attribute__((noinline)) void apply(int64_t c, bool past_caches) const {
    Constants<S> of = Constants<S>::of_one(table, c);
    for (int64_t o = 0; o < args.outer; ++o) {
      int64_t begin = o * step + c * inner;
      auto vector = [&](int64_t i, int64_t, auto read, auto write) {
        if constexpr (is_forward)
          elements.forward(begin + i, of, read, write);
        else
          elements.backward(begin + i, of, read, write);
      };
      cpu::each_vector<S>(inner, can_store_past_caches(elements.y + begin, past_caches), vector);
    }
  }

  // The result of planes one after the other in memory, where their numbers are given.
  __attribute__((noinline)) void apply_in_order(int64_t first, int64_t last, bool past_caches) const {
    for (int64_t plane = first, c = first % args.channels; plane < last; ++plane) {
      Constants<S> of = Constants<S>::of_one(table, c);
      int64_t begin = plane * inner;
      auto vector = [&](int64_t i, int64_t, auto read, auto write) { elements.forward(begin + i, of, read, write); };
      cpu::each_vector<S>(inner, can_store_past_caches(elements.y + begin, past_caches), vector);
      if (++c == args.channels) c = 0;
    }
  }

  NNART_HD void all_given() const {
    for (int64_t c = 0; c < args.channels; ++c) table.set(c);
    parallel_for(args.outer * args.channels, ceil_div(kNormGrain, inner), [&](int64_t first, int64_t last) {
      bool past_caches = (last - first) * inner * int64_t(sizeof(S)) >= past_caches_bytes();
      apply_in_order(first, last, past_caches);
      if (past_caches) finish_stores();
    });
  }

  NNART_HD void all() const {
    if (!args.grad_y && !args.of_batch) return all_given();
    int64_t elements_each = args.outer * inner;
    parallel_for(args.channels, ceil_div(kNormGrain, elements_each), [&](int64_t first, int64_t last) {
      bool past_caches = (last - first) * elements_each * int64_t(sizeof(S)) >= past_caches_bytes();
      for (int64_t c = first; c < last; ++c) {
        if (!args.grad_y) {
          Sums sums = moments(c);
          table.set_moments(c, sums.first, sums.second);
          if (!elements.y) continue;
          table.set(c);
          apply<true>(c, past_caches);
        } else {
          table.set(c);
          Sums sums = gradients(c);
          table.set_gradient(c, sums.first, sums.second);
          apply<false>(c, past_caches);
        }
      }
      if (past_caches) finish_stores();
    });
  }
};

}  // namespace
}  // namespace nnart::cpu

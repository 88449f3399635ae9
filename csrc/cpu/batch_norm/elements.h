// What happens to an element in batch normalization and its gradients, the numbers of its channel, and how sums over
// blocks of elements are joined.
#pragma once

#include <cmath>

#include "core/parallel.h"
#include "cpu/map.h"

namespace nnart::cpu {
namespace {

// Elements below which a thread does not pay for its wake-up.
constexpr int64_t kNormGrain = 8192;

// Note [moments of blocks]
// The squared distances of a block's elements are taken from a middle close to their mean, so that no large mean
// cancels a small variance, and the distances are added too: they say how far from the mean the middle is. For 16-bit
// elements the middle is one of them; others are swept twice, in the first-level cache, with their rounded mean for a
// middle. Blocks are joined in double (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").
template <class S>
constexpr bool kSweepsTwice = sizeof(S) != 2;

// Rows of a block: the terms of any sum that are added in the compute type before it goes on in double.
constexpr int64_t kBlockRows = 32;

// Vectors side by side that are summed in registers.
constexpr int kHeld = 4;

template <int n>
using Count = std::integral_constant<int, n>;

// The numbers of each channel, in the compute type. grad_x = scale grad_u - slope (x - mean) - shift.
template <class S>
struct Table {
  using C = ComputeType<S>;
  using V = Working<S>;
  enum Field { mean, scale, bias, slope, shift, fields };

  const BatchNormArgs& args;
  C* data;
  int64_t room = room_for(args.channels);

  // Channels that fill no vectors are there as often as makes them fill some, if those are few: a row of `width`
  // numbers is of so many rows of x.
  NNART_HD static int64_t width(int64_t channels) {
    int64_t period = channels / common_divisor(channels, V::size) * V::size;
    return period <= kHeld * V::size ? period : channels;
  }
  // Vectors may begin at any channel.
  NNART_HD static int64_t room_for(int64_t channels) { return width(channels) + V::size; }
  NNART_HD static int64_t size(int64_t channels) { return fields * room_for(channels); }

  NNART_HD C* of(Field field) const { return data + field * room; }
  NNART_HD C& at(Field field, int64_t c) const { return of(field)[c]; }
  NNART_HD double inverse_deviation(int64_t c) const {
    return 1 / std::sqrt(double(static_cast<const C*>(args.var)[c]) + args.eps);
  }
  NNART_HD double given(const void* numbers, int64_t c, double otherwise) const {
    if (!numbers) return otherwise;
    return args.wide_weight ? double(static_cast<const C*>(numbers)[c])
                            : double(widen_one<C>(static_cast<const S*>(numbers) + c));
  }
  NNART_HD void put(void* numbers, int64_t c, double value) const {
    if (!numbers) return;
    if (args.wide_weight)
      static_cast<C*>(numbers)[c] = C(value);
    else
      store_partial(static_cast<S*>(numbers) + c, Vec<C>(value), 1);
  }

  NNART_HD void set(int64_t c) const {
    at(mean, c) = static_cast<const C*>(args.mean)[c];
    at(scale, c) = C(given(args.weight, c, 1) * inverse_deviation(c));
    at(bias, c) = C(given(args.bias, c, 0));
  }
  NNART_HD void repeat() const {
    for (int field = 0; field < fields; ++field)
      for (int64_t c = args.channels; c < width(args.channels); ++c)
        at(Field(field), c) = at(Field(field), c - args.channels);
  }
  NNART_HD void set_moments(int64_t c, double new_mean, double squares) const {
    static_cast<C*>(args.mean)[c] = C(new_mean);
    static_cast<C*>(args.var)[c] = C(squares / double(args.outer * args.inner));
  }
  // From the sums of grad_u and of grad_u (x - mean).
  NNART_HD void set_gradient(int64_t c, double sum, double product) const {
    double inverse = inverse_deviation(c), n = double(args.outer * args.inner);
    put(args.grad_bias, c, sum);
    put(args.grad_weight, c, product * inverse);
    double along = args.of_batch ? given(args.weight, c, 1) * inverse / n : 0;
    at(slope, c) = C(along * inverse * inverse * product);
    at(shift, c) = C(along * sum);
  }
};

// A vector's worth of the table: of one channel, or of as many as it has lanes.
template <class S>
struct Constants {
  using V = Working<S>;
  V mean, scale, bias, slope, shift;

  NNART_HD static Constants of_one(const Table<S>& table, int64_t c) {
    using T = Table<S>;
    auto all = [&](auto field) { return V(double(table.at(field, c))); };
    return {all(T::mean), all(T::scale), all(T::bias), all(T::slope), all(T::shift)};
  }
};

// What happens to a vector of elements; i is the first one's number. read(p) and write(p, v) know how many there are.
template <class S, class F>
struct Elementwise {
  using V = Working<S>;
  const S *x, *residual, *grad_y, *output;
  S *y, *grad_residual;
  F activation;
  bool wants_output;

  NNART_HD Elementwise(const BatchNormArgs& args, F activation)
      : x(static_cast<const S*>(args.x)),
        residual(static_cast<const S*>(args.residual)),
        grad_y(static_cast<const S*>(args.grad_y)),
        output(static_cast<const S*>(args.output)),
        y(static_cast<S*>(args.y)),
        grad_residual(static_cast<S*>(args.grad_residual)),
        activation(activation),
        wants_output(saves_output(args.activation) && !args.output) {}

  template <class Read, class Write>
  NNART_HD void forward(int64_t i, const Constants<S>& of, const Read& read, const Write& write) const {
    V u = (read(x + i) - of.mean) * of.scale + of.bias;
    if (residual) u = u + read(residual + i);
    write(y + i, activation.forward(u));
  }
  // The gradient of u, what f was applied to; distance is x - mean.
  template <class Read>
  NNART_HD V gradient(int64_t i, V distance, const Constants<S>& of, const Read& read) const {
    V grad = read(grad_y + i);
    if constexpr (std::is_same_v<F, math::Identity<ComputeType<S>>>) return grad;
    V s = output ? read(output + i) : distance * of.scale + of.bias;
    if (wants_output) s = activation.forward(s);
    return activation.backward(grad, s);
  }
  template <class Read, class Write>
  NNART_HD void backward(int64_t i, const Constants<S>& of, const Read& read, const Write& write) const {
    V distance = read(x + i) - of.mean;
    V grad = grad_residual ? read(grad_residual + i) : gradient(i, distance, of, read);
    write(y + i, grad * of.scale - (distance * of.slope + of.shift));
  }
};

template <class S>
NNART_HD Working<S> read_some(const S* p, int64_t count) {
  using V = Working<S>;
  return count == V::size ? V(load(p).v) : V(load_partial(p, count).v);
}
template <class S>
NNART_HD void write_some(S* p, Working<S> v, int64_t count) {
  using C = ComputeType<S>;
  if (count == Working<S>::size)
    store(p, Vec<C>(v.v));
  else
    store_partial(p, Vec<C>(v.v), count);
}

// Sums in double: the mean and the squared distances from it, or the sums of grad_u and grad_u (x - mean).
struct Sums {
  double first = 0, second = 0;
};

// How n elements join those before them.
struct Join {
  double inverse, part, spread;
  NNART_HD Join(int64_t n, int64_t before)
      : inverse(1 / double(n)), part(double(n) / double(before + n)), spread(double(before) * part) {}

  NNART_HD void moments(double& mean, double& squares, double more_mean, double more_squares) const {
    double away = more_mean - mean;
    mean += away * part;
    squares += more_squares + away * away * spread;
  }
  // Of a block: its middle, and the sums of the distances from it and of their squares.
  NNART_HD void block(double& mean, double& squares, double middle, double distances, double squared) const {
    double off = distances * inverse;
    moments(mean, squares, middle + off, squared - distances * off);
  }
};

}  // namespace
}  // namespace nnart::cpu

// Batch normalization with what follows it, y = f((x - mean) weight / sqrt(var + eps) + bias + residual), and its
// gradients: one sweep for the sums of a channel and one that uses them. Where channels are planes, each is swept twice
// while it is in a cache; where they are columns of rows, all rows are swept twice.
#include <cmath>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/scratch.h"

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

// ---- inner > 1: a channel is a plane of each image --------------------------------------------------------------

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

// ---- inner == 1: a channel is a column of the rows --------------------------------------------------------------

// A number for each channel: in so many registers or, for none, in memory at p.
template <class S, int vectors>
struct Numbers {
  using V = Working<S>;
  using C = ComputeType<S>;
  C* p;
  V held[vectors > 0 ? vectors : 1];

  NNART_HD explicit Numbers(C* p) : p(p) {}
  NNART_HD V get(int64_t k) const {
    if constexpr (vectors > 0) return held[k];
    return V(load(p + k * V::size).v);
  }
  NNART_HD void set(int64_t k, V v) {
    if constexpr (vectors > 0)
      held[k] = v;
    else
      store(p + k * V::size, Vec<C>(v.v));
  }
  NNART_HD const C* in_memory() {
    for (int k = 0; k < vectors; ++k) store(p + k * V::size, Vec<C>(held[k].v));
    return p;
  }
};

template <class S, class F>
struct Rows {
  using V = Working<S>;
  using C = ComputeType<S>;
  const BatchNormArgs& args;
  Elementwise<S, F> elements;
  Table<S> table;

  int64_t channels = args.channels, rows = piece_rows(channels), pieces = piece_count(args.outer, 1, channels);
  int64_t room = channels + V::size;

  NNART_HD double* sums(int64_t piece) const { return args.partial_sums + piece * 2 * channels; }
  NNART_HD int64_t rows_of(int64_t piece) const { return least(rows, args.outer - piece * rows); }

  // Calls body(k, lanes) for each vector of `width` columns: so many vectors or, for none, any number.
  template <int vectors, class Body>
  NNART_HD static void each_column(int64_t width, const Body& body) {
    if constexpr (vectors > 0) {
      for (int64_t k = 0; k < vectors - 1; ++k) body(k, V::size);
      body(vectors - 1, width - (vectors - 1) * V::size);
    } else {
      int64_t k = 0;
      for (; (k + 1) * V::size <= width; ++k) body(k, V::size);
      if (k * V::size < width) body(k, width - k * V::size);
    }
  }
  // Calls body(number of vectors) with what each_column takes for that width.
  template <class Body>
  NNART_HD static void with_vectors(int64_t width, const Body& body) {
    static_assert(kHeld == 4);
    int64_t vectors = ceil_div(width, V::size);
    if (vectors == 1) body(Count<1>{});
    if (vectors == 2) body(Count<2>{});
    if (vectors == 3) body(Count<3>{});
    if (vectors == 4) body(Count<4>{});
    if (vectors > kHeld) body(Count<0>{});
  }
  // The constants of those columns: in registers, or read when they are used. Pointers of its own: the compiler would
  // read the table's again after every store.
  template <int vectors>
  struct Columns {
    const C *mean, *scale, *bias, *slope, *shift;
    Constants<S> held[vectors > 0 ? vectors : 1];

    NNART_HD explicit Columns(const Table<S>& t)
        : mean(t.of(t.mean)), scale(t.of(t.scale)), bias(t.of(t.bias)), slope(t.of(t.slope)), shift(t.of(t.shift)) {
      for (int k = 0; k < vectors; ++k) held[k] = read(k);
    }
    NNART_HD Constants<S> at(int64_t k) const {
      if constexpr (vectors > 0) return held[k];
      return read(k);
    }

   private:
    NNART_HD Constants<S> read(int64_t k) const {
      auto each = [k](const C* field) { return V(load(field + k * V::size).v); };
      return {each(mean), each(scale), each(bias), each(slope), each(shift)};
    }
  };

  // Calls body(first row, number of rows) for each block of a piece.
  template <class Body>
  NNART_HD void each_block(int64_t piece, const Body& body) const {
    for (int64_t r = 0; r < rows_of(piece); r += kBlockRows)
      body(piece * rows + r, least(kBlockRows, rows_of(piece) - r));
  }

  // Of the channels from c on, no more than kHeld vectors.
  template <int vectors>
  __attribute__((noinline)) void moments(int64_t piece, int64_t c, int64_t width) const {
    static_assert(vectors <= kHeld);
    double *mean = sums(piece) + c, *squared = mean + channels;
    for (int64_t k = 0; k < width; ++k) mean[k] = squared[k] = 0;
    each_block(piece, [&](int64_t row, int64_t n) {
      V middle[kHeld], distances[kHeld], squares[kHeld];
      const S* x = elements.x + row * channels + c;
      each_column<vectors>(width, [&](int64_t k, int64_t lanes) {
        distances[k] = squares[k] = V(0);
        middle[k] = read_some(x + k * V::size, lanes);
      });
      if constexpr (kSweepsTwice<S>) {
        for (int64_t down = 1; down < n; ++down)
          each_column<vectors>(width, [&](int64_t k, int64_t lanes) {
            middle[k] = middle[k] + read_some(x + down * channels + k * V::size, lanes);
          });
        for (int k = 0; k < vectors; ++k) middle[k] = middle[k] * V(1 / double(n));
      }
      for (int64_t down = 0; down < n; ++down)
        each_column<vectors>(width, [&](int64_t k, int64_t lanes) {
          V distance = read_some(x + down * channels + k * V::size, lanes) - middle[k];
          distances[k] = distances[k] + distance;
          squares[k] = squares[k] + distance * distance;
        });
      C block[3][kHeld * V::size];
      for (int k = 0; k < vectors; ++k) {
        store(block[0] + k * V::size, Vec<C>(middle[k].v));
        store(block[1] + k * V::size, Vec<C>(distances[k].v));
        store(block[2] + k * V::size, Vec<C>(squares[k].v));
      }
      Join join(n, row - piece * rows);
      for (int64_t k = 0; k < least(width, vectors * V::size); ++k)
        join.block(mean[k], squared[k], block[0][k], block[1][k], block[2][k]);
    });
  }

  template <int vectors>
  __attribute__((noinline)) void gradients(int64_t piece, C* space) const {
    double *sum = sums(piece), *product = sum + channels;
    for (int64_t c = 0; c < 2 * channels; ++c) sum[c] = 0;
    Columns<vectors> columns(table);
    auto elements = this->elements;  // as Columns has pointers of its own
    int64_t channels = this->channels;
    each_block(piece, [&](int64_t row, int64_t n) {
      Numbers<S, vectors> block_sum(space), block_product(space + room);
      each_column<vectors>(channels, [&](int64_t k, int64_t) {
        block_sum.set(k, V(0));
        block_product.set(k, V(0));
      });
      for (int64_t down = 0; down < n; ++down)
        each_column<vectors>(channels, [&](int64_t k, int64_t lanes) {
          int64_t i = (row + down) * channels + k * V::size;
          auto read = [&](const S* p) { return read_some(p, lanes); };
          Constants<S> of = columns.at(k);
          V distance = read(elements.x + i) - of.mean;
          V grad = elements.gradient(i, distance, of, read);
          if (elements.grad_residual) write_some(elements.grad_residual + i, grad, lanes);
          block_sum.set(k, block_sum.get(k) + grad);
          block_product.set(k, block_product.get(k) + grad * distance);
        });
      const C *s = block_sum.in_memory(), *p = block_product.in_memory();
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += s[c];
        product[c] += p[c];
      }
    });
  }

  template <bool is_forward, int vectors>
  __attribute__((noinline)) void apply(int64_t piece, bool past_caches) const {
    auto elements = this->elements;
    int64_t width = Table<S>::width(channels), i = piece * rows * channels, end = i + rows_of(piece) * channels;
    auto sweep = [&](auto write) {
      auto row_of = [&](auto count, int64_t width, const auto& columns) {
        each_column<count>(width, [&](int64_t k, int64_t lanes) {
          auto read = [&](const S* p) { return read_some(p, lanes); };
          auto write_lanes = [&](S* p, V v) { write(p, v, lanes); };
          if constexpr (is_forward)
            elements.forward(i + k * V::size, columns.at(k), read, write_lanes);
          else
            elements.backward(i + k * V::size, columns.at(k), read, write_lanes);
        });
      };
      Columns<vectors> columns(table);
      for (; i + width <= end; i += width) row_of(Count<vectors>{}, width, columns);
      if (i < end) row_of(Count<0>{}, end - i, Columns<0>(table));
    };
    if (past_caches)
      sweep([](S* p, V v, int64_t) { store_past_caches(p, Vec<C>(v.v)); });
    else
      sweep([](S* p, V v, int64_t lanes) { write_some(p, v, lanes); });
  }

  // Calls body(first piece, last piece) in parallel.
  template <class Body>
  NNART_HD void each_share(const Body& body) const {
    parallel_for(pieces, ceil_div(kNormGrain, rows * channels), body);
  }

  template <bool is_forward>
  NNART_HD void apply_all() const {
    each_share([&](int64_t first, int64_t last) {
      bool large = (last - first) * rows * channels * int64_t(sizeof(S)) >= past_caches_bytes();
      bool past_caches = can_store_past_caches(elements.y, large) && channels % V::size == 0;
      with_vectors(Table<S>::width(channels), [&](auto vectors) {
        for (int64_t piece = first; piece < last; ++piece) apply<is_forward, vectors>(piece, past_caches);
      });
      if (past_caches) finish_stores();
    });
  }

  NNART_HD void find_moments() const {
    constexpr int64_t strip = kHeld * V::size;
    each_share([&](int64_t first, int64_t last) {
      for (int64_t piece = first; piece < last; ++piece)
        for (int64_t c = 0; c < channels; c += strip)
          with_vectors(least(strip, channels - c), [&](auto vectors) {
            if constexpr (vectors > 0) moments<vectors>(piece, c, least(strip, channels - c));
          });
    });
    double *mean = sums(0), *squares = mean + channels;
    for (int64_t piece = 1; piece < pieces; ++piece) {
      Join join(rows_of(piece), piece * rows);
      const double *more_mean = sums(piece), *more_squares = more_mean + channels;
      for (int64_t c = 0; c < channels; ++c) join.moments(mean[c], squares[c], more_mean[c], more_squares[c]);
    }
    for (int64_t c = 0; c < channels; ++c) table.set_moments(c, mean[c], squares[c]);
  }

  NNART_HD void find_gradients() const {
    each_share([&](int64_t first, int64_t last) {
      Scratch<C> space(Use::partial, 2 * room);
      with_vectors(channels, [&](auto vectors) {
        for (int64_t piece = first; piece < last; ++piece) gradients<vectors>(piece, space.data());
      });
    });
    double *sum = sums(0), *product = sum + channels;
    for (int64_t piece = 1; piece < pieces; ++piece)
      for (int64_t c = 0; c < 2 * channels; ++c) sum[c] += sums(piece)[c];
    for (int64_t c = 0; c < channels; ++c) table.set_gradient(c, sum[c], product[c]);
  }

  NNART_HD void all() const {
    if (!args.grad_y && args.of_batch) find_moments();
    if (!elements.y) return;
    for (int64_t c = 0; c < channels; ++c) table.set(c);
    if (args.grad_y) {
      find_gradients();
      table.repeat();
      apply_all<false>();
    } else {
      table.repeat();
      apply_all<true>();
    }
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const BatchNormArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    Scratch<C> numbers(Use::tables, Table<S>::size(args.channels));
    Table<S> table{args, numbers.data()};
    with_fused_activation<C>(args.activation, args.parameters, [&](auto activation) {
      Elementwise<S, decltype(activation)> elements(args, activation);
      if (args.inner == 1)
        Rows<S, decltype(activation)>{args, elements, table}.all();
      else
        Planes<S, decltype(activation)>{args, elements, table}.all();
    });
  });
}

}  // namespace nnart::cpu

// Batch normalization where a channel is a column of the rows (inner == 1): all rows are swept twice.
#pragma once

#include "cpu/batch_norm/elements.h"
#include "cpu/prefetch.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

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

  // Of n rows of a piece, for the channels from c on, no more than kHeld vectors.
  template <int vectors>
  __attribute__((noinline)) void moments(int64_t piece, int64_t row, int64_t n, int64_t c, int64_t width) const {
    static_assert(vectors <= kHeld);
    double *mean = sums(piece) + c, *squared = mean + channels;
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
        const S* p = x + down * channels + k * V::size;
        __builtin_prefetch(p + kBlockRows * channels, 0, 2);  // for the next block: the hardware foresees no strips
        V distance = read_some(p, lanes) - middle[k];
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
  }

  // With constants in memory (vectors == 0) this and apply fetch ahead by hand, but for what is too large for any
  // cache.
  template <int vectors>
  __attribute__((noinline)) void gradients(int64_t piece, bool large, C* space) const {
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
          auto read = [&](const S* p) {
            if (vectors == 0 && !large) fetch_source_ahead(p, true);
            return read_some(p, lanes);
          };
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
    auto sweep = [&](auto stores_past) {
      auto row_of = [&](auto count, int64_t width, const auto& columns) {
        each_column<count>(width, [&](int64_t k, int64_t lanes) {
          auto read = [&](const S* p) {
            if constexpr (vectors == 0 && !stores_past) fetch_source_ahead(p, true);
            return read_some(p, lanes);
          };
          auto write = [&](S* p, V v) {
            if constexpr (stores_past) {
              store_past_caches(p, Vec<C>(v.v));
            } else {
              if constexpr (vectors == 0) fetch_target_ahead(p, true);
              write_some(p, v, lanes);
            }
          };
          if constexpr (is_forward)
            elements.forward(i + k * V::size, columns.at(k), read, write);
          else
            elements.backward(i + k * V::size, columns.at(k), read, write);
        });
      };
      Columns<vectors> columns(table);
      for (; i + width <= end; i += width) row_of(Count<vectors>{}, width, columns);
      if (i < end) row_of(Count<0>{}, end - i, Columns<0>(table));
    };
    if (past_caches)
      sweep(std::true_type{});
    else
      sweep(std::false_type{});
  }

  // Whether those pieces of an operand are too large for any cache.
  NNART_HD bool is_large(int64_t first, int64_t last) const {
    return (last - first) * rows * channels * int64_t(sizeof(S)) >= past_caches_bytes();
  }

  // Calls body(first piece, last piece) in parallel.
  template <class Body>
  NNART_HD void each_share(const Body& body) const {
    parallel_for(pieces, ceil_div(kNormGrain, rows * channels), body);
  }

  template <bool is_forward>
  NNART_HD void apply_all() const {
    each_share([&](int64_t first, int64_t last) {
      bool past_caches = can_store_past_caches(elements.y, is_large(first, last)) && channels % V::size == 0;
      with_vectors(Table<S>::width(channels), [&](auto vectors) {
        for (int64_t piece = first; piece < last; ++piece) apply<is_forward, vectors>(piece, past_caches);
      });
      if (past_caches) finish_stores();
    });
  }

  NNART_HD void find_moments() const {
    constexpr int64_t strip = kHeld * V::size;
    each_share([&](int64_t first, int64_t last) {
      for (int64_t piece = first; piece < last; ++piece) {
        for (int64_t c = 0; c < 2 * channels; ++c) sums(piece)[c] = 0;
        each_block(piece, [&](int64_t row, int64_t n) {
          for (int64_t c = 0; c < channels; c += strip)
            with_vectors(least(strip, channels - c), [&](auto vectors) {
              if constexpr (vectors > 0) moments<vectors>(piece, row, n, c, least(strip, channels - c));
            });
        });
      }
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
      bool large = is_large(first, last);
      with_vectors(channels, [&](auto vectors) {
        for (int64_t piece = first; piece < last; ++piece) gradients<vectors>(piece, large, space.data());
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
}  // namespace nnart::cpu

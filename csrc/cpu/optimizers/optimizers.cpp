// Optimizers: one parallel region a pass over the tiles of all tensors of all groups. The norm of the gradients is the
// first pass, where anything asks for it; the layer-wise rules have one more, for the norms of each tensor; the last
// one does everything else while an element is in the first-level cache. Sums are taken tile by tile and the tiles in
// their order, so that no result depends on the number of threads.
#include <cmath>
#include <cstring>
#include <utility>

#include "core/optimizer_rules.h"
#include "core/parallel.h"
#include "cpu/clear.h"
#include "cpu/kernels.h"
#include "cpu/optimizers/adafactor.h"
#include "cpu/optimizers/tile.h"
#include "cpu/prefetch.h"
#include "cpu/scratch.h"
#include "cpu/streaming.h"

namespace nnart::cpu {
namespace {

// Below this many tiles a thread does not pay for its wake-up.
constexpr int64_t kTileGrain = 16;

NNART_HD void clear_grad(const OptimizerRow& row, int64_t begin, int64_t n) {
  clear(static_cast<char*>(advance(row.grad, row.grad_dtype, begin)), n * bytes_of(row.grad_dtype));
}

// f(row, begin, n, tile) for each tile that has elements: n of them, from begin on.
template <class F>
void for_tiles(const OptimizerArgs& args, const F& f) {
  parallel_for(args.tiles, args.rows_overlap ? args.tiles : kTileGrain, [&](int64_t tile, int64_t end) {
    int64_t r = entry_of(tile, args.row_count, [&](int64_t i) { return args.rows[i].first_tile; });
    for (; tile < end; ++r) {
      const OptimizerRow& row = args.rows[r];
      for (; tile < end && (tile - row.first_tile) * kOptimizerTile < row.n; ++tile) {
        int64_t begin = (tile - row.first_tile) * kOptimizerTile;
        f(row, begin, row.n - begin < kOptimizerTile ? row.n - begin : kOptimizerTile, tile);
      }
    }
  });
}

template <class C>
double sum_of_squares(const OptimizerRow& row, int64_t begin, int64_t n) {
  Buffer<C> buffer;
  return sum_of_squares(in_compute_type<C>(advance(row.grad, row.grad_dtype, begin), row.grad_dtype, n, buffer), n);
}

double grad_norm(const OptimizerArgs& args) {
  Scratch<double> sums(Use::partial, args.tiles);
  double* partial = sums.data();
  for_tiles(args, [&](const OptimizerRow& row, int64_t begin, int64_t n, int64_t tile) {
    partial[tile] = row.param_dtype == DType::Float64 ? sum_of_squares<double>(row, begin, n)
                                                      : sum_of_squares<float>(row, begin, n);
  });
  double sum = 0;
  for (int64_t tile = 0; tile < args.tiles; ++tile) sum += partial[tile];
  return std::sqrt(sum) * std::fabs(args.grad_factor);
}

// ---- the tile -----------------------------------------------------------------------------------------------------

// What happens to a gradient and a parameter before the rule.
struct Before {
  double grad_factor, max_value, weight_decay, kept;
};

// A tile's operands in the compute type; the states may be of another type S.
template <class C, class S = C>
struct Operands {
  C* param;
  const C* grad;
  S* state[kMaxStates];
  int64_t n;
};

// load_some for what may come from memory.
template <class S, class Count>
NNART_HD Vec<ComputeType<S>> load_stream(const S* p, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>)
    return load_partial(p, count);
  else
    return load_streaming(p);
}

// What is done to one vector.
template <bool decays, class C, class Rule>
class Step {
 public:
  Step(const Rule& rule, const Before& before)
      : rule_(rule), factor_(before.grad_factor), decay_(before.weight_decay), kept_(before.kept) {}
  NNART_HD void operator()(Vec<C>& param, Vec<C> grad, Vec<C>* state) const {
    grad = grad * factor_;
    if constexpr (decays) grad = grad + decay_ * param;  // without a penalty 0 * inf would be NaN
    param = param * kept_;
    rule_(param, grad, state);
  }

 private:
  const Rule& rule_;
  Vec<C> factor_, decay_, kept_;
};

template <bool decays, class C, class S, class Rule>
void update(const Rule& rule, const Before& before, const Operands<C, S>& x) {
  Step<decays, C, Rule> step(rule, before);
  for_vectors<C>(x.n, [&](int64_t i, auto count) {
    Vec<C> param = load_stream(x.param + i, count), grad = load_stream(x.grad + i, count), state[kMaxStates];
    if constexpr (sizeof(S) < sizeof(C)) {  // 1.3 times as fast on Zen 5; with states of C itself it is slower
      fetch_target_ahead(x.param + i);
      fetch_source_ahead(x.grad + i);
      for (int k = 0; k < Rule::states; ++k) fetch_target_ahead(x.state[k] + i);
    }
    for (int k = 0; k < Rule::states; ++k) state[k] = load_stream(x.state[k] + i, count);
    step(param, grad, state);
    store_some(x.param + i, param, count);
    for (int k = 0; k < Rule::states; ++k) store_some(x.state[k] + i, state[k], count);
  });
}

// What becomes of the part of a parameter that its 16-bit dtype has no place for: it is lost, kept in the compensation,
// or decides by chance.
enum class Rest { lost, kept, drawn };

// What the rest goes to or comes from: the compensation; the random words, the first of block first_block.
struct LowPrecision {
  BFloat16* compensation;
  uint64_t first_block, key;
};

// Updates as many of n elements of bfloat16 as whole pairs of vectors hold, and gives their number.
template <bool decays, Rest rest, class Rule>
int64_t update_even_odd(const Step<decays, float, Rule>& step, BFloat16* params, const BFloat16* grads,
                        BFloat16* const (&states)[kMaxStates], int64_t n, const LowPrecision& low) {
  constexpr int64_t pair = 2 * Vec<float>::size;
  constexpr int pairs = rest == Rest::drawn ? kWordsAStep / pair : 1;
  int64_t i = 0;
  for (; i + pairs * pair <= n; i += pairs * pair) {
    [[maybe_unused]] StepWords words;
    if constexpr (rest == Rest::drawn) words = words_even_odd(low.first_block + uint64_t(i / 4), low.key);
    for (int u = 0; u < pairs; ++u) {
      int64_t at = i + u * pair;
      fetch_target_ahead(params + at);
      fetch_source_ahead(grads + at);
      for (int k = 0; k < Rule::states; ++k) fetch_target_ahead(states[k] + at);
      if constexpr (rest == Rest::kept) fetch_target_ahead(low.compensation + at);
      EvenOdd param = load_even_odd(params + at), grad = load_even_odd(grads + at);
      Vec<float> even[kMaxStates], odd[kMaxStates];
      for (int k = 0; k < Rule::states; ++k) {
        EvenOdd both = load_even_odd(states[k] + at);
        even[k] = both.even;
        odd[k] = both.odd;
      }
      if constexpr (rest == Rest::kept) {
        EvenOdd small = load_even_odd(low.compensation + at);
        param = {param.even + small.even, param.odd + small.odd};
      }
      step(param.even, grad.even, even);
      step(param.odd, grad.odd, odd);
      if constexpr (rest == Rest::drawn) {
        param.even = round_at_random<BFloat16>(param.even, words.v[2 * u]);
        param.odd = round_at_random<BFloat16>(param.odd, words.v[2 * u + 1]);
      }
      store_even_odd(params + at, param);
      if constexpr (rest == Rest::kept) {
        EvenOdd large = load_even_odd(params + at);
        store_even_odd(low.compensation + at, {param.even - large.even, param.odd - large.odd});
      }
      for (int k = 0; k < Rule::states; ++k) store_even_odd(states[k] + at, {even[k], odd[k]});
    }
  }
  return i;
}

// update() where all operands are of one 16-bit dtype: in registers, without the buffers.
template <bool decays, Rest rest, class S, class Rule>
void update_in_place(const Rule& rule, const Before& before, const OptimizerRow& row, int64_t begin, int64_t n,
                     LowPrecision low) {
  using V = Vec<float>;
  auto* params = static_cast<S*>(row.param) + begin;
  auto* grads = static_cast<const S*>(row.grad) + begin;
  S* states[kMaxStates] = {};
  for (int k = 0; k < Rule::states; ++k) states[k] = static_cast<S*>(row.state[k]) + begin;
  Step<decays, float, Rule> step(rule, before);
  int64_t i = 0;
  if constexpr (std::is_same_v<S, BFloat16>) i = update_even_odd<decays, rest>(step, params, grads, states, n, low);
  float values[kWordsAStep];
  for_vectors<float>(n - i, [&](int64_t j, auto count) {
    V param = load_some(params + i + j, count), state[kMaxStates];
    if constexpr (rest == Rest::kept) param = param + load_some(low.compensation + i + j, count);
    for (int k = 0; k < Rule::states; ++k) state[k] = load_some(states[k] + i + j, count);
    step(param, load_some(grads + i + j, count), state);
    if constexpr (rest == Rest::lost)
      store_some(params + i + j, param, count);
    else
      store(values + j, param);
    for (int k = 0; k < Rule::states; ++k) store_some(states[k] + i + j, state[k], count);
  });
  if constexpr (rest == Rest::kept) split_some(values, n - i, params + i, low.compensation + i);
  if constexpr (rest == Rest::drawn)
    round_stochastically(values, n - i, params + i, low.first_block + uint64_t(i / 4), low.key);
}

// update() for 8-bit state, which is decoded in registers; x.state is where it is left for the encoder.
template <bool decays, class Rule>
void update_quantized(const Rule& rule, const Before& before, const Operands<float>& x,
                      const QuantizedState (&stored)[kMaxStates]) {
  using V = Vec<float>;
  Step<decays, float, Rule> step(rule, before);
  for (int64_t block = 0; block < x.n; block += kQuantizedBlock) {
    Decoder decoders[Rule::states];
    for (int k = 0; k < Rule::states; ++k) decoders[k] = stored[k].decoder(block);
    V largest[Rule::states] = {};
    for_vectors<float>(end_of_block(block, x.n) - block, [&](int64_t in_block, auto count) {
      int64_t i = block + in_block;
      fetch_target_ahead(x.param + i);
      fetch_source_ahead(x.grad + i);
      V param = load_stream(x.param + i, count), grad = load_stream(x.grad + i, count), state[Rule::states];
      for (int k = 0; k < Rule::states; ++k) state[k] = decoders[k](stored[k].codes + i, count);
      step(param, grad, state);
      store_some(x.param + i, param, count);
      for (int k = 0; k < Rule::states; ++k) {
        store(x.state[k] + i, state[k]);
        if constexpr (std::is_same_v<decltype(count), int64_t>) state[k] = first_lanes(state[k], count, V(0.0));
        largest[k] = size_at_least(state[k], largest[k]);
      }
    });
    for (int k = 0; k < Rule::states; ++k) stored[k].scales[block / kQuantizedBlock] = largest_lane(largest[k]);
  }
  for (int k = 0; k < Rule::states; ++k) quantize(x.state[k], x.n, stored[k]);
}

// Whether update_in_place does it.
bool is_one_half(const OptimizerRow& row, const OptimizerGroup& group, int states) {
  bool half = row.param_dtype == DType::BFloat16 || row.param_dtype == DType::Float16;
  bool keeps = row.compensation || group.rounding == Rounding::Stochastic;
  bool more = row.master || row.ema || row.row_variance || (keeps && row.param_dtype != DType::BFloat16);
  bool one = row.grad_dtype == row.param_dtype;
  for (int k = 0; k < states; ++k) one = one && !row.scale[k] && row.state_dtype[k] == row.param_dtype;
  return half && one && !more && !(group.max_value < INFINITY);
}

// The sums of squares of the parameter and of what the rule measures.
template <class C, class Rule>
std::pair<double, double> measure(const Rule& rule, const Before& before, const Operands<C>& x, C* measured) {
  Vec<C> factor(before.grad_factor);
  for_vectors<C>(x.n, [&](int64_t i, auto count) {
    Vec<C> state[kMaxStates];
    for (int k = 0; k < Rule::states; ++k) state[k] = load_some(x.state[k] + i, count);
    Vec<C> grad = load_some(x.grad + i, count) * factor;
    store(measured + i, rule.measure(load_some(x.param + i, count), grad, state));
  });
  return {sum_of_squares(x.param, x.n), sum_of_squares(measured, x.n)};
}

// Brings a tile's operands into the compute type and takes back what changed.
template <class C>
class Tile {
 public:
  Tile(const OptimizerRow& row, const OptimizerGroup& group, int states, int64_t begin, int64_t n, int64_t tile)
      : row_(row), group_(group), states_(states), begin_(begin), n_(n), tile_(tile) {}

  // All but the states.
  Operands<C> load(Before& before) {
    Operands<C> x{};
    x.n = n_;
    x.param = param_ = load_param();
    C* grad = in_compute_type(grad_memory(), row_.grad_dtype, n_, grad_buffer_);
    if (before.max_value < INFINITY) {
      Vec<C> factor(before.grad_factor), bound(before.max_value);
      for_vectors<C>(n_, [&](int64_t i, auto count) {
        Vec<C> g = load_some(grad + i, count) * factor;
        nnart::cpu::store(grad_buffer_.data + i, at_most(at_least(g, -bound), bound));
      });
      grad = grad_buffer_.data;
      before.grad_factor = 1;
    }
    x.grad = grad;
    return x;
  }
  // 8-bit state is left where it is; the buffers are for what is decoded.
  void load_states(Operands<C>& x) {
    for (int k = 0; k < states_; ++k) x.state[k] = state_[k] = load_state(k);
  }

  // Whether all state is 8-bit.
  bool is_quantized() const { return sizeof(C) == 4 && states_ > 0 && row_.scale[0]; }
  // Whether all state is of bfloat16, which is used where it lies.
  bool has_bfloat16_states() const {
    bool all = sizeof(C) == 4 && states_ > 0 && !row_.scale[0] && !row_.row_variance;
    for (int k = 0; k < states_; ++k) all = all && row_.state_dtype[k] == DType::BFloat16;
    return all;
  }
  Operands<C, BFloat16> with_bfloat16_states(const Operands<C>& x) const {
    Operands<C, BFloat16> y{x.param, x.grad, {}, x.n};
    for (int k = 0; k < states_; ++k) y.state[k] = static_cast<BFloat16*>(state_memory(k));
    return y;
  }
  QuantizedState quantized(int k) const {
    return {static_cast<uint8_t*>(row_.state[k]) + begin_, row_.scale[k] + begin_ / kQuantizedBlock, row_.positive[k]};
  }

  void store_states() const {
    if (row_.row_variance) return;
    for (int k = 0; k < states_; ++k)
      if (state_[k] == state_buffer_[k].data) narrow_some(row_.state_dtype[k], state_[k], n_, state_memory(k));
  }

  void store_param(uint64_t key) {
    if constexpr (sizeof(C) == 4) {
      if (param_ == param_buffer_.data || row_.master) store_low_precision(key);
      // The average is of the parameter as it is stored.
      if (row_.ema && param_ == param_buffer_.data && !row_.compensation)
        widen_some(row_.param_dtype, param_memory(), n_, param_);
    }
    if (row_.ema) {
      auto* ema = static_cast<C*>(row_.ema) + begin_;
      Vec<C> weight(1 - group_.ema_decay);
      for_vectors<C>(n_, [&](int64_t i, auto count) {
        Vec<C> average = load_some(ema + i, count);
        store_some(ema + i, average + weight * (load_some(param_ + i, count) - average), count);
      });
    }
    if (group_.zero_grad) clear_grad(row_, begin_, n_);
  }

 private:
  void* param_memory() const { return advance(row_.param, row_.param_dtype, begin_); }
  void* grad_memory() const { return advance(row_.grad, row_.grad_dtype, begin_); }
  void* state_memory(int k) const { return advance(row_.state[k], row_.state_dtype[k], begin_); }

  C* load_param() {
    if (row_.master) return static_cast<C*>(row_.master) + begin_;
    if constexpr (sizeof(C) == 4) {
      if (row_.compensation) {
        void* low = advance(row_.compensation, row_.param_dtype, begin_);
        in_low_precision(
            [&](auto* high) { join_some(high, static_cast<decltype(high)>(low), n_, param_buffer_.data); });
        return param_buffer_.data;
      }
    }
    return in_compute_type(param_memory(), row_.param_dtype, n_, param_buffer_);
  }

  C* load_state(int k) {
    if (row_.row_variance) join_factors(row_, begin_, n_, state_buffer_[k].data);
    if (row_.row_variance || is_quantized()) return state_buffer_[k].data;
    return in_compute_type(state_memory(k), row_.state_dtype[k], n_, state_buffer_[k]);
  }

  void store_low_precision(uint64_t key) const {
    in_low_precision([&](auto* to) {
      using S = std::remove_pointer_t<decltype(to)>;
      if (row_.compensation)
        split_some(param_, n_, to, static_cast<S*>(advance(row_.compensation, row_.param_dtype, begin_)));
      else if (group_.rounding == Rounding::Stochastic && !row_.master)
        round_stochastically(param_, n_, to, uint64_t(tile_) * (kOptimizerTile / 4), key);
      else
        narrow_some(row_.param_dtype, param_, n_, to);
    });
  }

  template <class F>
  void in_low_precision(const F& f) const {
    if (row_.param_dtype == DType::BFloat16)
      f(static_cast<BFloat16*>(param_memory()));
    else
      f(static_cast<Float16*>(param_memory()));
  }

  const OptimizerRow& row_;
  const OptimizerGroup& group_;
  int states_;
  int64_t begin_, n_, tile_;
  C* param_ = nullptr;
  C* state_[kMaxStates] = {};
  Buffer<C> param_buffer_, grad_buffer_, state_buffer_[kMaxStates];
};

Before before(const OptimizerGroup& group, double grad_factor) {
  return {grad_factor * group.sign, group.max_value, group.weight_decay, group.kept};
}

template <class C>
void update_tile(const OptimizerArgs& args, const OptimizerRow& row, double grad_factor, int64_t begin, int64_t n,
                 int64_t tile) {
  const OptimizerGroup& group = args.groups[row.group];
  with_rule<C>(group.rule, [&](auto type) {
    using Rule = typename decltype(type)::type;
    const Rule& rule = *static_cast<const Rule*>(row.rule);
    Before shared = before(group, grad_factor);
    if constexpr (sizeof(C) == 4) {
      if (is_one_half(row, group, Rule::states)) {
        LowPrecision low{row.compensation ? static_cast<BFloat16*>(row.compensation) + begin : nullptr,
                         uint64_t(tile) * (kOptimizerTile / 4), args.seed};
        auto run = [&](auto type, auto rest) {
          using S = typename decltype(type)::type;
          shared.weight_decay != 0 ? update_in_place<true, rest(), S>(rule, shared, row, begin, n, low)
                                   : update_in_place<false, rest(), S>(rule, shared, row, begin, n, low);
        };
        std::integral_constant<Rest, Rest::lost> lost;
        if (row.compensation)
          run(Type<BFloat16>{}, std::integral_constant<Rest, Rest::kept>{});
        else if (group.rounding == Rounding::Stochastic)
          run(Type<BFloat16>{}, std::integral_constant<Rest, Rest::drawn>{});
        else
          row.param_dtype == DType::BFloat16 ? run(Type<BFloat16>{}, lost) : run(Type<Float16>{}, lost);
        if (group.zero_grad) clear_grad(row, begin, n);
        return;
      }
    }
    Tile<C> memory(row, group, Rule::states, begin, n, tile);
    Operands<C> x = memory.load(shared);
    auto run = [&](const auto& operands) {
      shared.weight_decay != 0 ? update<true>(rule, shared, operands) : update<false>(rule, shared, operands);
    };
    if (memory.is_quantized()) {
      memory.load_states(x);
      if constexpr (sizeof(C) == 4 && Rule::states > 0) {
        QuantizedState stored[kMaxStates] = {};
        for (int k = 0; k < Rule::states; ++k) stored[k] = memory.quantized(k);
        shared.weight_decay != 0 ? update_quantized<true>(rule, shared, x, stored)
                                 : update_quantized<false>(rule, shared, x, stored);
      }
    } else if (memory.has_bfloat16_states()) {
      if constexpr (sizeof(C) == 4 && Rule::states > 0) run(memory.with_bfloat16_states(x));
    } else {
      memory.load_states(x);
      run(x);
      memory.store_states();
    }
    memory.store_param(args.seed);
  });
}

template <class C>
std::pair<double, double> measure_tile(const OptimizerArgs& args, const OptimizerRow& row, double grad_factor,
                                       int64_t begin, int64_t n, int64_t tile) {
  std::pair<double, double> sums{};
  const OptimizerGroup& group = args.groups[row.group];
  with_rule<C>(group.rule, [&](auto type) {
    using Rule = typename decltype(type)::type;
    if constexpr (is_layer_wise<Rule>) {
      Tile<C> memory(row, group, Rule::states, begin, n, tile);
      Before shared = before(group, grad_factor);
      Operands<C> x = memory.load(shared);
      memory.load_states(x);
      if constexpr (sizeof(C) == 4)
        if (memory.is_quantized())
          for (int k = 0; k < Rule::states; ++k) dequantize(memory.quantized(k), n, x.state[k]);
      Buffer<C> measured;
      sums = measure(*static_cast<const Rule*>(row.rule), shared, x, measured.data);
    }
  });
  return sums;
}

// ---- the step -----------------------------------------------------------------------------------------------------

// Builds each row's rule in memory. Rows of one group that are at the same step share theirs, for its powers are dear,
// unless the rule has something of the tensor's own.
void build_rules(const OptimizerArgs& args, char* memory) {
  const OptimizerRow* last = nullptr;
  double last_t = 0;
  for (int64_t r = 0; r < args.row_count; ++r, memory += kRuleBytes) {
    OptimizerRow& row = args.rows[r];
    const OptimizerGroup& group = args.groups[row.group];
    double t = next_step(row);
    bool own = row.scalar[0] || layer_wise(group.rule);
    bool same = last && last->group == row.group && last_t == t && !own &&
                (last->param_dtype == DType::Float64) == (row.param_dtype == DType::Float64);
    if (same) {
      row.rule = last->rule;
      continue;
    }
    build_rule(row, group, t, memory);
    last = &row;
    last_t = t;
  }
}

void scale_layers(const OptimizerArgs& args, double grad_factor) {
  using Sums = std::pair<double, double>;
  Scratch<Sums> scratch(Use::partial, args.tiles);
  Sums* partial = scratch.data();
  for_tiles(args, [&](const OptimizerRow& row, int64_t begin, int64_t n, int64_t tile) {
    partial[tile] = row.param_dtype == DType::Float64 ? measure_tile<double>(args, row, grad_factor, begin, n, tile)
                                                      : measure_tile<float>(args, row, grad_factor, begin, n, tile);
  });
  for (int64_t r = 0; r < args.row_count; ++r) {
    OptimizerRow& row = args.rows[r];
    double param = 0, measured = 0;
    for (int64_t tile = 0; tile * kOptimizerTile < row.n; ++tile) {
      param += partial[row.first_tile + tile].first;
      measured += partial[row.first_tile + tile].second;
    }
    scale_rule(row, args.groups[row.group], param, measured);
  }
}

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const OptimizerArgs& args) {
  OptimizerResult& result = *args.result;
  bool clips = args.max_norm < INFINITY;
  bool needs_norm = clips || args.skips_non_finite;
  result.grad_norm = args.norm >= 0 || !needs_norm ? args.norm : grad_norm(args);
  result.finite = !needs_norm || std::isfinite(result.grad_norm);
  if (args.skips_non_finite && !result.finite) return;

  double grad_factor = args.grad_factor;
  if (clips) {
    double ratio = args.max_norm / (result.grad_norm + 1e-6);  // as torch.nn.utils.clip_grad_norm_
    if (!(ratio > 1)) grad_factor *= ratio;
  }
  Scratch<char> rules(Use::tables, args.row_count * kRuleBytes);
  build_rules(args, rules.data());
  bool any_layer_wise = false;
  for (int64_t r = 0; r < args.row_count; ++r) any_layer_wise |= layer_wise(args.groups[args.rows[r].group].rule);
  int64_t matrices = any_layer_wise ? factored_matrices(args) : 0;
  Scratch<double> inverse_means(Use::weight, matrices);
  if (matrices > 0) average_factors(args, grad_factor, inverse_means.data());
  if (any_layer_wise) scale_layers(args, grad_factor);
  for_tiles(args, [&](const OptimizerRow& row, int64_t begin, int64_t n, int64_t tile) {
    if (row.param_dtype == DType::Float64)
      update_tile<double>(args, row, grad_factor, begin, n, tile);
    else
      update_tile<float>(args, row, grad_factor, begin, n, tile);
  });
}

}  // namespace nnart::cpu

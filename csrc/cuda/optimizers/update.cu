// The pass that changes things, and the one before it that layer-wise rules take their norms in: a block a tile, the
// tile in the block's registers from its first load to its last store.
#include "cuda/optimizers/elements.cuh"
#include "cuda/optimizers/passes.cuh"

namespace nnart::cuda {
namespace {

// Blocks a multiprocessor: 96 registers a thread, and 255 for double, do without spilling. Eight or more loads a thread
// are under way then in 640 threads, twice what the latency of DRAM asks for.
template <class C>
constexpr int kTileBlocks = sizeof(C) == 4 ? 5 : 2;

// What a thread has of a row's operands, in the compute type.
template <class C>
struct Operands {
  C param[kElements], grad[kElements], state[kMaxStates][kElements], ema[kElements];
};

// The thread's elements of one tile of one row, between memory and registers.
template <class C>
class Tile {
 public:
  __device__ Tile(const OptimizerRow& row, const OptimizerGroup& group, int64_t tile)
      : row_(row),
        group_(group),
        tile_(tile),
        begin_((tile - row.first_tile) * kOptimizerTile),
        place_(place_of(begin_, row.n)) {}

  __device__ const Place& place() const { return place_; }

  // The gradient comes unscaled, clipped and with its sign.
  __device__ __forceinline__ void load(C factor, bool with_ema, Operands<C>& x) const {
    Stored<C> param, compensation, grad, state[kMaxStates];
    if (row_.master)
      read(static_cast<const C*>(row_.master), place_, param);
    else
      read(row_.param_dtype, row_.param, place_, param);
    if (row_.compensation) read(row_.param_dtype, row_.compensation, place_, compensation);
    read(row_.grad_dtype, row_.grad, place_, grad);
#pragma unroll
    for (int k = 0; k < kMaxStates; ++k) {
      if (row_.scale[k])
        read(static_cast<const uint8_t*>(row_.state[k]), place_, state[k]);
      else if (has_state(k))
        read(row_.state_dtype[k], row_.state[k], place_, state[k]);
    }
    Stored<C> ema;
    if (with_ema && row_.ema) read(static_cast<const C*>(row_.ema), place_, ema);

    in_compute_type(row_.master ? kComputeDType : row_.param_dtype, param, x.param);
    if (row_.compensation) {
      C rest[kElements];
      in_compute_type(row_.param_dtype, compensation, rest);
#pragma unroll
      for (int e = 0; e < kElements; ++e) x.param[e] += rest[e];
    }
    in_compute_type(row_.grad_dtype, grad, x.grad);
    bool clamps = group_.max_value < INFINITY;
    C bound = C(group_.max_value);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      x.grad[e] *= factor;
      if (clamps) x.grad[e] = math::at_most(math::at_least(x.grad[e], -bound), bound);
    }
#pragma unroll
    for (int k = 0; k < kMaxStates; ++k) {
      if (!row_.scale[k]) {
        if (has_state(k)) in_compute_type(row_.state_dtype[k], state[k], x.state[k]);
      } else if constexpr (sizeof(C) == 4) {
        float scale = place_.count[0] > 0 ? row_.scale[k][place_.first[0] / kQuantizedBlock] : 0;
        row_.positive[k] ? dequantize<true>(state[k], scale, x.state[k])
                         : dequantize<false>(state[k], scale, x.state[k]);
      }
    }
    if (row_.row_variance) join_factors(x.state[0]);
    if (with_ema && row_.ema) for_each<C>(ema, [&](int e, C v) { x.ema[e] = v; });
  }

  __device__ __forceinline__ void store(Operands<C>& x, uint64_t key) const {
#pragma unroll
    for (int k = 0; k < kMaxStates; ++k) {
      if (!row_.scale[k]) {
        if (has_state(k)) write(row_.state_dtype[k], row_.state[k], place_, x.state[k]);
      } else if constexpr (sizeof(C) == 4) {
        auto* codes = static_cast<uint8_t*>(row_.state[k]);
        row_.positive[k] ? quantize<true>(x.state[k], place_, codes, row_.scale[k])
                         : quantize<false>(x.state[k], place_, codes, row_.scale[k]);
      }
    }
    if (row_.param_dtype == kComputeDType) {
      write(static_cast<C*>(row_.param), place_, [&](int e) { return x.param[e]; });
    } else if constexpr (sizeof(C) == 4) {
      row_.param_dtype == DType::BFloat16 ? store_low_precision(static_cast<BFloat16*>(row_.param), x.param, key)
                                          : store_low_precision(static_cast<Float16*>(row_.param), x.param, key);
    }
    if (row_.ema) {
      C weight = C(1 - group_.ema_decay);
      write(static_cast<C*>(row_.ema), place_, [&](int e) { return x.ema[e] + weight * (x.param[e] - x.ema[e]); });
    }
    if (group_.zero_grad) {
      C zeros[kElements] = {};
      write(row_.grad_dtype, row_.grad, place_, zeros);
    }
  }

 private:
  static constexpr DType kComputeDType = sizeof(C) == 4 ? DType::Float32 : DType::Float64;

  // One of the parameter's size.
  __device__ __forceinline__ bool has_state(int k) const { return row_.state[k] && !row_.row_variance; }

  // The variance of an element is its row's times its column's over the mean of the rows.
  __device__ __forceinline__ void join_factors(C (&variance)[kElements]) const {
    with_dtype(row_.param_dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      if constexpr (std::is_same_v<ComputeType<S>, C>) {
        auto* of_rows = in_global_memory(static_cast<const S*>(row_.row_variance));
        auto* of_columns = in_global_memory(static_cast<const S*>(row_.state[0]));
        auto* inverse_means = in_global_memory(static_cast<const C*>(row_.inverse_mean));
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
          int64_t line = quotient_of(place_.first[u], row_.columns), matrix = quotient_of(line, row_.rows);
          int64_t column = place_.first[u] - line * row_.columns, r = line - matrix * row_.rows;
#pragma unroll
          for (int k = 0; k < kLanes; ++k) {
            C& to = variance[u * kLanes + k];
            to = 0;
            if (k >= place_.count[u]) continue;
            to = widen(of_rows[line]) * inverse_means[matrix] * widen(of_columns[matrix * row_.columns + column]);
            if (++column < row_.columns) continue;
            column = 0;
            ++line;
            if (++r < row_.rows) continue;
            r = 0;
            ++matrix;
          }
        }
      }
    });
  }
  __device__ __forceinline__ static int64_t quotient_of(int64_t n, int64_t divisor) {
    return (n | divisor) >> 32 == 0 ? int64_t(uint32_t(n) / uint32_t(divisor)) : n / divisor;
  }

  // Leaves in param what the average is of: the exact value where it is kept, else the rounded one.
  template <class S>
  __device__ __forceinline__ void store_low_precision(S* to, float (&param)[kElements], uint64_t key) const {
    bool stochastic = group_.rounding == Rounding::Stochastic && !row_.master && !row_.compensation;
    Block words[kPacks];
    if (stochastic) {
#pragma unroll
      for (int u = 0; u < kPacks; ++u)
        words[u] = block_of(uint64_t(tile_ * kOptimizerTile + place_.first[u] - begin_) / kLanes, key);
    }
    S high[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      float value = param[e];
      if (stochastic) value = rounded_stochastically<S>(value, words[e / kLanes].words[e % kLanes]);
      high[e] = narrow(Type<S>{}, value);
    }
    write(to, place_, [&](int e) { return high[e]; });
    if (row_.master) write(static_cast<float*>(row_.master), place_, [&](int e) { return param[e]; });
    if (row_.compensation)
      write(static_cast<S*>(row_.compensation), place_,
            [&](int e) { return narrow(Type<S>{}, param[e] - widen(high[e])); });
    if (row_.master || row_.compensation) return;
#pragma unroll
    for (int e = 0; e < kElements; ++e) param[e] = widen(high[e]);
  }

  const OptimizerRow& row_;
  const OptimizerGroup& group_;
  int64_t tile_, begin_;
  Place place_;
};

template <class C>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<C>)
    update_kernel(OptimizerMemory memory, int64_t first_tile, uint64_t seed) {
  int64_t tile = first_tile + blockIdx.x;
  const OptimizerRow& row = memory.rows[memory.row_of_tile[tile]];
  if (memory.decision->skips || !computes_in<C>(row)) return;
  const OptimizerGroup& group = memory.groups[row.group];
  Tile<C> mine(row, group, tile);
  Operands<C> x;
  mine.load(C(memory.decision->grad_factor * group.sign), true, x);
  bool decays = group.weight_decay != 0;  // without a penalty 0 * inf would be NaN
  C decay = C(group.weight_decay), kept = C(group.kept);
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (decays) x.grad[e] += decay * x.param[e];
    x.param[e] *= kept;
  }
  with_rule<C>(group.rule, [&](auto type) {
    using Rule = typename decltype(type)::type;
    const Rule rule = *in_global_memory(static_cast<const Rule*>(row.rule));
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      C state[kMaxStates];
#pragma unroll
      for (int k = 0; k < Rule::states; ++k) state[k] = x.state[k][e];
      rule(x.param[e], x.grad[e], state);
#pragma unroll
      for (int k = 0; k < Rule::states; ++k) x.state[k][e] = state[k];
    }
  });
  mine.store(x, seed);
}

// The sums of squares of the parameter and of what the rule measures.
template <class C>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<C>) measure_kernel(OptimizerMemory memory) {
  auto* of_warps = shared_array<double[kTileThreads / kWarp], 2>();
  int64_t tile = blockIdx.x;
  const OptimizerRow& row = memory.rows[memory.row_of_tile[tile]];
  const OptimizerGroup& group = memory.groups[row.group];
  if (memory.decision->skips || !computes_in<C>(row) || !layer_wise(group.rule)) return;
  Tile<C> mine(row, group, tile);
  Operands<C> x;
  mine.load(C(memory.decision->grad_factor * group.sign), false, x);
  C measured[kElements] = {};
  with_rule<C>(group.rule, [&](auto type) {
    using Rule = typename decltype(type)::type;
    if constexpr (is_layer_wise<Rule>) {
      const Rule rule = *in_global_memory(static_cast<const Rule*>(row.rule));
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        C state[kMaxStates];
#pragma unroll
        for (int k = 0; k < Rule::states; ++k) state[k] = x.state[k][e];
        measured[e] = rule.measure(x.param[e], x.grad[e], state);
      }
    }
  });
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (e % kLanes < mine.place().count[e / kLanes]) continue;
    x.param[e] = measured[e] = 0;
  }
  double param = sum_over_block(sum_of_squares(x.param), of_warps[0]);
  double other = sum_over_block(sum_of_squares(measured), of_warps[1]);
  if (threadIdx.x == 0) {
    memory.sums[2 * tile] = param;
    memory.sums[2 * tile + 1] = other;
  }
}

}  // namespace

const char* launch_update(const OptimizerMemory& memory, bool in_double, int64_t first_tile, int64_t tiles,
                          uint64_t seed, cudaStream_t stream) {
  return launch_kernel(in_double ? update_kernel<double> : update_kernel<float>, tiles, kTileThreads, stream, memory,
                       first_tile, seed);
}

const char* launch_measure(const OptimizerMemory& memory, bool in_double, int64_t tiles, cudaStream_t stream) {
  return launch_kernel(in_double ? measure_kernel<double> : measure_kernel<float>, tiles, kTileThreads, stream, memory);
}

}  // namespace nnart::cuda

// Optimizers: the table of all tensors of all groups lives in the GPU's memory, and a step is a launch that prepares it
// and one that updates every tile of every tensor; before them one for the norm where anything asks for it, and between
// them two for the norms of layer-wise rules, and up to three for factored second moments. The host waits for none of
// them: whether a step takes place is decided on the device, where the counters are too.
#include <cmath>
#include <cstring>

#include "cuda/kernels.h"
#include "cuda/optimizers/passes.cuh"

namespace nnart::cuda {
namespace {

// Note [writing the table]
// What the host knows goes to the GPU as kernel arguments. It needs no pinned memory that would have to outlive the
// copy, and a CUDA graph that has the launch has the bytes. Such a graph writes the gradients and groups of its capture
// again at each replay, so that from then on every launch outside of it writes its own.
constexpr int kPieceBytes = 3840;  // of the 4 KB that a kernel's arguments have on every card
constexpr int kWriteThreads = 128;

struct Piece {
  uint32_t words[kPieceBytes / 4];
};
struct Pointers {
  void* values[kPieceBytes / 8];
};
constexpr int kPointers = kPieceBytes / 8;

__global__ void write_kernel(const __grid_constant__ Piece piece, int words, uint32_t* to) {
  for (int i = int(threadIdx.x); i < words; i += kWriteThreads) to[i] = piece.words[i];
}

__global__ void write_grads_kernel(const __grid_constant__ Pointers grads, int count, OptimizerRow* rows) {
  for (int i = int(threadIdx.x); i < count; i += kWriteThreads) rows[i].grad = grads.values[i];
}

__global__ void index_kernel(OptimizerMemory memory, int64_t row_count, int64_t tiles) {
  int64_t tile = int64_t(blockIdx.x) * kWriteThreads + threadIdx.x;
  if (tile >= tiles) return;
  memory.row_of_tile[tile] = int32_t(entry_of(tile, row_count, [&](int64_t r) { return memory.rows[r].first_tile; }));
}

const char* write(const void* from, int64_t bytes, void* to, cudaStream_t stream) {
  static_assert(sizeof(OptimizerRow) % 4 == 0 && sizeof(OptimizerGroup) % 4 == 0);
  const char* error = nullptr;
  for (int64_t at = 0; at < bytes && !error; at += kPieceBytes) {
    int64_t size = bytes - at < kPieceBytes ? bytes - at : kPieceBytes;
    Piece piece;
    memcpy(piece.words, static_cast<const char*>(from) + at, size_t(size));
    error = launch_kernel(write_kernel, 1, kWriteThreads, stream, piece, int(size / 4),
                          reinterpret_cast<uint32_t*>(static_cast<char*>(to) + at));
  }
  return error;
}

const char* write_grads(const OptimizerArgs& args, const OptimizerMemory& memory, cudaStream_t stream) {
  const char* error = nullptr;
  for (int64_t r = 0; r < args.row_count && !error; r += kPointers) {
    int count = int(args.row_count - r < kPointers ? args.row_count - r : kPointers);
    Pointers grads;
    for (int i = 0; i < count; ++i) grads.values[i] = args.rows[r + i].grad;
    error = launch_kernel(write_grads_kernel, 1, kWriteThreads, stream, grads, count, memory.rows + r);
  }
  return error;
}

const char* write_table(const OptimizerArgs& args, const OptimizerMemory& memory, cudaStream_t stream) {
  OptimizerTable& table = *args.table;
  bool records = is_capturing(stream);
  table.recorded = table.recorded || records;
  if (table.filled && !table.changed && !table.recorded) return nullptr;
  const char* error = write(args.groups, args.group_count * int64_t(sizeof(OptimizerGroup)), memory.groups, stream);
  if (error) return error;
  if (table.filled) {
    error = write_grads(args, memory, stream);
  } else {
    error = write(args.rows, args.row_count * int64_t(sizeof(OptimizerRow)), memory.rows, stream);
    if (!error && args.tiles > 0)
      error = launch_kernel(index_kernel, (args.tiles + kWriteThreads - 1) / kWriteThreads, kWriteThreads, stream,
                            memory, args.row_count, args.tiles);
  }
  if (!error && !records) {  // what is recorded has not happened
    table.filled = true;
    table.changed = false;
  }
  return error;
}

// Calls f(in_double) for the compute types of those rows that have what is asked for.
template <class Has, class F>
const char* for_compute_types(const OptimizerArgs& args, const Has& has, const F& f) {
  bool there[2] = {};
  for (int64_t r = 0; r < args.row_count; ++r)
    if (has(args.rows[r])) there[args.rows[r].param_dtype == DType::Float64] = true;
  const char* error = nullptr;
  for (bool in_double : {false, true})
    if (there[in_double] && !error) error = f(in_double);
  return error;
}

// Tiles are updated all at once, but of rows that share memory one row's after the other's.
const char* update(const OptimizerArgs& args, const OptimizerMemory& memory, cudaStream_t stream) {
  if (!args.rows_overlap)
    return for_compute_types(
        args, [](const OptimizerRow&) { return true; },
        [&](bool in_double) { return launch_update(memory, in_double, 0, args.tiles, args.seed, stream); });
  const char* error = nullptr;
  for (int64_t r = 0; r < args.row_count && !error; ++r) {
    int64_t first = args.rows[r].first_tile, end = r + 1 < args.row_count ? args.rows[r + 1].first_tile : args.tiles;
    if (first < end)
      error = launch_update(memory, args.rows[r].param_dtype == DType::Float64, first, end - first, args.seed, stream);
  }
  return error;
}

}  // namespace

const char* launch(const OptimizerArgs& args, cudaStream_t stream) {
  OptimizerMemory memory(args.table->memory, args);
  const char* error = write_table(args, memory, stream);
  bool needs_norm = args.max_norm < INFINITY || args.skips_non_finite;
  bool sums = needs_norm && args.norm < 0 && args.tiles > 0;
  if (!error && sums) error = launch_norm(memory, args.tiles, stream);
  Preparation step{
      args.grad_factor, args.max_norm, args.norm,      needs_norm,       args.skips_non_finite,           args.scale,
      args.found_inf,   args.decision, args.row_count, args.group_count, sums ? norm_sums(args.tiles) : 0};
  if (!error) error = launch_prepare(memory, step, stream);
  if (error || args.tiles == 0) return error;
  bool any_layer_wise = false;
  error = for_compute_types(
      args, [](const OptimizerRow& row) { return row.factors.matrices > 0; },
      [&](bool in_double) { return launch_average(memory, in_double, args.row_count, args.factors, stream); });
  if (error) return error;
  error = for_compute_types(
      args, [&](const OptimizerRow& row) { return layer_wise(args.groups[row.group].rule); },
      [&](bool in_double) {
        any_layer_wise = true;
        return launch_measure(memory, in_double, args.tiles, stream);
      });
  if (!error && any_layer_wise) error = launch_scale(memory, args.row_count, stream);
  return error ? error : update(args, memory, stream);
}

}  // namespace nnart::cuda

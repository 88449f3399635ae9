// Any convolution as a product of matrices (conv/gemm.cuh): of 16-bit elements by tensor cores with sums in float, of
// float likewise where torch lets it be rounded to TF32, of others by multiply-adds in their own precision.
//
// A block computes a tile of the result. Pieces of both matrices, of so many terms, go through shared memory while
// those of the steps before are multiplied: in packs that no thread waits for where neighbouring terms, or neighbouring
// lines of the matrix, are neighbours in memory, one element at a time elsewhere.
#include <type_traits>

#include "cuda/batch_norm.cuh"
#include "cuda/conv/gemm_product.cuh"

namespace nnart::cuda {
namespace {

// Of a tile's sums in shared memory, so many columns at a time, from row to row: four rows are in different banks.
constexpr int kSumsStride = kNarrow + 8;

// The weight's gradient is cut into pieces along its terms: enough blocks to fill a card, and no more terms than float
// may sum up, but enough that the sums between count little.
constexpr int64_t kFillingTiles = 512, kLeastTermsOfPiece = 2048, kMostTermsOfPiece = 16384;

// So many wide tiles are two for each multiprocessor of the cards that there are.
constexpr int64_t kFillingWideTiles = 256;

// Whether whole packs of a group's channels lie side by side in the tensor.
template <class S>
bool in_packs_of(const ConvOperand& operand, int64_t channels_of_group) {
  return channels_of_group % kPackWidth<S> == 0 && in_packs(operand, kPackWidth<S>, sizeof(S));
}

struct GemmPlan {
  int64_t columns;                    // of a tile
  int64_t m, n, k;                    // of a group
  int64_t row_tiles, column_tiles;    // of a group
  int64_t pieces, terms_of_piece;     // of k
  int64_t rows_group, columns_group;  // from a group's first element to the next one's, of each matrix
  int64_t together, weight;           // groups; elements of the weight of all groups
  int64_t row_sums;                   // rows of all groups, if the sums of their terms are wanted
  bool packs;                         // the result is stored in packs of channels

  __host__ __device__ __forceinline__ int64_t tiles() const { return row_tiles * column_tiles; }
  // Of each piece, behind those of the weight.
  __host__ __device__ __forceinline__ int64_t first_row_sum() const { return pieces * weight; }
  __host__ __device__ __forceinline__ int64_t partial_sums() const { return pieces * (weight + row_sums); }

  // Where row m and column n of the weight's gradient are among its elements, or -1 between groups that are only taken
  // together.
  __device__ __forceinline__ int64_t in_weight(const Coordinates& coordinates, int64_t group, int64_t m,
                                               int64_t n) const {
    if (together == 1) return (group * this->m + m) * this->n + n;
    bool first = coordinates.channels_first;
    Division by = divide(n, coordinates.channels);
    // Of one of them, which has at most 64 channels.
    auto rows = uint32_t(this->m / together), columns = uint32_t(this->n / together);
    auto inner = uint32_t(coordinates.channels.number()), taps = first ? inner : uint32_t(this->n) / inner;
    auto channel = uint32_t(first ? by.quotient : by.rest), tap = uint32_t(first ? by.rest : by.quotient);
    uint32_t channels = columns / taps, one = uint32_t(m) / rows;
    if (channel / channels != one) return -1;
    uint32_t row = uint32_t(m) - one * rows, rest = channel - one * channels;
    return ((group * together + one) * rows + row) * columns + (first ? rest * taps + tap : tap * channels + rest);
  }
};

// `may_be_wide` says that there are kernels with wide tiles: for tensor cores, where both matrices come in packs.
template <class S>
GemmPlan plan_gemm(const GemmArgs& args, const GemmAxis (&axes)[3], bool may_be_wide) {
  GemmPlan plan{};
  int64_t in = args.in_channels / args.groups, out = args.out_channels / args.groups;
  int64_t taps = Coordinates::taps(axes), pixels = Coordinates::pixels(args, axes);
  int64_t x_group = in * args.x.channel, y_group = out * args.y.channel, weight_group = out * args.weight.batch;
  const ConvOperand& result = args.pass == ConvPass::Forward ? args.y : args.x;
  switch (args.pass) {
    case ConvPass::Forward:
      plan = {kNarrow, pixels, out, taps * in, 0, 0, 1, 0, x_group, weight_group, 1, 0, 0, false};
      break;
    case ConvPass::Dgrad:
      plan = {kNarrow, pixels, in, taps * out, 0, 0, 1, 0, y_group, weight_group, 1, 0, 0, false};
      break;
    case ConvPass::Wgrad:
      plan = {kNarrow, out, taps * in, pixels, 0, 0, 1, 0, y_group, x_group, 1, 0, 0, false};
      break;
  }
  plan.row_tiles = ceil_div(plan.m, kTileRows<S>);
  bool wide = may_be_wide && ceil_div(plan.n, kNarrow) % 2 == 0;
  if (args.pass != ConvPass::Wgrad)
    wide = wide && args.groups * plan.row_tiles * ceil_div(plan.n, kWide) >= kFillingWideTiles;
  if (wide) plan.columns = kWide;
  plan.column_tiles = ceil_div(plan.n, plan.columns);
  plan.terms_of_piece = ceil_div(most(plan.k, 1), kTerms<S>) * kTerms<S>;
  if (args.pass == ConvPass::Wgrad) {
    int64_t filling = ceil_div(kFillingTiles, plan.tiles() * args.groups);
    int64_t terms = least(most(ceil_div(plan.k, filling), kLeastTermsOfPiece), kMostTermsOfPiece);
    plan.terms_of_piece = least(plan.terms_of_piece, ceil_div(terms, kTerms<S>) * kTerms<S>);
    plan.pieces = ceil_div(plan.k, plan.terms_of_piece);
  }
  plan.packs = in_packs_of<S>(result, plan.n) && is_aligned(beside(args));
  plan.together = args.together;
  plan.weight = args.out_channels * (args.in_channels / args.groups / args.together) * taps;
  plan.row_sums = args.grad_bias ? args.out_channels : 0;
  return plan;
}

// ---- the kernel

// Calls visit(row, column, sums) for each `width` sums side by side in shared memory: neighbouring threads go along a
// row, or down.
template <int rows, int width, class C, class Visit>
__device__ __forceinline__ void each_part(const C* sums, bool down, const Visit& visit) {
  constexpr int parts_of_row = kNarrow / width;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < rows * parts_of_row; i += kGemmThreads) {
    int row = down ? i % rows : i / parts_of_row, column = (down ? i / rows : i % parts_of_row) * width;
    visit(row, column, load<width>(sums + row * kSumsStride + column));
  }
}

// Of the forward's result, if they are wanted: the sum of each channel's elements in each tile, and then the squares of
// their distances from the tile's mean. Rounding these to C costs no more than rounding one element does.
template <class C>
struct MomentSums {
  C* sums;  // may be null
  int64_t tiles, channels;
};

template <class S>
MomentSums<ComputeType<S>> moment_sums(const ConvArgs& args, int64_t pixels) {
  using C = ComputeType<S>;
  bool wanted = args.norm && args.norm->of_batch;
  auto* sums = wanted ? reinterpret_cast<C*>(args.partial_sums) : nullptr;
  return {sums, ceil_div(pixels, kTileRows<S>), args.out_channels};
}

// Of what was stored, kNarrow columns of it in shared memory, of which `rows` rows and `columns` columns are there.
// Two threads share a column.
template <class S>
__device__ __forceinline__ void find_moments_of_tile(ComputeType<S>* stored, int64_t rows, int64_t columns,
                                                     const MomentSums<ComputeType<S>>& moments, int64_t tile,
                                                     int64_t first_channel) {
  using C = ComputeType<S>;
  static_assert(kGemmThreads == 2 * kNarrow);
  constexpr int half = kTileRows<S> / 2;
  int column = int(threadIdx.x) % kNarrow, first = int(threadIdx.x) / kNarrow * half;
  int n = int(most(least(rows - first, half), 0));
  const C* down = stored + first * kSumsStride + column;
  __syncthreads();  // all of it is there
  C sum = 0, distances = 0, squares = 0;
#pragma unroll 2
  for (int i = 0; i < n; ++i) sum += down[i * kSumsStride];
  C middle = sum / C(most(n, 1));
#pragma unroll 2
  for (int i = 0; i < n; ++i) {
    C distance = down[i * kSumsStride] - middle;
    distances += distance;
    squares += distance * distance;
  }
  double total = double(middle) * n + double(distances);
  double spread = double(squares) - double(distances) * double(distances) / most(n, 1);
  __syncthreads();  // everybody has read it
  auto* of_lower_half = reinterpret_cast<Pack<double, 2>*>(stored);
  if (first > 0) of_lower_half[column] = {{total, spread}};
  __syncthreads();  // the lower halves are there
  if (first > 0 || column >= columns) return;
  if (rows > half) {
    double lower = of_lower_half[column].lanes[0], more = double(least(rows - half, half));
    double apart = lower / more - total / n;
    spread += of_lower_half[column].lanes[1] + apart * apart * n * more / (n + more);
    total += lower;
  }
  C* at = moments.sums + tile * moments.channels + first_channel + column;
  at[0] = C(total);
  at[moments.tiles * moments.channels] = C(spread);
}

// That a multiprocessor has registers for: what is gathered takes some, and so do larger elements.
template <class S, int tile_columns, Packs packed_rows, Packs packed_columns>
constexpr int kBlocks =
    tile_columns == kNarrow && packed_rows != Packs::None && packed_columns != Packs::None && sizeof(S) == 2 ? 3 : 2;

template <class S, Multiply how, ConvPass pass, int tile_columns, Packs packed_rows, Packs packed_columns>
__global__ void __launch_bounds__(kGemmThreads, kBlocks<S, tile_columns, packed_rows, packed_columns>)
    gemm_kernel(Matrices<S, pass> matrices, GemmPlan plan, S* result, ConvStrides result_strides, Epilogue<S> epilogue,
                double* partial_sums, MomentSums<ComputeType<S>> moments) {
  using Matrix = Matrices<S, pass>;
  constexpr int tile_rows = kTileRows<S>, row_bytes = tile_rows * kLineBytes;
  constexpr int stage_bytes = row_bytes + tile_columns * kLineBytes;
  using C = ComputeType<S>;
  constexpr int sums_bytes = tile_rows * kSumsStride * int(sizeof(C));
  constexpr int end_bytes = sums_bytes + tile_rows * int(sizeof(int64_t));
  constexpr int bytes = end_bytes > kStages * stage_bytes ? end_bytes : kStages * stage_bytes;
  Pack<uint32_t, 4>* memory = shared_array<Pack<uint32_t, 4>, bytes / kAccessBytes>();
  auto* stages = reinterpret_cast<unsigned char*>(memory);
  // Blocks are fewer than 2^31.
  uint32_t tiles = uint32_t(plan.tiles()), tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
  uint32_t piece = rest % uint32_t(plan.pieces), group = rest / uint32_t(plan.pieces);
  uint32_t row_tile = tile / uint32_t(plan.column_tiles), column_tile = tile % uint32_t(plan.column_tiles);
  int64_t first_row = int64_t(row_tile) * tile_rows, first_column = int64_t(column_tile) * tile_columns;
  int64_t begin = piece * plan.terms_of_piece, end = least(begin + plan.terms_of_piece, plan.k);

  LoaderOf<Matrix, S, true, tile_rows, packed_rows> rows(matrices, first_row, plan.m);
  LoaderOf<Matrix, S, false, tile_columns, packed_columns> columns(matrices, first_column, plan.n);
  auto row_walk = rows.walk(matrices, begin);
  auto column_walk = columns.walk(matrices, begin);
  constexpr bool one_walk = packed_rows == Packs::OfTerms && packed_columns == Packs::OfTerms;
  const S* data_of_rows = matrices.rows() + group * plan.rows_group;
  const S* data_of_columns = matrices.columns() + group * plan.columns_group;
  int terms = int(end - begin), k = 0, filled = 0;  // of the piece, those asked for, and the stage of the next ones

  // Terms for gathering, a step ahead of where they are used.
  constexpr bool gathers = packed_rows == Packs::None || packed_columns == Packs::None;
  GatheredTerm* table = nullptr;
  if constexpr (gathers) table = shared_array<GatheredTerm, 2 * kTerms<S>>();
  auto of_step = [&](int k) { return table + k / kTerms<S> % 2 * kTerms<S>; };
  auto tabulate = [&](int k) {
    int t = int(threadIdx.x);
    if (gathers && t < kTerms<S> && k + t < terms) of_step(k)[t] = matrices.gathered_term(begin + k + t);
  };

  // The stage that the next step's pieces are on their way to, if there is a next one.
  auto ask = [&] {
    unsigned char* stage = k < terms ? stages + filled * stage_bytes : nullptr;
    if (stage) {
      if constexpr (one_walk) column_walk = row_walk;
      row_walk = rows.ask(matrices, row_walk, of_step(k), stage, k, terms, data_of_rows);
      column_walk = columns.ask(matrices, column_walk, of_step(k), stage + row_bytes, k, terms, data_of_columns);
    }
    end_group_of_copies();
    k += kTerms<S>;
    tabulate(k);
    filled = filled + 1 < kStages ? filled + 1 : 0;
    return stage;
  };
  auto put = [&](unsigned char* stage) {
    if (!stage) return;
    rows.put(stage);
    columns.put(stage + row_bytes);
  };

  ProductOf<S, how, tile_columns, packed_rows, packed_columns> product;
  RowSum<S, packed_rows> row_sum;
  bool sums_rows = pass == ConvPass::Wgrad && plan.row_sums > 0 && column_tile == 0;
  tabulate(0);
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if constexpr (gathers) __syncthreads();
    put(ask());
  }
  while (k < terms + (kStages - 1) * kTerms<S>) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the step's pieces are there, and nobody multiplies those whose place the next takes
    unsigned char* asked = ask();
    const unsigned char* stage = stages + filled * stage_bytes;  // the one to be filled after this step
    product.add(stage, stage + row_bytes);
    if (sums_rows) row_sum.add(stage);
    put(asked);
  }

  if (sums_rows && row_sum.row() < tile_rows && first_row + row_sum.row() < plan.m) {
    int64_t row = group * plan.m + first_row + row_sum.row();
    partial_sums[plan.first_row_sum() + piece * plan.row_sums + row] = double(row_sum.sum);
  }

  // Through shared memory, so that neighbouring threads write neighbouring elements, and what follows the sums is a
  // loop: written out for each register, it would not fit the cache of instructions.
  auto* sums = reinterpret_cast<C*>(memory);
  auto* pixels = reinterpret_cast<int64_t*>(memory + sums_bytes / kAccessBytes);  // each row's place in the result
#pragma unroll 1
  for (int part = 0; part < tile_columns; part += kNarrow) {
    __syncthreads();
    if (pass != ConvPass::Wgrad && part == 0 && int(threadIdx.x) < tile_rows) {
      PixelPlace place = matrices.coordinates.pixel_place(least(first_row + int(threadIdx.x), plan.m - 1));
      pixels[threadIdx.x] = matrices.coordinates.in_result(place, result_strides);
    }
    if (product.first_column() / kNarrow == part / kNarrow)
      product.each([&](int row, int column, const auto& pack) {
        *reinterpret_cast<std::decay_t<decltype(pack)>*>(sums + row * kSumsStride + column % kNarrow) = pack;
      });
    __syncthreads();
    if constexpr (pass == ConvPass::Wgrad) {
      each_part<tile_rows, 1>(sums, false, [&](int row, int column, const auto& one) {
        int64_t m = first_row + row, n = first_column + part + column;
        int64_t at = m < plan.m && n < plan.n ? plan.in_weight(matrices.coordinates, group, m, n) : -1;
        if (at >= 0) partial_sums[piece * plan.weight + at] = double(one.lanes[0]);
      });
    } else {
      auto finish = [&](int row, int column, const auto& pack) {
        int64_t m = first_row + row, n = first_column + part + column, channel = group * plan.n + n;
        constexpr int width = int(sizeof(pack) / sizeof(C));
        int64_t at = pixels[row] + channel * result_strides.channel;
        bool there = m < plan.m && n < plan.n;
        uint32_t bits = 0;
        if (there) {
          constexpr bool may_mask = pass == ConvPass::Forward && width > 1;
          auto stored = epilogue.template store<width, may_mask>(result, at, channel, pack.lanes, &bits);
          if constexpr (pass == ConvPass::Forward)
            if (moments.sums) {
#pragma unroll
              for (int k = 0; k < width; ++k) sums[row * kSumsStride + column + k] = widen(stored.lanes[k]);
            }
        }
        if constexpr (pass == ConvPass::Forward && width > 1)
          if (epilogue.mask) epilogue.template store_mask<width>(at, channel, bits, there);
      };
      if (plan.packs)
        each_part<tile_rows, kPackWidth<S>>(sums, false, finish);
      else
        each_part<tile_rows, 1>(sums, result_strides.channel != 1, finish);
      if constexpr (pass == ConvPass::Forward)
        if (moments.sums) {
          int64_t n = first_column + part;
          find_moments_of_tile<S>(sums, plan.m - first_row, plan.n - n, moments, row_tile, group * plan.n + n);
        }
    }
  }
}

// ---- on the host

template <class S, Multiply how, ConvPass pass, int columns, Packs packed_rows, Packs packed_columns>
const char* launch_planned(const GemmArgs& args, const GemmAxis (&axes)[3], const GemmPlan& plan, cudaStream_t stream) {
  const ConvOperand& result = pass == ConvPass::Forward ? args.y : args.x;
  return launch_kernel(gemm_kernel<S, how, pass, columns, packed_rows, packed_columns>,
                       args.groups * plan.pieces * plan.tiles(), kGemmThreads, stream, Matrices<S, pass>(args, axes),
                       plan, static_cast<S*>(result.data), ConvStrides(result), Epilogue<S>(args), args.partial_sums,
                       moment_sums<S>(args, plan.m));
}

template <class S, Multiply how, ConvPass pass, Packs packed_rows, Packs packed_columns>
const char* launch_gemm(const GemmArgs& args, const GemmAxis (&axes)[3], cudaStream_t stream) {
  constexpr bool all_packs = packed_rows != Packs::None && packed_columns != Packs::None;
  constexpr bool may_be_wide = all_packs && how == Multiply::TensorCores;
  GemmPlan plan = plan_gemm<S>(args, axes, may_be_wide);
  if (plan.m == 0) return nullptr;  // a phase without pixels
  if constexpr (may_be_wide)
    if (plan.columns == kWide)
      return launch_planned<S, how, pass, kWide, packed_rows, packed_columns>(args, axes, plan, stream);
  return launch_planned<S, how, pass, kNarrow, packed_rows, packed_columns>(args, axes, plan, stream);
}

// The mean and the variance of each channel, if they are wanted, from those of the tiles.
template <class S>
const char* moments_of_tiles(const GemmArgs& args, const GemmAxis (&axes)[3], cudaStream_t stream) {
  using C = ComputeType<S>;
  int64_t pixels = Coordinates::pixels(args, axes);
  MomentSums<C> moments = moment_sums<S>(args, pixels);
  if (!moments.sums) return nullptr;
  return find_moments(static_cast<const C*>(moments.sums), moments.tiles, moments.channels,
                      Pieces{kTileRows<S>, pixels, moments.tiles, true}, double(pixels), NoPivot{},
                      static_cast<C*>(args.norm->mean), static_cast<C*>(args.norm->var), stream);
}

template <class S, Multiply how>
const char* forward(const GemmArgs& args, cudaStream_t stream) {
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  constexpr ConvPass pass = ConvPass::Forward;
  int64_t in = args.in_channels / args.groups;
  const char* error = nullptr;
  if (!in_packs_of<S>(args.x, in))
    error = launch_gemm<S, how, pass, Packs::None, Packs::None>(args, axes, stream);
  else if (args.together > 1 || !in_packs_of<S>(args.weight, in))
    error = launch_gemm<S, how, pass, Packs::OfTerms, Packs::None>(args, axes, stream);
  else
    error = launch_gemm<S, how, pass, Packs::OfTerms, Packs::OfTerms>(args, axes, stream);
  return error ? error : moments_of_tiles<S>(args, axes, stream);
}

template <class S, Multiply how>
const char* dgrad_phase(const GemmArgs& args, const GemmAxis (&axes)[3], cudaStream_t stream) {
  constexpr ConvPass pass = ConvPass::Dgrad;
  if (!in_packs_of<S>(args.y, args.out_channels / args.groups))
    return launch_gemm<S, how, pass, Packs::None, Packs::None>(args, axes, stream);
  if constexpr (sizeof(S) == 2)
    if (args.together == 1 && in_packs_of<S>(args.weight, args.in_channels / args.groups))
      return launch_gemm<S, how, pass, Packs::OfTerms, Packs::OfLines>(args, axes, stream);
  return launch_gemm<S, how, pass, Packs::OfTerms, Packs::None>(args, axes, stream);
}

template <class S, Multiply how>
const char* dgrad(const GemmArgs& args, cudaStream_t stream) {
  for (int64_t d = 0; d < args.axis[0].stride; ++d)
    for (int64_t h = 0; h < args.axis[1].stride; ++h)
      for (int64_t w = 0; w < args.axis[2].stride; ++w) {
        const GemmAxis axes[3] = {GemmAxis(args.axis[0], d), GemmAxis(args.axis[1], h), GemmAxis(args.axis[2], w)};
        if (const char* error = dgrad_phase<S, how>(args, axes, stream)) return error;
      }
  return nullptr;
}

template <class S>
bool wgrad_in_packs(const GemmArgs& args) {
  return sizeof(S) == 2 && in_packs_of<S>(args.x, args.in_channels / args.groups) &&
         in_packs_of<S>(args.y, args.out_channels / args.groups) && args.weight.channel == 1;
}

template <class S, Multiply how>
const char* wgrad(const GemmArgs& args, cudaStream_t stream) {
  constexpr ConvPass pass = ConvPass::Wgrad;
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  const char* error = nullptr;
  bool in_packs = wgrad_in_packs<S>(args);
  if (!in_packs) error = launch_gemm<S, how, pass, Packs::None, Packs::None>(args, axes, stream);
  if constexpr (sizeof(S) == 2)
    if (in_packs) error = launch_gemm<S, how, pass, Packs::OfLines, Packs::OfLines>(args, axes, stream);
  if (error) return error;
  GemmPlan plan = plan_gemm<S>(args, axes, in_packs);
  auto add_pieces = [&](const double* sums, int64_t n, void* result) {
    int columns = power_of_two(n, kWarp);
    return launch_kernel(add_pieces_kernel<S>, ceil_div(n, columns), kChannelThreads, stream, sums, plan.pieces, n,
                         columns, static_cast<S*>(result));
  };
  error = add_pieces(args.partial_sums, plan.weight, args.weight.data);
  if (error || plan.row_sums == 0) return error;
  return add_pieces(args.partial_sums + plan.first_row_sum(), plan.row_sums, args.grad_bias);
}

template <class S, Multiply how>
const char* run(const GemmArgs& args, cudaStream_t stream) {
  switch (args.pass) {
    case ConvPass::Forward:
      return forward<S, how>(args, stream);
    case ConvPass::Dgrad:
      return dgrad<S, how>(args, stream);
    case ConvPass::Wgrad:
      return wgrad<S, how>(args, stream);
  }
  return nullptr;
}

}  // namespace

const char* gemm(const ConvArgs& given, cudaStream_t stream) {
  GemmArgs args(given);
  switch (args.dtype) {
    case DType::Float32:
      return args.tf32 ? run<float, Multiply::TensorCores>(args, stream) : run<float, Multiply::Plain>(args, stream);
    case DType::Float64:
      return run<double, Multiply::Plain>(args, stream);
    case DType::BFloat16:
      return run<BFloat16, Multiply::TensorCores>(args, stream);
    case DType::Float16:
      return run<Float16, Multiply::TensorCores>(args, stream);
  }
  return nullptr;
}

int64_t gemm_moments_scratch(const ConvArgs& args) {
  int64_t numbers = 0;
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    auto moments = moment_sums<S>(args, Coordinates::pixels(args, axes));
    numbers = ceil_div(2 * moments.tiles * moments.channels * int64_t(sizeof(*moments.sums)), int64_t(sizeof(double)));
  });
  return numbers;
}

int64_t gemm_scratch(const ConvArgs& given) {
  GemmArgs args(given);
  int64_t numbers = 0;
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    GemmPlan plan = plan_gemm<S>(args, axes, wgrad_in_packs<S>(args));
    numbers = plan.partial_sums();
  });
  return numbers;
}

}  // namespace nnart::cuda

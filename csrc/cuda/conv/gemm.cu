// Any convolution as a product of matrices (conv/gemm.cuh): of 16-bit elements by tensor cores with sums in float, of
// others by multiply-adds in their own precision.
//
// A block computes a tile of the result. Pieces of both matrices, of so many terms, go through shared memory while
// those of the steps before are multiplied: in packs that no thread waits for where neighbouring terms, or neighbouring
// lines of the matrix, are neighbours in memory, one element at a time elsewhere.
#include <type_traits>

#include "cuda/channels.cuh"
#include "cuda/conv/gemm.cuh"
#include "cuda/matrix.cuh"

namespace nnart::cuda {
namespace {

constexpr int kGemmThreads = 128;
constexpr int kStages = 3;      // pieces in shared memory: one is multiplied, the others are under way
constexpr int kLineBytes = 64;  // of the terms of a row in a piece
constexpr int kLinePacks = kLineBytes / kAccessBytes;
template <class S>
constexpr int kTerms = kLineBytes / int(sizeof(S));  // of a piece

// A tile's columns. A wide tile reads two thirds of what two narrow ones do.
constexpr int kNarrow = 64, kWide = 128;
template <class S>
constexpr int kTileRows = sizeof(S) == 8 ? 64 : 128;

// Of a tile's sums in shared memory, so many columns at a time, from row to row: four rows are in different banks.
constexpr int kSumsStride = kNarrow + 8;

// The weight's gradient is cut into pieces along its terms: enough blocks to fill a card, and no more terms than float
// may sum up, but enough that the sums between count little.
constexpr int64_t kFillingTiles = 512, kLeastTermsOfPiece = 2048, kMostTermsOfPiece = 16384;

// So many wide tiles are two for each multiprocessor of the cards that there are.
constexpr int64_t kFillingWideTiles = 256;

// How the elements of a matrix come: one by one, or in packs of terms of one line, or of lines at one term.
enum class Packs { None, OfTerms, OfLines };

// Where in a piece pack p of a line's terms is, in bytes, or of the lines at a term: eight packs that are read
// together, of neighbouring lines or terms, lie in different banks.
__device__ __forceinline__ int pack_of_terms(int line, int p) {
  return line * kLineBytes + ((p ^ (line >> 1 & (kLinePacks - 1))) * kAccessBytes);
}
template <int packs>
__device__ __forceinline__ int pack_of_lines(int term, int p) {
  return (term * packs + (p ^ (term & 7))) * kAccessBytes;
}

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
  bool packs;                         // the result is stored in packs of channels

  __host__ __device__ __forceinline__ int64_t tiles() const { return row_tiles * column_tiles; }
};

// `all_packs` says that both matrices come in packs.
template <class S>
GemmPlan plan_gemm(const ConvArgs& args, const GemmAxis (&axes)[3], bool all_packs) {
  GemmPlan plan{};
  int64_t in = args.in_channels / args.groups, out = args.out_channels / args.groups;
  int64_t taps = Coordinates::taps(axes), pixels = Coordinates::pixels(args, axes);
  int64_t x_group = in * args.x.channel, y_group = out * args.y.channel, weight_group = out * args.weight.batch;
  const ConvOperand& result = args.pass == ConvPass::Forward ? args.y : args.x;
  switch (args.pass) {
    case ConvPass::Forward:
      plan = {kNarrow, pixels, out, taps * in, 0, 0, 1, 0, x_group, weight_group, false};
      break;
    case ConvPass::Dgrad:
      plan = {kNarrow, pixels, in, taps * out, 0, 0, 1, 0, y_group, weight_group, false};
      break;
    case ConvPass::Wgrad:
      plan = {kNarrow, out, taps * in, pixels, 0, 0, 1, 0, y_group, x_group, false};
      break;
  }
  plan.row_tiles = ceil_div(plan.m, kTileRows<S>);
  bool wide = sizeof(S) == 2 && all_packs && ceil_div(plan.n, kNarrow) % 2 == 0;
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
  const void* residual = args.finish ? args.finish->residual : nullptr;
  plan.packs = in_packs_of<S>(result, plan.n) && reinterpret_cast<uintptr_t>(residual) % kAccessBytes == 0;
  return plan;
}

// ---- the matrices of a pass: what is known of a row, of a column and of a term, and the elements

// A step goes from one of a thread's terms to its next. An element is so far from a group's first one as its line and
// term meet, if they do, and as the term's channel adds: what is known of a term is that of all its tap's channels.
template <class S, ConvPass pass>
struct Matrices {
  using Row = Pixel;
  using Column = int64_t;  // where its part of the weight begins
  using Term = Tap;
  using Place = TapPlace;
  using Step = int;

  Coordinates coordinates;
  const S *in, *weight;
  int64_t column_stride;

  Matrices(const ConvArgs& args, const GemmAxis (&axes)[3])
      : coordinates(args, axes, false),
        in(static_cast<const S*>((pass == ConvPass::Forward ? args.x : args.y).data)),
        weight(static_cast<const S*>(args.weight.data)),
        column_stride(pass == ConvPass::Forward ? args.weight.batch : args.weight.channel) {}

  __device__ __forceinline__ Row row(int64_t m) const { return coordinates.pixel(coordinates.pixel_place(m)); }
  __device__ __forceinline__ Column column(int64_t n) const { return n * column_stride; }
  __device__ __forceinline__ Place place(int64_t k) const { return coordinates.tap_place(k); }
  __device__ __forceinline__ Step step(int terms) const { return terms; }
  __device__ __forceinline__ bool advance(Place& place, Step step) const { return coordinates.advance(place, step); }
  __device__ __forceinline__ Term term(const Place& place) const { return coordinates.tap(place); }
  __device__ __forceinline__ bool meet(const Row& row, const Term& term, int64_t& at) const {
    return coordinates.meet(row, term, at);
  }
  __device__ __forceinline__ bool meet(Column column, const Term& term, int64_t& at) const {
    at = column + term.in_weight;
    return true;
  }
  // From a group's first element to that of the place's channel: in packs of terms channels are neighbours.
  template <Packs packs>
  __device__ __forceinline__ int64_t in_rows(const Place& place) const {
    return packs == Packs::OfTerms ? place.channel : place.channel * coordinates.in.channel;
  }
  template <Packs packs>
  __device__ __forceinline__ int64_t in_columns(const Place& place) const {
    return packs == Packs::OfTerms ? place.channel : place.channel * coordinates.weight_channel;
  }
  __device__ __forceinline__ const S* rows() const { return in; }
  __device__ __forceinline__ const S* columns() const { return weight; }
};

template <class S>
struct Matrices<S, ConvPass::Wgrad> {
  struct Row {
    int64_t at;  // its channel in y
  };
  struct Column {
    int64_t channel;
    Tap tap;
  };
  struct Term {
    Pixel in_x;
    int64_t in_y;
  };
  using Place = PixelPlace;
  using Step = PixelPlace;

  Coordinates coordinates;
  const S *x, *y;
  ConvStrides y_strides;

  Matrices(const ConvArgs& args, const GemmAxis (&axes)[3])
      : coordinates(args, axes, args.weight.channel != 1),
        x(static_cast<const S*>(args.x.data)),
        y(static_cast<const S*>(args.y.data)),
        y_strides(args.y) {}

  __device__ __forceinline__ Row row(int64_t m) const { return {m * y_strides.channel}; }
  __device__ __forceinline__ Column column(int64_t n) const {
    TapPlace place = coordinates.tap_place(n);
    return {place.channel * coordinates.in.channel, coordinates.tap(place)};
  }
  __device__ __forceinline__ Place place(int64_t k) const { return coordinates.pixel_place(k); }
  __device__ __forceinline__ Step step(int terms) const { return coordinates.pixel_place(terms); }
  __device__ __forceinline__ bool advance(Place& place, const Step& step) const {
    coordinates.advance(place, step);
    return true;
  }
  __device__ __forceinline__ Term term(const Place& place) const {
    return {coordinates.pixel(place), coordinates.in_result(place, y_strides)};
  }
  __device__ __forceinline__ bool meet(const Row& row, const Term& term, int64_t& at) const {
    at = row.at + term.in_y;
    return true;
  }
  __device__ __forceinline__ bool meet(const Column& column, const Term& term, int64_t& at) const {
    bool inside = coordinates.meet(term.in_x, column.tap, at);
    at += column.channel;
    return inside;
  }
  template <Packs>
  __device__ __forceinline__ int64_t in_rows(const Place&) const {
    return 0;
  }
  template <Packs>
  __device__ __forceinline__ int64_t in_columns(const Place&) const {
    return 0;
  }
  __device__ __forceinline__ const S* rows() const { return y; }
  __device__ __forceinline__ const S* columns() const { return x; }
};

// ---- one matrix's pieces, from global to shared memory

// `lines` rows or columns from `first` on, and terms from `begin` on, step by step. know(i) is
// what is known of line i.
template <class Matrix, class S, int lines, Packs packs, class Line>
struct Loader {
  static constexpr int width = kPackWidth<S>;
  static constexpr int line_packs = lines / width;  // at a term
  // Threads side by side along the lines, and how many lines each has.
  static constexpr int wide = packs == Packs::OfTerms   ? kGemmThreads / kLinePacks
                              : packs == Packs::OfLines ? line_packs
                                                        : (lines < kGemmThreads ? lines : kGemmThreads);
  static constexpr int count = packs == Packs::OfTerms ? lines / wide : 1;
  // From one of the thread's terms to the next.
  static constexpr int apart = packs == Packs::OfTerms ? kTerms<S> : kGemmThreads / wide;

  Line line[count];
  uint32_t exist = 0;  // a bit for each line
  typename Matrix::Place next;
  typename Matrix::Step step;
  // Where the lines meet the tap of `next`, and which of them do; `fresh` where that is yet to be found.
  int64_t at[count] = {};
  uint32_t inside = 0;
  bool fresh = true;

  template <class Know>
  __device__ __forceinline__ Loader(const Matrix& matrix, int64_t first, int64_t end, int64_t begin, const Know& know)
      : next(matrix.place(begin + first_term())), step(matrix.step(apart)) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      int64_t number = first + (packs == Packs::OfLines ? mine() * width : mine() + i * wide);
      exist |= uint32_t(number < end) << i;
      line[i] = know(number < end ? number : first);
    }
  }
  __device__ __forceinline__ static int mine() {
    return packs == Packs::OfTerms ? int(threadIdx.x) / kLinePacks : int(threadIdx.x) % wide;
  }
  __device__ __forceinline__ static int first_term() {
    return packs == Packs::OfTerms ? int(threadIdx.x) % kLinePacks * width : int(threadIdx.x) / wide;
  }
  __device__ __forceinline__ void find(const Matrix& matrix) {
    if (!fresh) return;
    auto term = matrix.term(next);
    inside = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) inside |= uint32_t(matrix.meet(line[i], term, at[i])) << i;
    inside &= exist;
  }
  // Of the step that is k terms after `begin`, where `end` are left. `data` is the group's first element,
  // channel(place) how far that of the place's channel is from it.
  template <class Channel>
  __device__ __forceinline__ void load(const Matrix& matrix, unsigned char* tile, int k, int end, const S* data,
                                       const Channel& channel) {
    if constexpr (packs == Packs::OfTerms) {
      int p = int(threadIdx.x) % kLinePacks;
      find(matrix);
      const S* from = data + channel(next);
      uint32_t there = k + p * width < end ? inside : 0;
#pragma unroll
      for (int i = 0; i < count; ++i)
        copy_async(tile + pack_of_terms(mine() + i * wide, p), from + at[i], there >> i & 1);
      fresh = matrix.advance(next, step);
    } else {
#pragma unroll(packs == Packs::OfLines ? 2 : 4)
      for (int i = 0; i < kTerms<S> / apart; ++i) {
        int t = first_term() + i * apart;
        find(matrix);
        const S* from = data + (channel(next) + at[0]);
        bool there = inside != 0 && k + t < end;
        if constexpr (packs == Packs::OfLines) {
          copy_async(tile + pack_of_lines<line_packs>(t, mine()), from, there);
        } else {
          S value = narrow(Type<S>{}, ComputeType<S>(0));
          if (there) value = *from;
          reinterpret_cast<S*>(tile + pack_of_terms(mine(), t / width))[t % width] = value;
        }
        fresh = matrix.advance(next, step);
      }
    }
  }
};

// ---- the product of two pieces, and who has which of its sums

// By tensor cores: two by two warps, each with half of the tile's rows and columns.
template <class S, int tile_columns, Packs packed_rows, Packs packed_columns>
struct Product {
  static constexpr int rows_of_warp = kTileRows<S> / 2, columns_of_warp = tile_columns / 2;
  static constexpr int row_blocks = rows_of_warp / 16, column_blocks = columns_of_warp / 8;
  float sums[row_blocks][column_blocks][4] = {};

  __device__ __forceinline__ static int first_row() { return int(threadIdx.x) / kWarp / 2 * rows_of_warp; }
  __device__ __forceinline__ static int first_column() { return int(threadIdx.x) / kWarp % 2 * columns_of_warp; }

  // Sixteen lines from `line` on by the sixteen terms of a half, as four matrices of which the lane's is that of the
  // lines' and terms' upper or lower eight.
  template <Packs packs, int lines>
  __device__ __forceinline__ static void load_lines(uint32_t (&parts)[4], const unsigned char* tile, int line,
                                                    int upper_lines, int half, int upper_terms) {
    int lane = int(threadIdx.x) % 8;
    if constexpr (packs == Packs::OfLines)
      load_matrices<true>(parts, tile + pack_of_lines<lines / kPackWidth<S>>(half * 16 + upper_terms * 8 + lane,
                                                                             line / kPackWidth<S> + upper_lines));
    else
      load_matrices<false>(parts, tile + pack_of_terms(line + upper_lines * 8 + lane, 2 * half + upper_terms));
  }
  __device__ __forceinline__ void add(const unsigned char* rows, const unsigned char* columns) {
    int lane = int(threadIdx.x) % kWarp;
#pragma unroll
    for (int half = 0; half < kTerms<S> / 16; ++half) {
      uint32_t a[row_blocks][4], b[column_blocks / 2][4];
#pragma unroll
      for (int i = 0; i < row_blocks; ++i)
        load_lines<packed_rows, kTileRows<S>>(a[i], rows, first_row() + i * 16, lane / 8 % 2, half, lane / 16);
#pragma unroll
      for (int j = 0; j < column_blocks / 2; ++j)
        load_lines<packed_columns, tile_columns>(b[j], columns, first_column() + j * 16, lane / 16, half, lane / 8 % 2);
#pragma unroll
      for (int i = 0; i < row_blocks; ++i)
#pragma unroll
        for (int j = 0; j < column_blocks; ++j)
          multiply_add(Type<S>{}, sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }
  // Calls visit(row and column of the tile, two sums side by side).
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    int lane = int(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < row_blocks; ++i)
#pragma unroll
      for (int j = 0; j < column_blocks; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          visit(first_row() + i * 16 + half * 8 + lane / 4, first_column() + j * 8 + lane % 4 * 2,
                Pack<float, 2>{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}});
  }
};

// By multiply-adds: a thread has rows and columns spread over the tile.
template <class C>
struct PlainProduct {
  static constexpr int width = kPackWidth<C>, wide = 16, high = kGemmThreads / wide;
  static constexpr int rows_each = kTileRows<C> / high, columns_each = kNarrow / wide;
  C sums[rows_each][columns_each] = {};

  __device__ __forceinline__ static int first_row() { return int(threadIdx.x) / wide; }
  __device__ __forceinline__ static int first_column() { return int(threadIdx.x) % wide; }

  __device__ __forceinline__ void add(const unsigned char* rows, const unsigned char* columns) {
    auto read = [](const unsigned char* tile, int line, int p) {
      return load<width>(reinterpret_cast<const C*>(tile + pack_of_terms(line, p)));
    };
#pragma unroll 1
    for (int p = 0; p < kLinePacks; ++p) {
      Pack<C, width> b[columns_each];
#pragma unroll
      for (int j = 0; j < columns_each; ++j) b[j] = read(columns, first_column() + j * wide, p);
#pragma unroll
      for (int i = 0; i < rows_each; ++i) {
        Pack<C, width> a = read(rows, first_row() + i * high, p);
#pragma unroll
        for (int j = 0; j < columns_each; ++j)
#pragma unroll
          for (int t = 0; t < width; ++t) sums[i][j] += a.lanes[t] * b[j].lanes[t];
      }
    }
  }
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < rows_each; ++i)
#pragma unroll
      for (int j = 0; j < columns_each; ++j)
        visit(first_row() + i * high, first_column() + j * wide, Pack<C, 1>{{sums[i][j]}});
  }
};

template <class S, int columns, Packs packed_rows, Packs packed_columns>
using ProductOf = std::conditional_t<sizeof(S) == 2, Product<S, columns, packed_rows, packed_columns>, PlainProduct<S>>;

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

template <class S, ConvPass pass, int tile_columns, Packs packed_rows, Packs packed_columns>
__global__ void __launch_bounds__(kGemmThreads, tile_columns == kNarrow ? 3 : 2)
    gemm_kernel(Matrices<S, pass> matrices, GemmPlan plan, S* result, ConvStrides result_strides, Epilogue<S> epilogue,
                double* partial_sums) {
  using Matrix = Matrices<S, pass>;
  constexpr int tile_rows = kTileRows<S>, row_bytes = tile_rows * kLineBytes;
  constexpr int stage_bytes = row_bytes + tile_columns * kLineBytes;
  using C = ComputeType<S>;
  constexpr int sums_bytes = tile_rows * kSumsStride * int(sizeof(C));
  constexpr int bytes = sums_bytes > kStages * stage_bytes ? sums_bytes : kStages * stage_bytes;
  Pack<uint32_t, 4>* memory = shared_array<Pack<uint32_t, 4>, bytes / kAccessBytes>();
  auto* stages = reinterpret_cast<unsigned char*>(memory);
  int64_t tile = blockIdx.x % plan.tiles(), rest = blockIdx.x / plan.tiles();
  int64_t piece = rest % plan.pieces, group = rest / plan.pieces;
  int64_t first_row = tile / plan.column_tiles * tile_rows, first_column = tile % plan.column_tiles * tile_columns;
  int64_t begin = piece * plan.terms_of_piece, end = least(begin + plan.terms_of_piece, plan.k);

  Loader<Matrix, S, tile_rows, packed_rows, typename Matrix::Row> rows(matrices, first_row, plan.m, begin,
                                                                       [&](int64_t m) { return matrices.row(m); });
  Loader<Matrix, S, tile_columns, packed_columns, typename Matrix::Column> columns(
      matrices, first_column, plan.n, begin, [&](int64_t n) { return matrices.column(n); });
  const S* data_of_rows = matrices.rows() + group * plan.rows_group;
  const S* data_of_columns = matrices.columns() + group * plan.columns_group;
  int terms = int(end - begin), k = 0, filled = 0;  // of the piece, those asked for, and the stage of the next ones
  auto fill = [&] {
    if (k < terms) {
      unsigned char* stage = stages + filled * stage_bytes;
      rows.load(matrices, stage, k, terms, data_of_rows,
                [&](const auto& place) { return matrices.template in_rows<packed_rows>(place); });
      columns.load(matrices, stage + row_bytes, k, terms, data_of_columns,
                   [&](const auto& place) { return matrices.template in_columns<packed_columns>(place); });
    }
    end_group_of_copies();
    k += kTerms<S>;
    filled = filled + 1 < kStages ? filled + 1 : 0;
  };

  ProductOf<S, tile_columns, packed_rows, packed_columns> product;
  for (int stage = 0; stage < kStages - 1; ++stage) fill();
  for (int done = 0, multiplied = 0; done < terms; done += kTerms<S>) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the step's piece is there, and nobody multiplies the one whose place the next takes
    fill();
    const unsigned char* stage = stages + multiplied * stage_bytes;
    product.add(stage, stage + row_bytes);
    multiplied = multiplied + 1 < kStages ? multiplied + 1 : 0;
  }

  // Through shared memory, so that neighbouring threads write neighbouring elements, and what follows the sums is a
  // loop: written out for each register, it would not fit the cache of instructions.
  auto* sums = reinterpret_cast<C*>(memory);
#pragma unroll 1
  for (int part = 0; part < tile_columns; part += kNarrow) {
    __syncthreads();
    if (product.first_column() / kNarrow == part / kNarrow)
      product.each([&](int row, int column, const auto& pack) {
        *reinterpret_cast<std::decay_t<decltype(pack)>*>(sums + row * kSumsStride + column % kNarrow) = pack;
      });
    __syncthreads();
    if constexpr (pass == ConvPass::Wgrad) {
      int64_t groups = gridDim.x / (plan.tiles() * plan.pieces);
      double* of_piece = partial_sums + (piece * groups + group) * plan.m * plan.n;
      each_part<tile_rows, 1>(sums, false, [&](int row, int column, const auto& one) {
        int64_t m = first_row + row, n = first_column + part + column;
        if (m < plan.m && n < plan.n) of_piece[m * plan.n + n] = double(one.lanes[0]);
      });
    } else {
      auto finish = [&](int row, int column, const auto& pack) {
        int64_t m = first_row + row, n = first_column + part + column, channel = group * plan.n + n;
        if (m >= plan.m || n >= plan.n) return;
        const Coordinates& coordinates = matrices.coordinates;
        int64_t pixel = coordinates.in_result(coordinates.pixel_place(m), result_strides);
        epilogue.store(result, pixel + channel * result_strides.channel, channel, pack.lanes);
      };
      if (plan.packs)
        each_part<tile_rows, kPackWidth<S>>(sums, false, finish);
      else
        each_part<tile_rows, 1>(sums, result_strides.channel != 1, finish);
    }
  }
}

// ---- on the host

template <class S, ConvPass pass, int columns, Packs packed_rows, Packs packed_columns>
const char* launch_planned(const ConvArgs& args, const GemmAxis (&axes)[3], const GemmPlan& plan, cudaStream_t stream) {
  const ConvOperand& result = pass == ConvPass::Forward ? args.y : args.x;
  return launch_kernel(gemm_kernel<S, pass, columns, packed_rows, packed_columns>,
                       args.groups * plan.pieces * plan.tiles(), kGemmThreads, stream, Matrices<S, pass>(args, axes),
                       plan, static_cast<S*>(result.data), ConvStrides(result), Epilogue<S>(args), args.partial_sums);
}

template <class S, ConvPass pass, Packs packed_rows, Packs packed_columns>
const char* launch_gemm(const ConvArgs& args, const GemmAxis (&axes)[3], cudaStream_t stream) {
  constexpr bool all_packs = packed_rows != Packs::None && packed_columns != Packs::None;
  GemmPlan plan = plan_gemm<S>(args, axes, all_packs);
  if (plan.m == 0) return nullptr;  // a phase without pixels
  if constexpr (sizeof(S) == 2 && all_packs)
    if (plan.columns == kWide)
      return launch_planned<S, pass, kWide, packed_rows, packed_columns>(args, axes, plan, stream);
  return launch_planned<S, pass, kNarrow, packed_rows, packed_columns>(args, axes, plan, stream);
}

template <class S>
const char* forward(const ConvArgs& args, cudaStream_t stream) {
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  constexpr ConvPass pass = ConvPass::Forward;
  int64_t in = args.in_channels / args.groups;
  if (!in_packs_of<S>(args.x, in)) return launch_gemm<S, pass, Packs::None, Packs::None>(args, axes, stream);
  if (!in_packs_of<S>(args.weight, in)) return launch_gemm<S, pass, Packs::OfTerms, Packs::None>(args, axes, stream);
  return launch_gemm<S, pass, Packs::OfTerms, Packs::OfTerms>(args, axes, stream);
}

template <class S>
const char* dgrad_phase(const ConvArgs& args, const GemmAxis (&axes)[3], cudaStream_t stream) {
  constexpr ConvPass pass = ConvPass::Dgrad;
  if (!in_packs_of<S>(args.y, args.out_channels / args.groups))
    return launch_gemm<S, pass, Packs::None, Packs::None>(args, axes, stream);
  if constexpr (sizeof(S) == 2)
    if (in_packs_of<S>(args.weight, args.in_channels / args.groups))
      return launch_gemm<S, pass, Packs::OfTerms, Packs::OfLines>(args, axes, stream);
  return launch_gemm<S, pass, Packs::OfTerms, Packs::None>(args, axes, stream);
}

template <class S>
const char* dgrad(const ConvArgs& args, cudaStream_t stream) {
  for (int64_t d = 0; d < args.axis[0].stride; ++d)
    for (int64_t h = 0; h < args.axis[1].stride; ++h)
      for (int64_t w = 0; w < args.axis[2].stride; ++w) {
        const GemmAxis axes[3] = {GemmAxis(args.axis[0], d), GemmAxis(args.axis[1], h), GemmAxis(args.axis[2], w)};
        if (const char* error = dgrad_phase<S>(args, axes, stream)) return error;
      }
  return nullptr;
}

template <class S>
bool wgrad_in_packs(const ConvArgs& args) {
  return sizeof(S) == 2 && in_packs_of<S>(args.x, args.in_channels / args.groups) &&
         in_packs_of<S>(args.y, args.out_channels / args.groups) && args.weight.channel == 1;
}

template <class S>
const char* wgrad(const ConvArgs& args, cudaStream_t stream) {
  constexpr ConvPass pass = ConvPass::Wgrad;
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  const char* error = nullptr;
  bool in_packs = wgrad_in_packs<S>(args);
  if (!in_packs) error = launch_gemm<S, pass, Packs::None, Packs::None>(args, axes, stream);
  if constexpr (sizeof(S) == 2)
    if (in_packs) error = launch_gemm<S, pass, Packs::OfLines, Packs::OfLines>(args, axes, stream);
  if (error) return error;
  GemmPlan plan = plan_gemm<S>(args, axes, in_packs);
  int64_t sums = args.groups * plan.m * plan.n;
  int columns = power_of_two(sums, kWarp);
  return launch_kernel(add_pieces_kernel<S>, ceil_div(sums, columns), kChannelThreads, stream,
                       static_cast<const double*>(args.partial_sums), plan.pieces, sums, columns,
                       static_cast<S*>(args.weight.data));
}

}  // namespace

const char* gemm(const ConvArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    error = args.pass == ConvPass::Forward ? forward<S>(args, stream)
            : args.pass == ConvPass::Dgrad ? dgrad<S>(args, stream)
                                           : wgrad<S>(args, stream);
  });
  return error;
}

int64_t gemm_scratch(const ConvArgs& args) {
  int64_t numbers = 0;
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    GemmPlan plan = plan_gemm<S>(args, axes, wgrad_in_packs<S>(args));
    numbers = args.groups * plan.pieces * plan.m * plan.n;
  });
  return numbers;
}

}  // namespace nnart::cuda

// Maps over outer x channels x inner elements that know the channel of an element and may add up a term of each element
// for each channel: in the same pass, in an order that only the sizes determine.
//
// Body has the types S and C of storage and computation, and for its kPackWidth<S> elements from i on
//   channel(c, lanes)              what it wants to know of the channels c, c + 1, ...; of one channel if one_channel
//   load(i, lanes)                 what it reads
//   finish(i, loaded, of_channel, lanes)   computes and writes, and returns the terms
// and a double* partial_sums, null where nobody wants sums. An element has one term, or two if the body says
// `terms` = 2: then the sums of all second ones follow those of all first ones.
#pragma once

#include "cuda/divisor.cuh"
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"
#include "math/integers.h"

namespace nnart::cuda {

constexpr int kChannelThreads = 256;
constexpr int kChannelBlocks = 2;  // a multiprocessor: 128 registers a thread
constexpr int kChannelUnroll = 2;  // at most, but for sums alone
constexpr int kWarp = 32;
constexpr int kChannelWarps = kChannelThreads / kWarp;
// Elements of a plane that a group of lanes goes through.
constexpr int64_t kPlaneRun = 2048;
// Pieces into which the rows of an inner == 1 map are cut at most: enough blocks to fill any card.
constexpr int64_t kRowPieces = 1024;

struct ChannelShape {
  int64_t outer, channels, inner;
};

// The sums of a thread, one a lane, in C, and what rounding took from them (the two-sum of D. Knuth, TAOCP 4.2.2):
// together they have double's precision.
template <class C, int width>
struct LaneSums {
  C sum[width] = {}, lost[width] = {};

  __device__ __forceinline__ void add(const Pack<C, width>& pack, Lanes lanes) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
      if (!lanes.whole && (k < lanes.begin || k >= lanes.end)) continue;
      C term = pack.lanes[k], next = sum[k] + term, added = next - sum[k];
      lost[k] += (sum[k] - (next - added)) + (term - added);
      sum[k] = next;
    }
  }
  // Of an infinite sum there is no number that was lost.
  __device__ __forceinline__ double total(int k) const {
    return double(sum[k]) + (lost[k] == lost[k] ? double(lost[k]) : 0.0);
  }
};

template <class C, int width>
struct TwoTerms {
  Pack<C, width> first, second;
};

template <class Body>
constexpr int terms_of() {
  if constexpr (requires { Body::terms; })
    return Body::terms;
  else
    return 1;
}
template <class Body>
constexpr int kTermsOf = terms_of<Body>();

template <class C, int width>
__device__ __forceinline__ void add(LaneSums<C, width> (&sums)[1], const Pack<C, width>& term, Lanes lanes) {
  sums[0].add(term, lanes);
}
template <class C, int width>
__device__ __forceinline__ void add(LaneSums<C, width> (&sums)[2], const TwoTerms<C, width>& terms, Lanes lanes) {
  sums[0].add(terms.first, lanes);
  sums[1].add(terms.second, lanes);
}

template <int terms, class Visit>
__device__ __forceinline__ void each_term(const Visit& visit) {
#pragma unroll
  for (int t = 0; t < terms; ++t) visit(t);
}

// Packs of a thread under way at a time: as the body has it.
template <class Body>
constexpr int unroll_of() {
  if constexpr (requires { Body::unroll; })
    return Body::unroll;
  else
    return kChannelUnroll;
}
template <class Body>
constexpr int kUnrollOf = unroll_of<Body>();
// That the pieces are long enough for.
template <class Body>
constexpr int kCutFor = kUnrollOf<Body> > kChannelUnroll ? kUnrollOf<Body> : kChannelUnroll;

// The sum of value over lanes that differ in the bits of their number from `first` up to, not including, `last`.
__device__ __forceinline__ double sum_over_lanes(double value, int first, int last) {
  for (int offset = first; offset < last; offset *= 2) value += __shfl_xor_sync(0xffffffff, value, offset);
  return value;
}

// A block as `columns` by kChannelThreads / columns threads, columns a power of two of at most a warp: the sums of a
// column's threads, of which each has `width` lanes, for write(lane of the block, sum).
template <class C, int width, class Write>
__device__ __forceinline__ void sum_columns(const LaneSums<C, width>& sums, int columns, const Write& write) {
  auto* of_warp = shared_array<double[kWarp * width], kChannelWarps>();
  int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    double sum = sum_over_lanes(sums.total(k), columns, kWarp);
    if (lane < columns) of_warp[warp][lane * width + k] = sum;
  }
  __syncthreads();  // the warps' sums are there
  int t = threadIdx.x;
  static_assert(kWarp * kPackWidth<BFloat16> <= kChannelThreads);
  if (t >= columns * width) return;
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kChannelWarps; ++w) sum += of_warp[w][t];
  write(t, sum);
}

// ---- inner == 1: rows of channels; a thread goes down the rows with its channels
// --------------------------------------

struct RowCut {
  int columns;            // threads side by side
  int64_t column_blocks;  // of `columns` packs
  int64_t rows, pieces;   // rows of a piece
};

inline RowCut cut_rows(const ChannelShape& shape, int width, int unroll = kChannelUnroll) {
  RowCut cut;
  int64_t packs = ceil_div(shape.channels, width);
  cut.columns = power_of_two(packs, kWarp);
  cut.column_blocks = ceil_div(packs, cut.columns);
  int64_t height = kChannelThreads / cut.columns, most_pieces = ceil_div(kRowPieces, cut.column_blocks);
  int64_t least_rows = 2 * unroll * height;  // shorter pieces would write too many sums
  cut.rows = ceil_div(ceil_div(shape.outer, most_pieces), least_rows) * least_rows;
  cut.pieces = ceil_div(shape.outer, cut.rows);
  return cut;
}

template <class Body>
__global__ void __launch_bounds__(kChannelThreads, kChannelBlocks)
    rows_kernel(Body body, int64_t outer, int64_t channels, RowCut cut, bool aligned) {
  using C = typename Body::C;
  constexpr int width = kPackWidth<typename Body::S>, terms = kTermsOf<Body>;
  constexpr int unroll = kUnrollOf<Body>;
  uint32_t piece = uint32_t(blockIdx.x / cut.column_blocks), column_block = uint32_t(blockIdx.x % cut.column_blocks);
  int height = kChannelThreads / cut.columns;
  auto first_channel = [&] { return int64_t(column_block) * cut.columns * width; };  // computed anew, not kept
  int64_t c = first_channel() + threadIdx.x % cut.columns * width;
  LaneSums<C, width> sums[terms];
  if (c < channels) {
    int count = int(least(width, channels - c));
    Lanes lanes{0, count, aligned && count == width};
    auto of_channel = body.channel(c, false, lanes);
    int64_t end = least(outer, (int64_t(piece) + 1) * cut.rows) * channels, down = height * channels;
    for (int64_t i = (piece * cut.rows + threadIdx.x / cut.columns) * channels + c; i < end; i += unroll * down) {
      decltype(body.load(0, lanes)) loaded[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (i + u * down < end) loaded[u] = body.load(i + u * down, lanes);
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (i + u * down < end) add(sums, body.finish(i + u * down, loaded[u], of_channel, lanes), lanes);
    }
  }
  if (!body.partial_sums) return;
  each_term<terms>([&](int t) {
    if (t > 0) __syncthreads();  // the sums before have been read
    sum_columns(sums[t], cut.columns, [&](int lane, double sum) {
      int64_t channel = first_channel() + lane;
      if (channel < channels) body.partial_sums[(t * cut.pieces + piece) * channels + channel] = sum;
    });
  });
}

// ---- inner > 1: planes of one channel; a group of lanes goes along a run of a plane
// -----------------------------------

struct PlaneCut {
  int group;             // lanes of one run
  int64_t pieces, runs;  // runs of a plane, and of all
};

inline PlaneCut cut_planes(const ChannelShape& shape, int width) {
  PlaneCut cut;
  cut.group = power_of_two(ceil_div(least(shape.inner, kPlaneRun), width) + 1, kWarp);
  cut.pieces = ceil_div(shape.inner, kPlaneRun);
  cut.runs = shape.outer * shape.channels * cut.pieces;
  return cut;
}

// Packs begin at multiples of the width of all elements, not of the plane: the first and the last of a plane may be
// shared with its neighbours.
template <class Body>
__global__ void __launch_bounds__(kChannelThreads, kChannelBlocks)
    planes_kernel(Body body, int64_t channels, int64_t inner, PlaneCut cut, bool aligned) {
  using C = typename Body::C;
  constexpr int width = kPackWidth<typename Body::S>, terms = kTermsOf<Body>;
  constexpr int unroll = kUnrollOf<Body>;
  int64_t run = int64_t(blockIdx.x) * (kChannelThreads / cut.group) + threadIdx.x / cut.group;
  int lane = threadIdx.x % cut.group;
  int64_t plane = run / cut.pieces, piece = run - plane * cut.pieces, outer = plane / channels;
  int64_t c = plane - outer * channels;
  LaneSums<C, width> sums[terms];
  if (run < cut.runs) {
    int64_t begin = plane * inner + piece * kPlaneRun, end = least(begin + kPlaneRun, (plane + 1) * inner);
    int64_t end_pack = (end + width - 1) / width;
    auto of_channel = body.channel(c, true, Lanes{0, width, false});
    auto lanes_of = [&](int64_t pack) {
      int64_t from = most(begin - pack * width, 0), to = most(least(end - pack * width, width), 0);
      return Lanes{int(least(from, width)), int(to), aligned && from == 0 && to == width};
    };
    for (int64_t p = begin / width + lane; p < end_pack; p += unroll * cut.group) {
      decltype(body.load(0, Lanes{})) loaded[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        int64_t pack = p + u * cut.group;
        if (pack < end_pack) loaded[u] = body.load(pack * width, lanes_of(pack));
      }
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        int64_t pack = p + u * cut.group;
        if (pack < end_pack)
          add(sums, body.finish(pack * width, loaded[u], of_channel, lanes_of(pack)), lanes_of(pack));
      }
    }
  }
  if (!body.partial_sums) return;
  each_term<terms>([&](int t) {
    double sum = 0;
#pragma unroll
    for (int k = 0; k < width; ++k) sum += sums[t].total(k);
    sum = sum_over_lanes(sum, 1, cut.group);
    if (run < cut.runs && lane == 0)
      body.partial_sums[t * cut.runs + (outer * cut.pieces + piece) * channels + c] = sum;
  });
}

// ---- the sums of all pieces
// -------------------------------------------------------------------------------------------

template <class S>
__global__ void __launch_bounds__(kChannelThreads)
    add_pieces_kernel(const double* partial_sums, int64_t pieces, int64_t channels, int columns, S* sums) {
  int64_t c = int64_t(blockIdx.x) * columns + threadIdx.x % columns;
  int height = kChannelThreads / columns;
  LaneSums<double, 1> sum;
  if (c < channels)
    for (int64_t piece = threadIdx.x / columns; piece < pieces; piece += height)
      sum.sum[0] += partial_sums[piece * channels + c];
  sum_columns(sum, columns, [&](int lane, double total) {
    int64_t channel = int64_t(blockIdx.x) * columns + lane;
    if (channel < channels) sums[channel] = narrow(Type<S>{}, ComputeType<S>(total));
  });
}

// ---- on the host
// ------------------------------------------------------------------------------------------------------

inline int64_t sum_pieces(const ChannelShape& shape, int width, int unroll = kChannelUnroll) {
  return shape.inner == 1 ? cut_rows(shape, width, unroll).pieces : shape.outer * cut_planes(shape, width).pieces;
}

// The doubles that partial_sums must have room for: those of the narrowest pack, which is cut into the most pieces.
inline int64_t sum_scratch(const ChannelShape& shape) {
  int64_t most_pieces = 0;
  for (int width : {kPackWidth<double>, kPackWidth<float>, kPackWidth<BFloat16>})
    most_pieces = most(most_pieces, sum_pieces(shape, width));
  return most_pieces * shape.channels;
}

// Runs body over all elements; if it has partial_sums, those of its pieces are there then.
template <class Body>
const char* sweep_channels(const Body& body, const ChannelShape& shape, bool aligned, cudaStream_t stream) {
  constexpr int width = kPackWidth<typename Body::S>;
  if (shape.inner == 1) {
    RowCut cut = cut_rows(shape, width, kCutFor<Body>);
    return launch_kernel(rows_kernel<Body>, cut.pieces * cut.column_blocks, kChannelThreads, stream, body, shape.outer,
                         shape.channels, cut, aligned && shape.channels % width == 0);
  }
  PlaneCut cut = cut_planes(shape, width);
  return launch_kernel(planes_kernel<Body>, ceil_div(cut.runs, kChannelThreads / cut.group), kChannelThreads, stream,
                       body, shape.channels, shape.inner, cut, aligned);
}

// Runs body over all elements and, if it has partial_sums, writes the sum of each channel to sums.
template <class Body>
const char* map_channels(const Body& body, const ChannelShape& shape, bool aligned, typename Body::S* sums,
                         cudaStream_t stream) {
  constexpr int width = kPackWidth<typename Body::S>;
  const char* error = sweep_channels(body, shape, aligned, stream);
  if (error || !body.partial_sums) return error;
  int columns = power_of_two(shape.channels, kWarp);
  return launch_kernel(add_pieces_kernel<typename Body::S>, ceil_div(shape.channels, columns), kChannelThreads, stream,
                       static_cast<const double*>(body.partial_sums), sum_pieces(shape, width, kCutFor<Body>),
                       shape.channels, columns, sums);
}

}  // namespace nnart::cuda

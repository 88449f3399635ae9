// Pieces of both matrices of a convolution (conv/gemm.cuh), from global to shared memory: in packs where neighbouring
// terms, or neighbouring lines of a matrix, are neighbours in memory, gathered element by element elsewhere.
#pragma once

#include <type_traits>

#include "cuda/conv/gemm.cuh"
#include "cuda/matrix.cuh"

namespace nnart::cuda {

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

// Groups of few channels are taken together: so many that their channels fill a tile's columns, as one group whose
// weight is zero between them. `groups` is the number of those.
struct GemmArgs : ConvArgs {
  int64_t together = 1;

  explicit GemmArgs(const ConvArgs& args) : ConvArgs(args) {
    int64_t channels = most(in_channels, out_channels) / groups;
    for (int64_t n = 2; n <= args.groups && n * channels <= kNarrow; ++n)
      if (args.groups % n == 0) together = n;
    groups /= together;
  }
};

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

// ---- the matrices of a pass: what is known of a row, of a column and of a term, and where their element is

// For gathering. An element is so far from its group's first one as its line and its term say, if their places add up
// to one inside of the tensor that the taps go into; in the weight, if both are of one of the groups that a tile takes
// together.
struct GatheredLine {
  int64_t at;
  int32_t place[3], group;
};
struct alignas(16) GatheredTerm {
  int64_t in_rows, in_columns;
  int32_t place[3], group;
};

// In packs a thread goes from one of its terms to the next by a step. An element is so far from its group's first one
// as its line and term meet, if they do, and as the term's channel adds: what is known of a term is that of all
// channels of its tap.
template <class S, ConvPass pass>
struct Matrices {
  using Row = Pixel;
  using Column = int64_t;  // where its part of the weight begins
  using Term = Tap;
  using Place = TapPlace;
  using Step = int;
  static constexpr bool taps_in_rows = true;

  Coordinates coordinates;
  const S *in, *weight;
  int64_t column_stride;
  Divisor in_channels, out_channels;  // of one of the groups that are taken together

  Matrices(const GemmArgs& args, const GemmAxis (&axes)[3])
      : coordinates(args, axes, false),
        in(static_cast<const S*>((pass == ConvPass::Forward ? args.x : args.y).data)),
        weight(static_cast<const S*>(args.weight.data)),
        column_stride(pass == ConvPass::Forward ? args.weight.batch : args.weight.channel),
        in_channels(args.in_channels / args.groups / args.together, args.in_channels),
        out_channels(args.out_channels / args.groups / args.together, args.out_channels) {}

  __device__ __forceinline__ const S* rows() const { return in; }
  __device__ __forceinline__ const S* columns() const { return weight; }
  __device__ __forceinline__ Row row(int64_t m) const { return coordinates.pixel(coordinates.pixel_place(m)); }
  __device__ __forceinline__ Column column(int64_t n) const { return n * column_stride; }

  __device__ __forceinline__ Place place(int64_t k) const { return coordinates.tap_place(k); }
  __device__ __forceinline__ Step step(int terms) const { return terms; }
  // Whether it comes to another tap.
  __device__ __forceinline__ bool advance(Place& place, Step step) const { return coordinates.advance(place, step); }
  __device__ __forceinline__ Term term(const Place& place) const { return coordinates.tap(place); }
  __device__ __forceinline__ bool meet(const Row& row, const Term& term, int64_t& at) const {
    at = coordinates.at(row, term);
    return coordinates.is_inside(row.place, term.shift);
  }
  __device__ __forceinline__ bool meet(Column column, const Term& term, int64_t& at) const {
    at = column + term.in_weight;
    return true;
  }
  // In packs of terms channels are neighbours.
  template <Packs packs, bool of_rows>
  __device__ __forceinline__ int64_t channel(const Place& place) const {
    int64_t apart = of_rows ? coordinates.in.channel : coordinates.weight_channel;
    return packs == Packs::OfTerms ? place.channel : place.channel * apart;
  }

  __device__ __forceinline__ GatheredLine gathered_row(int64_t m) const {
    Pixel pixel = row(m);
    return {coordinates.at(pixel, Tap{}), {pixel.place[0], pixel.place[1], pixel.place[2]}, 0};
  }
  // The weight's input channels are those of a group, its output channels those of all groups.
  __device__ __forceinline__ GatheredLine gathered_column(int64_t n) const {
    Division of = divide(n, pass == ConvPass::Forward ? out_channels : in_channels);
    return {column(pass == ConvPass::Forward ? n : of.rest), {}, int32_t(of.quotient)};
  }
  __device__ __forceinline__ GatheredTerm gathered_term(int64_t k) const {
    TapPlace place = coordinates.tap_place(k);
    Tap tap = coordinates.tap(place);
    Division of = divide(place.channel, pass == ConvPass::Forward ? in_channels : out_channels);
    int64_t in_weight = pass == ConvPass::Forward ? of.rest : place.channel;
    return {coordinates.at(Pixel{}, tap) + place.channel * coordinates.in.channel,
            tap.in_weight + in_weight * coordinates.weight_channel,
            {tap.shift[0], tap.shift[1], tap.shift[2]},
            int32_t(of.quotient)};
  }
};

template <class S>
struct Matrices<S, ConvPass::Wgrad> {
  using Row = int64_t;  // its channel in y
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
  static constexpr bool taps_in_rows = false;

  Coordinates coordinates;
  const S *x, *y;
  ConvStrides y_strides;

  Matrices(const GemmArgs& args, const GemmAxis (&axes)[3])
      : coordinates(args, axes, args.weight.channel != 1),
        x(static_cast<const S*>(args.x.data)),
        y(static_cast<const S*>(args.y.data)),
        y_strides(args.y) {}

  __device__ __forceinline__ const S* rows() const { return y; }
  __device__ __forceinline__ const S* columns() const { return x; }
  __device__ __forceinline__ Row row(int64_t m) const { return m * y_strides.channel; }
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
  __device__ __forceinline__ bool meet(Row row, const Term& term, int64_t& at) const {
    at = row + term.in_y;
    return true;
  }
  __device__ __forceinline__ bool meet(const Column& column, const Term& term, int64_t& at) const {
    at = coordinates.at(term.in_x, column.tap) + column.channel;
    return coordinates.is_inside(term.in_x.place, column.tap.shift);
  }
  template <Packs packs, bool of_rows>
  __device__ __forceinline__ int64_t channel(const Place&) const {
    return 0;
  }

  __device__ __forceinline__ GatheredLine gathered_row(int64_t m) const { return {row(m), {}, 0}; }
  __device__ __forceinline__ GatheredLine gathered_column(int64_t n) const {
    auto [channel, tap] = column(n);
    return {coordinates.at(Pixel{}, tap) + channel, {tap.shift[0], tap.shift[1], tap.shift[2]}, 0};
  }
  __device__ __forceinline__ GatheredTerm gathered_term(int64_t k) const {
    auto [pixel, in_y] = term(place(k));
    return {in_y, coordinates.at(pixel, Tap{}), {pixel.place[0], pixel.place[1], pixel.place[2]}, 0};
  }
};

// The term that a thread is at, its steps from one to the next, and whether it is the first one with its tap.
template <class Matrix>
struct Walk {
  typename Matrix::Place place;
  typename Matrix::Step step;
  bool fresh = true;
};

// ---- one matrix's pieces: `lines` rows or columns from `first` on, and terms from `begin` on, step by step
//
// ask() begins to load the step that is k terms after `begin`, of which `end` are left, into a piece of shared memory;
// what a thread holds of it put() brings there. `data` is the group's first element. It comes by its terms on a walk,
// and returns where that is after the step, or by a table of the step's.

// No thread waits for a pack.
template <class Matrix, class S, bool of_rows, int lines, Packs packs>
struct Loader {
  static constexpr int width = kPackWidth<S>;
  static constexpr int line_packs = lines / width;  // at a term
  // Threads side by side along the lines, how many lines each has, and from one of its terms to the next.
  static constexpr int wide = packs == Packs::OfTerms ? kGemmThreads / kLinePacks : line_packs;
  static constexpr int count = packs == Packs::OfTerms ? lines / wide : 1;
  static constexpr int apart = packs == Packs::OfTerms ? kTerms<S> : kGemmThreads / wide;

  std::conditional_t<of_rows, typename Matrix::Row, typename Matrix::Column> line[count];
  uint32_t exist = 0;  // a bit for each line
  // Where the lines meet the tap that the walk is at, and which of them do.
  int64_t at[count] = {};
  uint32_t inside = 0;

  __device__ __forceinline__ Loader(const Matrix& matrix, int64_t first, int64_t end) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      int64_t number = first + (packs == Packs::OfTerms ? mine() + i * wide : mine() * width);
      exist |= uint32_t(number < end) << i;
      number = number < end ? number : first;
      if constexpr (of_rows)
        line[i] = matrix.row(number);
      else
        line[i] = matrix.column(number);
    }
  }
  __device__ __forceinline__ static int mine() {
    return packs == Packs::OfTerms ? int(threadIdx.x) / kLinePacks : int(threadIdx.x) % wide;
  }
  __device__ __forceinline__ static int first_term() {
    return packs == Packs::OfTerms ? int(threadIdx.x) % kLinePacks * width : int(threadIdx.x) / wide;
  }
  __device__ __forceinline__ static Walk<Matrix> walk(const Matrix& matrix, int64_t begin) {
    return {matrix.place(begin + first_term()), matrix.step(apart)};
  }
  __device__ __forceinline__ void find(const Matrix& matrix, const typename Matrix::Place& place) {
    auto term = matrix.term(place);
    inside = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) inside |= uint32_t(matrix.meet(line[i], term, at[i])) << i;
    inside &= exist;
  }
  __device__ __forceinline__ Walk<Matrix> ask(const Matrix& matrix, Walk<Matrix> walk, const GatheredTerm*,
                                              unsigned char* piece, int k, int end, const S* data) {
    constexpr int terms = packs == Packs::OfTerms ? 1 : kTerms<S> / apart;
#pragma unroll 2
    for (int j = 0; j < terms; ++j) {
      int t = first_term() + j * apart;
      if (walk.fresh) find(matrix, walk.place);
      const S* from = data + matrix.template channel<packs, of_rows>(walk.place);
      uint32_t there = k + t < end ? inside : 0;
#pragma unroll
      for (int i = 0; i < count; ++i) {
        int to = packs == Packs::OfTerms ? pack_of_terms(mine() + i * wide, t / width)
                                         : pack_of_lines<line_packs>(t, mine());
        copy_async<kAccessBytes>(piece + to, from + at[i], there >> i & 1);
      }
      walk.fresh = matrix.advance(walk.place, walk.step);
    }
    return walk;
  }
  __device__ __forceinline__ void put(unsigned char*) const {}
};

// Element by element, of terms that are in a table. No thread waits for them either: 16-bit ones, which no asynchronous
// copy moves, stay in registers while the step before is multiplied.
template <class Matrix, class S, bool of_rows, int lines>
struct Gatherer {
  static constexpr int width = kPackWidth<S>;
  static constexpr int packs = kLinePacks * lines / kGemmThreads;  // of a line's, that a thread gathers in a step
  static constexpr bool holds = sizeof(S) == 2;

  GatheredLine line;
  bool exists;
  Pack<S, width> held[holds ? packs : 1];

  __device__ __forceinline__ Gatherer(const Matrix& matrix, int64_t first, int64_t end) {
    int64_t number = first + mine();
    exists = number < end;
    number = exists ? number : first;
    line = of_rows ? matrix.gathered_row(number) : matrix.gathered_column(number);
  }
  __device__ __forceinline__ static int mine() { return int(threadIdx.x) % lines; }
  __device__ __forceinline__ static int first_pack() { return int(threadIdx.x) / lines * packs; }
  struct None {};
  __device__ __forceinline__ static None walk(const Matrix&, int64_t) { return {}; }
  __device__ __forceinline__ None ask(const Matrix& matrix, None, const GatheredTerm* table, unsigned char* piece,
                                      int k, int end, const S* data) {
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      int p = first_pack() + i;
#pragma unroll
      for (int e = 0; e < width; ++e) {
        const GatheredTerm& term = table[p * width + e];
        int64_t at = line.at + (of_rows ? term.in_rows : term.in_columns);
        bool there = exists & (k + p * width + e < end);
        if constexpr (of_rows == Matrix::taps_in_rows)
          there &= matrix.coordinates.is_inside(line.place, term.place);
        else
          there &= line.group == term.group;
        if constexpr (holds)
          held[i].lanes[e] = there ? data[at] : S{};
        else
          copy_async<sizeof(S)>(piece + pack_of_terms(mine(), p) + e * int(sizeof(S)), data + at, there);
      }
    }
    return {};
  }
  __device__ __forceinline__ void put(unsigned char* piece) const {
    if constexpr (holds)
#pragma unroll
      for (int i = 0; i < packs; ++i)
        *reinterpret_cast<Pack<S, width>*>(piece + pack_of_terms(mine(), first_pack() + i)) = held[i];
  }
};

template <class Matrix, class S, bool of_rows, int lines, Packs packs>
using LoaderOf = std::conditional_t<packs == Packs::None, Gatherer<Matrix, S, of_rows, lines>,
                                    Loader<Matrix, S, of_rows, lines, packs>>;

}  // namespace nnart::cuda

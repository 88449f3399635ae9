// How a GPU averages the second moments of a batch of matrices, of which it keeps a variance for each row and one for
// each column: small matrices several to a block, of a large one a strip of the columns of some of the lines. What one
// block has not alone it leaves as a sum for another to join.
#pragma once

#include "math/integers.h"

namespace nnart {

constexpr int kFactorThreads = 256;
constexpr int kFactorLanes = 4;              // columns of a thread
constexpr int64_t kFactorTile = 2048;        // elements of small matrices in a block
constexpr int64_t kSmallMatrix = 256;        // elements of the largest of them
constexpr int64_t kMostFactorBlocks = 1024;  // down a tensor, where they would fill any card

// Amounts of work, of a tensor or of all tensors before one.
struct FactorWork {
  int64_t chunks;    // blocks of the pass that reads the gradient
  int64_t joins;     // blocks of the one that joins sums
  int64_t means;     // blocks of the one that takes the means of large matrices
  int64_t matrices;  // an inverse mean each
  int64_t sums;      // that chunks leave for joins
};

NNART_HD FactorWork operator+(const FactorWork& a, const FactorWork& b) {
  return {a.chunks + b.chunks, a.joins + b.joins, a.means + b.means, a.matrices + b.matrices, a.sums + b.sums};
}

struct FactorCut {
  int64_t matrices, rows, columns;
  int64_t together;  // small matrices in a block; of large ones 0, and a block is `lanes` threads wide
  int64_t lanes, strips, lines, parts;

  FactorCut() = default;
  FactorCut(int64_t matrices, int64_t rows, int64_t columns) : matrices(matrices), rows(rows), columns(columns) {
    together = lanes = strips = lines = parts = 0;
    if (is_empty()) return;
    if (rows * columns <= kSmallMatrix) {
      together = kFactorTile / (rows * columns);
      return;
    }
    int64_t packs = ceil_div(columns, kFactorLanes);
    lanes = power_of_two(packs, 32);
    strips = ceil_div(packs, lanes);
    int64_t least_lines = 8 * (kFactorThreads / lanes);  // fewer would leave too many sums
    int64_t most_parts = most(kMostFactorBlocks / (matrices * strips), 1);
    lines = ceil_div(ceil_div(rows, most_parts), least_lines) * least_lines;
    parts = ceil_div(rows, lines);
  }

  bool is_empty() const { return matrices * rows * columns == 0; }
  NNART_HD bool joins_columns() const { return parts > 1; }
  NNART_HD bool joins_rows() const { return strips > 1; }
  NNART_HD int64_t column_joins() const { return joins_columns() ? ceil_div(matrices * columns, kFactorThreads) : 0; }
  NNART_HD int64_t column_sums() const { return joins_columns() ? matrices * parts * columns : 0; }

  FactorWork work() const {
    if (is_empty()) return {};
    if (together > 0) return {ceil_div(matrices, together), 0, 0, matrices, 0};
    int64_t row_joins = joins_rows() ? ceil_div(matrices * rows, kFactorThreads) : 0;
    int64_t row_sums = joins_rows() ? strips * matrices * rows : 0;
    return {matrices * strips * parts, column_joins() + row_joins, matrices, matrices, column_sums() + row_sums};
  }
};

}  // namespace nnart

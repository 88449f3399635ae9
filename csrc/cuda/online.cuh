// What softmax and cross-entropy know of a row that they have seen in part, for reduce_classes of cuda/classes.cuh.
#pragma once

#include <limits>

#include "cuda/classes.cuh"
#include "math/softmax.h"

namespace nnart::cuda {

template <class C>
constexpr C kMinusInfinity = -std::numeric_limits<C>::infinity();

// Where the search for the largest begins: finite, so that x - largest is no NaN for x = -infinity.
template <class C>
constexpr C kLowest = std::numeric_limits<C>::lowest();

template <class C>
struct Sum {
  C sum = C(0);
  __device__ __forceinline__ void merge(const Sum& other) { sum += other.sum; }
  template <class F>
  __device__ __forceinline__ void each(F f) {
    f(sum);
  }
};

// The largest element so far, and the sum of e^(x - largest). A NaN reaches the sum, and so does a +infinity, as the
// NaN that its difference with itself is.
template <class C>
struct MaxSum {
  C largest = kLowest<C>, sum = C(0);

  // Raises largest to that of the elements, which the caller then adds to the sum.
  template <int n>
  __device__ __forceinline__ void raise(const C (&elements)[n]) {
    C most = largest;
#pragma unroll
    for (int k = 0; k < n; ++k) most = elements[k] > most ? elements[k] : most;
    if (most > largest) {
      sum *= math::exp_not_above_one(largest - most);
      largest = most;
    }
  }
  __device__ __forceinline__ void merge(const MaxSum& other) {
    bool is_more = other.largest > largest;
    C scale = math::exp_not_above_one(is_more ? largest - other.largest : other.largest - largest);
    sum = is_more ? other.sum + sum * scale : sum + other.sum * scale;
    largest = is_more ? other.largest : largest;
  }
  template <class F>
  __device__ __forceinline__ void each(F f) {
    f(largest);
    f(sum);
  }
};

}  // namespace nnart::cuda

// What every op does with its tensors before a kernel sees them: refuse what the kernel cannot take, by name, and bring
// the rest into one dense order of elements.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/dtype.h"

namespace nnart {

using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;

// Parts of a message, each appended as Python would print it. Without a stream: its tables of locales must be the
// process's own, and a compiler that links its C++ library into this object brings others.
void append(std::string& message, const char* part);
void append(std::string& message, const std::string& part);
void append(std::string& message, double part);
void append(std::string& message, Sizes part);
template <class Integer, class = std::enable_if_t<std::is_integral_v<Integer>>>
void append(std::string& message, Integer part) {
  message += std::to_string(part);
}

// Throws what Python sees as RuntimeError, with the parts as its message and nothing else.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::string message;
  (append(message, parts), ...);
  throw std::runtime_error(message);
}

// The DType of a tensor; an error that names op and argument where kernels have none.
DType dtype_of(const Tensor& t, const char* op, const char* argument);

void check_same_dtype(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name, const char* op);
void check_same_sizes(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name, const char* op);

// True when the elements fill a block of memory without gaps or overlaps, in whatever order of dimensions.
bool is_dense(const Tensor& t);

// True when both tensors keep their elements in the same order.
bool same_order(const Tensor& a, const Tensor& b);

// Note [stride-0 gradients]: y.sum().backward() hands down a gradient whose strides are all 0, one value for every
// element. Reading that value once is cheaper than filling a tensor with it.
bool is_one_value(const Tensor& t);

// A new tensor with the sizes, strides, dtype and device of t, which is dense.
Tensor empty_as(const Tensor& t);

// A new tensor with the sizes and strides of reference, which is dense, and the dtype and device of t.
Tensor empty_in_order_of(const Tensor& reference, const Tensor& t);

// Every fresh output passes through here: with NNART_POISON_OUTPUTS in the environment it is filled with NaN, so that
// the tests see an element that no kernel wrote.
Tensor poisoned(Tensor t);

// t itself if dense, else a dense copy.
Tensor dense(const Tensor& t);

// t itself if its elements are in the order of reference's, else a copy in that order. Sizes must be equal.
Tensor in_order_of(const Tensor& reference, const Tensor& t);

}  // namespace nnart

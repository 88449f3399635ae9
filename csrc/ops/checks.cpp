#include "ops/checks.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace nnart {
namespace {

const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return "another dtype";
  }
}

// Sorts few dimensions by stride; insertion keeps equal strides in place.
constexpr int64_t kMaxSortedDims = 16;

}  // namespace

void append(std::string& message, const char* part) { message += part; }
void append(std::string& message, const std::string& part) { message += part; }
void append(std::string& message, double part) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", part);
  message += text;
}
void append(std::string& message, Sizes part) {
  message += '[';
  for (size_t i = 0; i < part.size(); ++i) {
    if (i) message += ", ";
    message += std::to_string(part[i]);
  }
  message += ']';
}

DType dtype_of(const Tensor& t, const char* op, const char* argument) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::Float32;
    case ScalarType::Double:
      return DType::Float64;
    case ScalarType::BFloat16:
      return DType::BFloat16;
    case ScalarType::Half:
      return DType::Float16;
    default:
      break;
  }
  check(false, op, ": ", argument, " has dtype ", name_of(t.scalar_type()),
        "; allowed are float32, float64, bfloat16 and float16");
  return DType::Float32;
}

void check_same_dtype(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name, const char* op) {
  check(a.scalar_type() == b.scalar_type(), op, ": ", a_name, " and ", b_name, " must have the same dtype, but ",
        a_name, " has ", name_of(a.scalar_type()), " and ", b_name, " has ", name_of(b.scalar_type()));
}

void check_same_sizes(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name, const char* op) {
  Sizes x = a.sizes(), y = b.sizes();
  bool same = x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
  if (!same)
    check(false, op, ": ", a_name, " and ", b_name, " must have the same sizes, but ", a_name, " has ", x, " and ",
          b_name, " has ", y);
}

bool is_dense(const Tensor& t) {
  Sizes sizes = t.sizes(), strides = t.strides();
  int64_t dims = int64_t(sizes.size());
  int64_t expected = 1;
  int64_t i = dims - 1;
  // The common case, contiguous, without sorting.
  for (; i >= 0; --i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] == 1) continue;
    if (strides[i] != expected) break;
    expected *= sizes[i];
  }
  if (i < 0) return true;
  if (dims > kMaxSortedDims) return false;
  int64_t order[kMaxSortedDims], count = 0;
  for (int64_t d = 0; d < dims; ++d) {
    if (sizes[d] == 0) return true;
    if (sizes[d] == 1) continue;
    int64_t k = count++;
    for (; k > 0 && strides[order[k - 1]] > strides[d]; --k) order[k] = order[k - 1];
    order[k] = d;
  }
  expected = 1;
  for (int64_t k = 0; k < count; ++k) {
    if (strides[order[k]] != expected) return false;
    expected *= sizes[order[k]];
  }
  return true;
}

bool same_order(const Tensor& a, const Tensor& b) {
  Sizes sizes = a.sizes(), x = a.strides(), y = b.strides();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (x[i] != y[i] && sizes[i] > 1) return false;
  return true;
}

bool is_one_value(const Tensor& t) {
  Sizes sizes = t.sizes(), strides = t.strides();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (strides[i] != 0 && sizes[i] != 1) return false;
  return true;
}

Tensor empty_as(const Tensor& t) { return empty_in_order_of(t, t); }

Tensor empty_in_order_of(const Tensor& reference, const Tensor& t) {
  // The C shim itself: torch::stable::empty_like looks its op up by name, a microsecond a call.
  int32_t device_type = 0, dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  Sizes sizes = reference.sizes(), strides = reference.strides();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                  device_type, t.get_device_index(), &handle));
  return poisoned(Tensor(handle));
}

Tensor poisoned(Tensor t) {
  static const bool wanted = std::getenv("NNART_POISON_OUTPUTS") != nullptr;
  if (wanted) torch::stable::fill_(t, std::numeric_limits<double>::quiet_NaN());
  return t;
}

Tensor dense(const Tensor& t) {
  if (is_dense(t)) return t;
  Tensor copy = torch::stable::empty_like(t);
  torch::stable::copy_(copy, t);
  return copy;
}

Tensor in_order_of(const Tensor& reference, const Tensor& t) {
  if (same_order(reference, t)) return t;
  Tensor copy = empty_in_order_of(reference, t);
  torch::stable::copy_(copy, t);
  return copy;
}

}  // namespace nnart

#include "ops/layout.h"

#include <algorithm>

namespace nnart {

bool lies_in(const Order& order, const Tensor& t) {
  Sizes sizes = t.sizes(), strides = t.strides();
  int64_t next = 1;
  for (size_t k = sizes.size(); k-- > 0;) {
    size_t d = order.empty() ? k : size_t(order[k]);
    if (sizes[d] != 1 && strides[d] != next) return false;
    next *= sizes[d];
  }
  return true;
}

void check_order(const Order& order, const Tensor& x, const char* op) {
  Order sorted = order;
  std::sort(sorted.begin(), sorted.end());
  bool each_once = order.empty() || int64_t(order.size()) == x.dim();
  for (size_t d = 0; d < sorted.size(); ++d) each_once = each_once && sorted[d] == int64_t(d);
  check(each_once, op, ": order must be empty or have each of the ", x.dim(), " dimensions of x once");
}

Channels channels_of(const Tensor& t, int64_t dim, const Order& order) {
  Channels sizes;
  bool before = true;
  for (int64_t k = 0; k < t.dim(); ++k) {
    int64_t d = order.empty() ? k : order[size_t(k)];
    (d == dim ? sizes.channels : before ? sizes.outer : sizes.inner) *= t.size(d);
    before = before && d != dim;
  }
  return sizes;
}

int32_t dtype_code(const Tensor& t) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  return dtype;
}

// By the C shim itself, as empty_as does: the named ops cost a microsecond each.
Tensor empty_in(const Order& order, Sizes sizes, int32_t dtype, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  for (size_t k = sizes.size(); k-- > 0;) {
    size_t d = order.empty() ? k : size_t(order[k]);
    strides[d] = next;
    next *= std::max<int64_t>(sizes[d], 1);
  }
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor scratch_on(const Tensor& like, int64_t doubles) {
  return empty_in({}, Sizes(&doubles, 1), aoti_torch_dtype_float64(), like);
}

Tensor empty_in(const Order& order, const Tensor& t) { return poisoned(empty_in(order, t.sizes(), dtype_code(t), t)); }

Tensor laid_in(const Order& order, const Tensor& t) {
  if (lies_in(order, t)) return t;
  Tensor copy = empty_in(order, t.sizes(), dtype_code(t), t);
  torch::stable::copy_(copy, t);
  return copy;
}

}  // namespace nnart

// The part of DLPack 1.3's C interface (dmlc.github.io/dlpack) that reads a tensor from its Python object. The layout
// of these structs is the standard's and does not change within a major version.
#pragma once

#include <cstdint>

namespace nnart::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kFloat = 2, kBfloat = 4;

struct Device {
  int32_t device_type, device_id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct View {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

// What the capsule torch.Tensor.__dlpack_c_exchange_api__ holds. Functions that are not called here have no types.
struct ExchangeApi {
  uint32_t major, minor;
  ExchangeApi* older;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*view_of_object)(void* object, View* view);  // 0, or a Python error is set; what it shows is the object's
  void* current_stream;
};

}  // namespace nnart::dlpack

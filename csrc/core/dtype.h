// The element types a kernel may meet, and how each is computed with.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart {

enum class DType : int32_t { Float32, Float64, BFloat16, Float16 };

// Storage only: arithmetic happens in ComputeType, conversion in the widen and narrow of each device.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class Storage>
struct ComputeTypeOf {
  using type = float;
};
template <>
struct ComputeTypeOf<double> {
  using type = double;
};
template <class Storage>
using ComputeType = typename ComputeTypeOf<Storage>::type;

// A type as a value, to hand to a generic lambda.
template <class T>
struct Type {
  using type = T;
};

// On the device too: visit is of the side that calls.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Visit>
NNART_HD void with_dtype(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::Float32:
      return visit(Type<float>{});
    case DType::Float64:
      return visit(Type<double>{});
    case DType::BFloat16:
      return visit(Type<BFloat16>{});
    case DType::Float16:
      return visit(Type<Float16>{});
  }
}

}  // namespace nnart

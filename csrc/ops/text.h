// A string among the arguments of an op.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace nnart {

// torch 2.13's conversion to std::string never frees the copy that it returns from: 48 bytes a call, and wherever they
// lie, what is freed around them is too small for the next output. This is a std::string with a conversion of its own.
struct Text : std::string {
  using std::string::string;
};

}  // namespace nnart

template <>
struct torch::stable::detail::ToImpl<nnart::Text> {
  static nnart::Text call(StableIValue value, uint64_t /*extension_build_version*/, bool /*is_internal*/) {
    auto handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    nnart::Text text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

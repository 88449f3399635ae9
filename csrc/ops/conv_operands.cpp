#include "ops/conv_operands.h"

#include <algorithm>
#include <optional>

namespace nnart {
namespace {

// As torch.empty gives them.
Ints strides_in_layout(const Ints& sizes, bool channels_last, bool batched) {
  int64_t dims = int64_t(sizes.size()), channel = batched ? 1 : 0, stride = 1;
  Ints strides(sizes.size());
  auto place = [&](int64_t d) {
    strides[size_t(d)] = stride;
    stride *= channels_last ? sizes[size_t(d)] : std::max<int64_t>(sizes[size_t(d)], 1);
  };
  if (channels_last) place(channel);
  for (int64_t d = dims - 1; d >= 0; --d)
    if (!(channels_last && d == channel)) place(d);
  return strides;
}

ConvOperand operand(const Tensor& t, bool batched, int64_t dims) {
  ConvOperand operand{};
  Sizes strides = t.strides();
  operand.data = t.data_ptr();
  operand.batch = batched ? strides[0] : 0;
  operand.channel = strides[batched];
  for (int64_t a = 0; a < dims; ++a) operand.space[3 - dims + a] = strides[size_t(a + 1 + batched)];
  return operand;
}

// From each channel and tap of t to the next, with the channels outermost or innermost; nothing if those lie unevenly.
std::optional<int64_t> step_of(const ConvOperand& t, const ConvArgs& args, bool channels_innermost) {
  struct Dimension {
    int64_t size, stride;
  };
  const Dimension channels{args.in_channels, t.channel};
  Dimension inwards[5]{channels, {}, {}, {}, channels};
  for (int a = 0; a < 3; ++a) inwards[a + 1] = {args.axis[a].kernel, t.space[a]};
  int64_t step = 0, next = 0, first = channels_innermost ? 1 : 0;
  for (int64_t k = first + 3; k >= first; --k) {
    if (inwards[k].size == 1) continue;
    if (step == 0) step = next = inwards[k].stride;
    if (inwards[k].stride != next || next <= 0) return std::nullopt;
    next *= inwards[k].size;
  }
  return std::max<int64_t>(step, 1);
}

bool with_one_tap(ConvArgs& args) {
  if (args.strategy != ConvStrategy::Gemm || !is_one_window(args)) return false;
  for (bool innermost : {false, true}) {
    auto of_x = step_of(args.x, args, innermost), of_weight = step_of(args.weight, args, innermost);
    if (!of_x || !of_weight) continue;
    args.x.channel = *of_x;
    args.weight.channel = *of_weight;
    for (int a = 0; a < 3; ++a) {
      args.in_channels *= args.axis[a].kernel;
      args.axis[a] = {1, 1, 1, 1, 0, 1};
      args.x.space[a] = args.weight.space[a] = args.y.space[a] = 0;
    }
    return true;
  }
  return false;
}

}  // namespace

bool prefers_channels_last(const Tensor& t) {
  int64_t dims = t.dim();
  if (dims != 4 && dims != 5) return false;
  Sizes sizes = t.sizes(), strides = t.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (int64_t i = 0; i < dims; ++i) {
    int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;  // channels, then from the last dimension to the batch
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = sizes[d] > 1 ? strides[d] * sizes[d] : strides[d];
  }
  return true;
}

bool output_is_channels_last(const Tensor& x, bool batched, const Tensor& weight) {
  return x.numel() > 0 && ((batched && prefers_channels_last(x)) || prefers_channels_last(weight));
}

Tensor empty_in_layout(const Ints& sizes, bool channels_last, bool batched, const Tensor& like) {
  int64_t dims = int64_t(sizes.size());
  Ints strides = strides_in_layout(sizes, channels_last, batched);
  int32_t device_type = 0, dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes.data(), strides.data(), dtype, device_type,
                                                  like.get_device_index(), &handle));
  return poisoned(Tensor(handle));
}

Tensor outline_in_layout(const Ints& sizes, bool channels_last, const Tensor& other) {
  int64_t elements = 1;
  for (int64_t d = 0; d < other.dim(); ++d) elements += (other.size(d) - 1) * other.stride(d);
  if (!other.is_cpu() || elements < numel_of(sizes)) return empty_in_layout(sizes, channels_last, true, other);
  Ints strides = strides_in_layout(sizes, channels_last, true);
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(other.get(), int64_t(sizes.size()), sizes.data(), strides.data(), 0, &handle));
  return Tensor(handle);
}

bool is_one_window(const ConvArgs& args) {
  bool is_one = args.groups == 1;
  for (const math::Axis& axis : args.axis) is_one = is_one && axis.in == axis.kernel && axis.pad == 0 && axis.out == 1;
  return is_one;
}

bool place(ConvArgs& args, const Geometry& g, const Tensor& x, const Tensor& weight, const Tensor& y) {
  args.x = operand(x, g.batched, g.dims);
  args.weight = operand(weight, true, g.dims);
  args.y = operand(y, g.batched, g.dims);
  return with_one_tap(args);
}

}  // namespace nnart

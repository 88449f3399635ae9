// Max pooling: `max_pool2d` (values alone), `max_pool2d_with_indices`, `max_pool2d_backward`.
#include <tuple>
#include <vector>

#include "ops/launch.h"
#include "ops/register.h"

namespace nnart {
namespace {

using math::Axis;
using Pair = std::vector<int64_t>;
constexpr int64_t kMaxPlane = INT32_MAX;

// The output's layout by PyTorch's own rule: channels-last if the strides are, and contiguous where both readings fit.
bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  Sizes sizes = t.sizes(), strides = t.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (int d : {1, 3, 2, 0}) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = sizes[d] > 1 ? strides[d] * sizes[d] : strides[d];
  }
  return true;
}

std::vector<int64_t> strides_of(const std::vector<int64_t>& sizes, bool channels_last) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  auto place = [&](size_t d) {
    strides[d] = stride;
    stride *= sizes[d] > 1 ? sizes[d] : 1;
  };
  if (channels_last) {
    for (size_t d : {1u, 3u, 2u, 0u}) place(d);
  } else {
    for (size_t d = sizes.size(); d-- > 0;) place(d);
  }
  return strides;
}

Tensor in_layout(const Tensor& t, bool channels_last) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end()), expected = strides_of(sizes, channels_last);
  bool already = true;
  for (size_t d = 0; d < sizes.size(); ++d) already = already && (sizes[d] <= 1 || t.strides()[d] == expected[d]);
  if (already) return t;
  return torch::stable::contiguous(
      t, channels_last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous);
}

// By the C shim itself, as empty_as does: the named ops cost a microsecond each.
Tensor empty_in_layout(const std::vector<int64_t>& sizes, int32_t dtype, bool channels_last, const Tensor& like) {
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  std::vector<int64_t> strides = strides_of(sizes, channels_last);
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor empty_values(const std::vector<int64_t>& sizes, bool channels_last, const Tensor& like) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  return poisoned(empty_in_layout(sizes, dtype, channels_last, like));
}

struct Window {
  Axis h, w;
};

void check_pair(const Pair& pair, const char* name, int64_t least, const char* rule) {
  check(pair.size() == 1 || pair.size() == 2, "max_pool2d: ", name,
        " must either be a single int, or a tuple of two ints, but has ", pair.size(), " elements");
  for (int64_t value : pair) check(value >= least, "max_pool2d: ", rule, ", but got ", name, "=", to_string(pair));
}

int64_t div_floor(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The last window may begin in the input or the left padding, never in the right padding.
Axis axis_of(int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, bool ceil_mode) {
  int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1;
  int64_t out = div_floor(room + (ceil_mode ? stride - 1 : 0), stride) + 1;
  if (ceil_mode && (out - 1) * stride >= in + pad) --out;
  return {in, out, kernel, stride, pad, dilation};
}

Window window_of(int64_t in_h, int64_t in_w, const Pair& kernel_size, const Pair& stride, const Pair& padding,
                 const Pair& dilation, bool ceil_mode) {
  const Pair& steps = stride.empty() ? kernel_size : stride;
  check_pair(kernel_size, "kernel_size", 1, "kernel size should be greater than zero");
  check_pair(steps, "stride", 1, "stride should be greater than zero");
  check_pair(padding, "padding", 0, "pad must be non-negative");
  check_pair(dilation, "dilation", 1, "dilation should be greater than zero");
  for (size_t i = 0; i < 2; ++i) {
    int64_t kernel = kernel_size[i % kernel_size.size()], pad = padding[i % padding.size()];
    int64_t effective = (kernel - 1) * dilation[i % dilation.size()] + 1;
    const char* rule =
        pad > effective / 2 ? "at most half of effective kernel size" : "smaller than or equal to half of kernel size";
    check(pad <= kernel / 2, "max_pool2d: pad should be ", rule, ", but got padding=", to_string(padding),
          " and kernel_size=", to_string(kernel_size));
  }
  return {axis_of(in_h, kernel_size.front(), steps.front(), padding.front(), dilation.front(), ceil_mode),
          axis_of(in_w, kernel_size.back(), steps.back(), padding.back(), dilation.back(), ceil_mode)};
}

MaxPoolArgs arguments(const Tensor& x, const Window& window) {
  MaxPoolArgs args{};
  args.dtype = dtype_of(x, "max_pool2d", "x");
  args.batch = x.dim() == 4 ? x.size(0) : 1;
  args.channels = x.size(-3);
  args.h = window.h;
  args.w = window.w;
  return args;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Pair& kernel_size, const Pair& stride, const Pair& padding,
                                   const Pair& dilation, bool ceil_mode, bool with_indices) {
  int64_t dims = x.dim();
  const char* expected = "max_pool2d: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input";
  check(dims == 3 || dims == 4, expected, ", but got: ", to_string(x.sizes()));
  Window window = window_of(x.size(-2), x.size(-1), kernel_size, stride, padding, dilation, ceil_mode);
  for (int64_t d = 1; d <= 3; ++d) check(x.size(-d) > 0, expected, ", but got: ", to_string(x.sizes()));
  check(window.h.out >= 1 && window.w.out >= 1, "max_pool2d: Given input size: (", x.size(-3), "x", x.size(-2), "x",
        x.size(-1), "). Calculated output size: (", x.size(-3), "x", window.h.out, "x", window.w.out,
        "). Output size is too small");
  check(window.h.in <= kMaxPlane / window.w.in, "max_pool2d: a plane of x has ", window.h.in, " x ", window.w.in,
        " elements; allowed are fewer than 2^31");

  bool channels_last = is_channels_last(x);
  Tensor ordered = in_layout(x, channels_last);
  MaxPoolArgs args = arguments(x, window);
  args.channels_last = channels_last;
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes[size_t(dims - 2)] = window.h.out;
  sizes[size_t(dims - 1)] = window.w.out;
  Tensor y = empty_values(sizes, channels_last, x);
  Tensor indices = with_indices ? empty_in_layout(sizes, aoti_torch_dtype_int64(), channels_last, x) : y;
  args.x = ordered.data_ptr();
  args.y = y.data_ptr();
  if (with_indices) args.indices = static_cast<int64_t*>(indices.data_ptr());
  if (y.numel() > 0) launch(args, x);
  return {y, indices};
}

Tensor max_pool2d(const Tensor& x, Pair kernel_size, Pair stride, Pair padding, Pair dilation, bool ceil_mode) {
  return std::get<0>(forward(x, kernel_size, stride, padding, dilation, ceil_mode, false));
}

std::tuple<Tensor, Tensor> max_pool2d_with_indices(const Tensor& x, Pair kernel_size, Pair stride, Pair padding,
                                                   Pair dilation, bool ceil_mode) {
  return forward(x, kernel_size, stride, padding, dilation, ceil_mode, true);
}

Tensor max_pool2d_backward(const Tensor& grad_y, const Tensor& indices, int64_t in_h, int64_t in_w, Pair kernel_size,
                           Pair stride, Pair padding, Pair dilation) {
  check_same_sizes(grad_y, "grad_y", indices, "indices", "max_pool2d_backward");
  check(indices.scalar_type() == ScalarType::Long, "max_pool2d_backward: indices must have dtype int64");
  check(indices.dim() == 3 || indices.dim() == 4, "max_pool2d_backward: indices must have 3 or 4 dimensions, but has ",
        indices.dim());
  check(in_h > 0 && in_w > 0 && in_h <= kMaxPlane / in_w, "max_pool2d_backward: in_h and in_w must be positive with a ",
        "product below 2^31, but got ", in_h, " and ", in_w);
  Window window = window_of(in_h, in_w, kernel_size, stride, padding, dilation, false);
  window.h.out = indices.size(-2);
  window.w.out = indices.size(-1);
  bool channels_last = is_channels_last(indices);
  Tensor ordered = in_layout(indices, channels_last), grad = in_layout(grad_y, channels_last);
  std::vector<int64_t> sizes(indices.sizes().begin(), indices.sizes().end());
  sizes[sizes.size() - 2] = in_h;
  sizes[sizes.size() - 1] = in_w;
  Tensor grad_x = empty_values(sizes, channels_last, grad_y);
  if (grad_x.numel() == 0) return grad_x;
  if (grad_y.numel() == 0) return torch::stable::zero_(grad_x);
  MaxPoolBackwardArgs args{};
  args.dtype = dtype_of(grad_y, "max_pool2d_backward", "grad_y");
  args.channels_last = channels_last;
  args.batch = indices.dim() == 4 ? indices.size(0) : 1;
  args.channels = indices.size(-3);
  args.h = window.h;
  args.w = window.w;
  args.grad_y = grad.data_ptr();
  args.indices = static_cast<const int64_t*>(ordered.data_ptr());
  args.grad_x = grad_x.data_ptr();
  launch(args, grad_y);
  return grad_x;
}

}  // namespace

void register_pooling(Library& m) {
  m.impl("max_pool2d", TORCH_BOX((&max_pool2d)));
  m.impl("max_pool2d_with_indices", TORCH_BOX((&max_pool2d_with_indices)));
  m.impl("max_pool2d_backward", TORCH_BOX((&max_pool2d_backward)));
}

}  // namespace nnart

// Pooling over one to three axes: max (values, offsets, indices, gradient), its inverse, and averages.
#include <tuple>
#include <vector>

#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"

namespace nnart {
namespace {

using math::PoolAxis;
using Ints = std::vector<int64_t>;

// ---- layout ---------------------------------------------------------------------------------------------------------

// The output's layout by PyTorch's own rule: channels-last if the strides are, and contiguous where both readings fit.
// It knows images with a batch only; a line's channels are innermost where they are those of an image one pixel high.
bool is_channels_last(const Tensor& t, size_t space) {
  if (t.dim() != int64_t(space) + 2) return false;
  Sizes sizes = t.sizes(), strides = t.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  Ints order{1};
  for (size_t d = space + 1; d >= 2; --d) order.push_back(int64_t(d));
  order.push_back(0);
  for (int64_t d : order) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = sizes[d] > 1 ? strides[d] * sizes[d] : strides[d];
  }
  return true;
}

// Of a tensor with so many pooled axes after a batch and channels, or contiguous.
Order order_of(size_t space, bool channels_last) {
  if (!channels_last) return {};
  Order order{0};
  for (size_t d = 2; d < space + 2; ++d) order.push_back(int64_t(d));
  order.push_back(1);
  return order;
}

Ints sizes_of(const Tensor& t) { return Ints(t.sizes().begin(), t.sizes().end()); }

// ---- windows --------------------------------------------------------------------------------------------------------

struct Window {
  Ints kernel, stride, padding, dilation;
  bool ceil_mode = false;
};

int64_t div_floor(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The last window may begin in the input or the left padding, never in the right padding.
PoolAxis axis_of(int64_t in, const Window& window, size_t i) {
  int64_t kernel = window.kernel[i], stride = window.stride[i], pad = window.padding[i], dilation = window.dilation[i];
  int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1;
  int64_t out = div_floor(room + (window.ceil_mode ? stride - 1 : 0), stride) + 1;
  if (window.ceil_mode && (out - 1) * stride >= in + pad) --out;
  return {{in, out, kernel, stride, pad, dilation}, false};
}

PoolAxis adaptive_axis(int64_t in, int64_t out) {
  int64_t kernel = out == 0 ? 1 : in % out == 0 ? in / out : in / out + 2;
  return {{in, out, kernel, 1, 0, 1}, true};
}

void check_numbers(const Ints& numbers, size_t space, const char* name, int64_t least, const char* rule,
                   const char* op) {
  check(numbers.size() == space, op, ": ", name, " must either be a single int, or a tuple of ", space,
        " ints, but has ", numbers.size(), " elements");
  for (int64_t value : numbers) check(value >= least, op, ": ", rule, ", but got ", name, "=", Sizes(numbers));
}

void check_window(const Window& window, size_t space, const char* op) {
  check_numbers(window.kernel, space, "kernel_size", 1, "kernel size should be greater than zero", op);
  check_numbers(window.stride, space, "stride", 1, "stride should be greater than zero", op);
  check_numbers(window.padding, space, "padding", 0, "pad must be non-negative", op);
  check_numbers(window.dilation, space, "dilation", 1, "dilation should be greater than zero", op);
  for (size_t i = 0; i < space; ++i) {
    int64_t kernel = window.kernel[i], pad = window.padding[i], effective = (kernel - 1) * window.dilation[i] + 1;
    const char* rule =
        pad > effective / 2 ? "at most half of effective kernel size" : "smaller than or equal to half of kernel size";
    check(pad <= kernel / 2, op, ": pad should be ", rule, ", but got padding=", Sizes(window.padding),
          " and kernel_size=", Sizes(window.kernel));
  }
}

struct Plan {
  PoolShape shape;
  Ints y_size;
  Order order;
};

constexpr const char* kSpaces[] = {"", "2D or 3D", "3D or 4D", "4D or 5D"};

void check_dims(const Tensor& x, size_t space, const char* op) {
  check(space >= 1 && space <= 3, op, ": windows must have 1 to 3 axes, but have ", space);
  bool right = x.dim() == int64_t(space) + 1 || x.dim() == int64_t(space) + 2;
  for (int64_t d = 1; right && d <= int64_t(space) + 1; ++d) right = x.size(-d) > 0;
  check(right, op, ": Expected ", kSpaces[space],
        " (batch mode) tensor with optional 0 dim batch size for input, but got: ", x.sizes());
}

// The shape of a pooling of `x` (or of what has its layout and, but for the pooled axes, its sizes).
Plan plan_of(const Tensor& x, size_t space, DType dtype) {
  Plan plan{};
  plan.shape.channels_last = is_channels_last(x, space);
  plan.order = order_of(space, plan.shape.channels_last);
  plan.shape.dtype = dtype;
  plan.shape.batch = x.dim() == int64_t(space) + 2 ? x.size(0) : 1;
  plan.shape.channels = x.size(-int64_t(space) - 1);
  for (auto& axis : plan.shape.axis) axis = {{1, 1, 1, 1, 0, 1}, false};
  plan.y_size = sizes_of(x);
  return plan;
}

template <class AxisOf>
void set_axes(Plan& plan, size_t space, const AxisOf& axis_at) {
  for (size_t i = 0; i < space; ++i) {
    PoolAxis axis = axis_at(i);
    plan.shape.axis[3 - space + i] = axis;
    plan.y_size[plan.y_size.size() - space + i] = axis.out;
  }
}

Plan plan_windows(const Tensor& x, const Window& window, const char* op) {
  size_t space = window.kernel.size();
  check_dims(x, space, op);
  check_window(window, space, op);
  Plan plan = plan_of(x, space, dtype_of(x, op, "x"));
  set_axes(plan, space, [&](size_t i) { return axis_of(x.size(int64_t(i) - int64_t(space)), window, i); });
  for (int64_t d = int64_t(space); d >= 1; --d) {
    int64_t out = plan.y_size[plan.y_size.size() - size_t(d)];
    if (out >= 1) continue;
    Ints given = sizes_of(x), found = plan.y_size;
    if (given.size() == space + 2) {
      given.erase(given.begin());
      found.erase(found.begin());
    }
    auto joined = [](const Ints& sizes) {
      std::string text;
      for (size_t i = 0; i < sizes.size(); ++i) {
        if (i) text += 'x';
        text += std::to_string(sizes[i]);
      }
      return text;
    };
    check(false, op, ": Given input size: (", joined(given), "). Calculated output size: (", joined(found),
          "). Output size is too small");
  }
  return plan;
}

Plan plan_adaptive(const Tensor& x, const Ints& output_size, const char* op) {
  size_t space = output_size.size();
  check_dims(x, space, op);
  for (int64_t out : output_size)
    check(out >= 0, op, ": elements of output_size must be greater than or equal to 0, but got ", Sizes(output_size));
  Plan plan = plan_of(x, space, dtype_of(x, op, "x"));
  set_axes(plan, space, [&](size_t i) { return adaptive_axis(x.size(int64_t(i) - int64_t(space)), output_size[i]); });
  return plan;
}

// The plan of the forward whose output has the sizes and the layout of y; y_size becomes x's.
Plan plan_from_output(const Tensor& y, const Ints& x_size, Window window, DType dtype, const char* op) {
  size_t space = x_size.size();
  check(space >= 1 && space <= 3, op, ": x_size must have 1 to 3 elements, but has ", space);
  check(y.dim() == int64_t(space) + 1 || y.dim() == int64_t(space) + 2, op, ": expected ", kSpaces[space],
        " tensors, but got: ", y.sizes());
  for (int64_t size : x_size) check(size > 0, op, ": elements of x_size must be positive, but got ", Sizes(x_size));
  bool adaptive = window.kernel.empty();
  if (!adaptive) check_window(window, space, op);
  Plan plan = plan_of(y, space, dtype);
  set_axes(plan, space, [&](size_t i) {
    int64_t out = y.size(int64_t(i) - int64_t(space));
    PoolAxis axis = adaptive ? adaptive_axis(x_size[i], out) : axis_of(x_size[i], window, i);
    axis.out = out;
    return axis;
  });
  for (size_t i = 0; i < space; ++i) plan.y_size[plan.y_size.size() - space + i] = x_size[i];
  return plan;
}

// ---- max ------------------------------------------------------------------------------------------------------------

int32_t offset_dtype(const PoolShape& shape) {
  switch (pool_offset_bytes(shape)) {
    case 1:
      return aoti_torch_dtype_uint8();
    case 2:
      return aoti_torch_dtype_int16();
    default:
      return aoti_torch_dtype_int32();
  }
}

std::tuple<Tensor, Tensor> run_max(const Tensor& x, const Plan& plan, bool with_offsets) {
  Tensor ordered = laid_in(plan.order, x);
  Tensor y = poisoned(empty_in(plan.order, plan.y_size, dtype_code(x), x));
  Tensor offsets = with_offsets ? empty_in(plan.order, plan.y_size, offset_dtype(plan.shape), x) : y;
  if (y.numel() == 0) return {y, offsets};
  launch(MaxPoolArgs{plan.shape, ordered.data_ptr(), y.data_ptr(), with_offsets ? offsets.data_ptr() : nullptr}, x);
  return {y, offsets};
}

Tensor max_pool(const Tensor& x, Ints kernel_size, Ints stride, Ints padding, Ints dilation, bool ceil_mode) {
  return std::get<0>(
      run_max(x, plan_windows(x, {kernel_size, stride, padding, dilation, ceil_mode}, "max_pool"), false));
}

std::tuple<Tensor, Tensor> max_pool_with_offsets(const Tensor& x, Ints kernel_size, Ints stride, Ints padding,
                                                 Ints dilation, bool ceil_mode) {
  return run_max(x, plan_windows(x, {kernel_size, stride, padding, dilation, ceil_mode}, "max_pool"), true);
}

Tensor adaptive_max_pool(const Tensor& x, Ints output_size) {
  return std::get<0>(run_max(x, plan_adaptive(x, output_size, "adaptive_max_pool"), false));
}

std::tuple<Tensor, Tensor> adaptive_max_pool_with_offsets(const Tensor& x, Ints output_size) {
  return run_max(x, plan_adaptive(x, output_size, "adaptive_max_pool"), true);
}

void check_offsets(const Tensor& offsets, const PoolShape& shape, const char* op) {
  check(dtype_code(offsets) == offset_dtype(shape), op, ": offsets of windows of ",
        shape.axis[0].kernel * shape.axis[1].kernel * shape.axis[2].kernel, " elements must take ",
        pool_offset_bytes(shape), " bytes each, but have another dtype");
}

Tensor max_pool_indices(const Tensor& offsets, Ints x_size, Ints kernel_size, Ints stride, Ints padding,
                        Ints dilation) {
  const char* op = "max_pool_indices";
  Plan plan = plan_from_output(offsets, x_size, {kernel_size, stride, padding, dilation}, DType::Float32, op);
  check_offsets(offsets, plan.shape, op);
  Tensor ordered = laid_in(plan.order, offsets);
  Tensor indices = empty_in(plan.order, offsets.sizes(), aoti_torch_dtype_int64(), offsets);
  if (indices.numel() > 0)
    launch(MaxPoolIndicesArgs{plan.shape, ordered.data_ptr(), static_cast<int64_t*>(indices.data_ptr())}, offsets);
  return indices;
}

Tensor max_pool_backward(const Tensor& grad_y, const Tensor& offsets, Ints x_size, Ints kernel_size, Ints stride,
                         Ints padding, Ints dilation) {
  const char* op = "max_pool_backward";
  check_same_sizes(grad_y, "grad_y", offsets, "offsets", op);
  Plan plan =
      plan_from_output(offsets, x_size, {kernel_size, stride, padding, dilation}, dtype_of(grad_y, op, "grad_y"), op);
  check_offsets(offsets, plan.shape, op);
  Tensor ordered = laid_in(plan.order, offsets), grad = laid_in(plan.order, grad_y);
  Tensor grad_x = poisoned(empty_in(plan.order, plan.y_size, dtype_code(grad_y), grad_y));
  if (grad_x.numel() == 0) return grad_x;
  if (grad_y.numel() == 0) return torch::stable::zero_(grad_x);
  launch(MaxPoolBackwardArgs{plan.shape, grad.data_ptr(), ordered.data_ptr(), grad_x.data_ptr()}, grad_y);
  return grad_x;
}

Tensor max_unpool(const Tensor& x, const Tensor& indices, Ints output_size) {
  const char* op = "max_unpool";
  size_t space = output_size.size();
  check_same_sizes(x, "x", indices, "indices", op);
  check(indices.scalar_type() == ScalarType::Long, op, ": indices must have dtype int64");
  check_dims(x, space, op);
  for (int64_t size : output_size)
    check(size >= 0, op, ": elements of output_size must not be negative, but got ", Sizes(output_size));
  Plan plan = plan_of(x, space, dtype_of(x, op, "x"));
  set_axes(plan, space, [&](size_t i) { return adaptive_axis(1, output_size[i]); });
  Tensor ordered = laid_in(plan.order, x), places = laid_in(plan.order, indices);
  Tensor y = poisoned(empty_in(plan.order, plan.y_size, dtype_code(x), x));
  int64_t out = 1, in = 1;
  for (size_t i = 0; i < space; ++i) {
    out *= output_size[i];
    in *= x.size(-int64_t(i) - 1);
  }
  int64_t wrong = 0;  // which is right, wherever there is an output
  MaxUnpoolArgs args{plan.shape.dtype,
                     plan.shape.channels_last,
                     plan.shape.batch,
                     plan.shape.channels,
                     in,
                     out,
                     ordered.data_ptr(),
                     static_cast<const int64_t*>(places.data_ptr()),
                     y.data_ptr(),
                     &wrong};
  if (x.numel() > 0 && out > 0) launch(args, x);
  check(wrong == 0, op, ": Found an invalid max index: ", wrong, " (output volumes are of size ", Sizes(output_size),
        ")");
  return y;
}

// ---- averages -------------------------------------------------------------------------------------------------------

Tensor run_avg(const Tensor& x, const Plan& plan, bool backward, bool count_include_pad, int64_t divisor) {
  Tensor ordered = laid_in(plan.order, x);
  Tensor y = poisoned(empty_in(plan.order, plan.y_size, dtype_code(x), x));
  if (y.numel() == 0) return y;
  if (x.numel() == 0) return torch::stable::zero_(y);
  launch(AvgPoolArgs{plan.shape, backward, count_include_pad, divisor, ordered.data_ptr(), y.data_ptr()}, x);
  return y;
}

Window average_window(const Ints& kernel_size, const Ints& stride, const Ints& padding, bool ceil_mode) {
  return {kernel_size, stride, padding, Ints(kernel_size.size(), 1), ceil_mode};
}

Tensor avg_pool(const Tensor& x, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode, bool count_include_pad,
                int64_t divisor) {
  Plan plan = plan_windows(x, average_window(kernel_size, stride, padding, ceil_mode), "avg_pool");
  return run_avg(x, plan, false, count_include_pad, divisor);
}

Tensor adaptive_avg_pool(const Tensor& x, Ints output_size) {
  return run_avg(x, plan_adaptive(x, output_size, "adaptive_avg_pool"), false, false, 0);
}

Tensor avg_pool_backward(const Tensor& grad_y, Ints x_size, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode,
                         bool count_include_pad, int64_t divisor) {
  const char* op = "avg_pool_backward";
  Plan plan = plan_from_output(grad_y, x_size, average_window(kernel_size, stride, padding, ceil_mode),
                               dtype_of(grad_y, op, "grad_y"), op);
  return run_avg(grad_y, plan, true, count_include_pad, divisor);
}

}  // namespace

void register_pooling(Library& m) {
  m.impl("max_pool", TORCH_BOX((&max_pool)));
  m.impl("max_pool_with_offsets", TORCH_BOX((&max_pool_with_offsets)));
  m.impl("adaptive_max_pool", TORCH_BOX((&adaptive_max_pool)));
  m.impl("adaptive_max_pool_with_offsets", TORCH_BOX((&adaptive_max_pool_with_offsets)));
  m.impl("max_pool_indices", TORCH_BOX((&max_pool_indices)));
  m.impl("max_pool_backward", TORCH_BOX((&max_pool_backward)));
  m.impl("max_unpool", TORCH_BOX((&max_unpool)));
  m.impl("avg_pool", TORCH_BOX((&avg_pool)));
  m.impl("adaptive_avg_pool", TORCH_BOX((&adaptive_avg_pool)));
  m.impl("avg_pool_backward", TORCH_BOX((&avg_pool_backward)));
}

}  // namespace nnart

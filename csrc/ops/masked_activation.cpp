// Activations that leave one bit an element for their backward: `masked_activation`, `masked_activation_backward`.
#include <tuple>
#include <vector>

#include "ops/activation.h"
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"
#include "ops/text.h"

namespace nnart {
namespace {

MaskedActivationArgs arguments(const Tensor& x, const std::string& activation, const std::vector<double>& parameters,
                               const Order& order, const char* op) {
  MaskedActivationArgs args{};
  args.activation = activation_of(activation, op);
  args.parameters = parameters_of(parameters, op);
  check(slopes_of(args.activation, args.parameters).high != 0, op, ": the derivative of ", activation,
        " takes more than two values");
  args.dtype = dtype_of(x, op, "x");
  args.n = x.numel();
  check_order(order, x, op);
  return args;
}

std::tuple<Tensor, Tensor> masked_activation(const Tensor& x, Text activation, std::vector<double> parameters,
                                             Order order) {
  MaskedActivationArgs args = arguments(x, activation, parameters, order, "masked_activation");
  int64_t bytes = (args.n + 7) / 8;
  Tensor ordered = laid_in(order, x), y = empty_in(order, x);
  Tensor mask = empty_in({}, Sizes(&bytes, 1), aoti_torch_dtype_uint8(), x);
  args.x = ordered.data_ptr();
  args.y = y.data_ptr();
  args.mask = static_cast<uint8_t*>(mask.data_ptr());
  if (args.n > 0) launch(args, x);
  return {y, mask};
}

Tensor masked_activation_backward(const Tensor& grad_y, const Tensor& mask, Text activation,
                                  std::vector<double> parameters, Order order) {
  const char* op = "masked_activation_backward";
  MaskedActivationArgs args = arguments(grad_y, activation, parameters, order, op);
  check(mask.scalar_type() == ScalarType::Byte && mask.numel() == (args.n + 7) / 8, op,
        ": mask must have one bit for each of the ", args.n, " elements of grad_y, in uint8, but has ", mask.numel(),
        " elements");
  Tensor bits = dense(mask), grad_x = empty_in(order, grad_y);
  args.grad_y_is_one_value = is_one_value(grad_y);
  Tensor grad = args.grad_y_is_one_value ? grad_y : laid_in(order, grad_y);
  args.grad_y = grad.data_ptr();
  args.mask = static_cast<uint8_t*>(bits.data_ptr());
  args.y = grad_x.data_ptr();
  if (args.n > 0) launch(args, grad_y);
  return grad_x;
}

}  // namespace

void register_masked_activation(Library& m) {
  m.impl("masked_activation", TORCH_BOX((&masked_activation)));
  m.impl("masked_activation_backward", TORCH_BOX((&masked_activation_backward)));
}

}  // namespace nnart

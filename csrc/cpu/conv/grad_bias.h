// The gradient of the bias, by kernels that read grad_y for that of the weight: its channels are summed while it is in
// a cache, instead of in a pass of their own.
#pragma once

#include "core/args.h"
#include "cpu/channel_sum.h"
#include "cpu/scratch.h"

namespace nnart::cpu {
namespace {

template <class S>
NNART_HD void store_grad_bias(const ConvArgs& args, int64_t channel, double sum) {
  store_partial(static_cast<S*>(args.grad_bias) + channel, Vec<ComputeType<S>>(sum), 1);
}

// For work that is cut into parts, each with sums of its own: the parts do not depend on the number of threads, and
// neither does the result.
class GradBias {
 public:
  GradBias(const ConvArgs& args, int64_t parts)
      : args_(args), parts_(args.grad_bias ? parts : 0), sums_(Use::bias, parts_ * args.out_channels) {
    for (int64_t i = 0; i < parts_ * args.out_channels; ++i) sums_.data()[i] = 0;
  }

  // Adds so many lines of channels [channel, end), the first at p.
  template <class S>
  NNART_HD void add(int64_t part, int64_t channel, int64_t end, const S* p, int64_t lines, int64_t line_step,
                    int64_t pixels, int64_t pixel_step) const {
    if (parts_ == 0) return;
    if (line_step == pixels * pixel_step) {
      pixels *= lines;
      lines = 1;
    }
    double* totals = sums_.data() + part * args_.out_channels + channel;
    for (int64_t line = 0; line < lines; ++line)
      add_rows(p + line * line_step, pixels, end - channel, pixel_step, totals);
  }

  template <class S>
  NNART_HD void finish() const {
    if (parts_ == 0) return;
    for (int64_t c = 0; c < args_.out_channels; ++c) {
      double sum = 0;
      for (int64_t part = 0; part < parts_; ++part) sum += sums_.data()[part * args_.out_channels + c];
      store_grad_bias<S>(args_, c, sum);
    }
  }

 private:
  const ConvArgs& args_;
  int64_t parts_;
  Scratch<double> sums_;
};

}  // namespace
}  // namespace nnart::cpu

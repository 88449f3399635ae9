// The numbers of a batch normalization's channels, for the ops that have one in them.
#pragma once

#include <optional>

#include "core/args.h"
#include "ops/checks.h"

namespace nnart {

// Of an x with that dtype. What it returns has the kernel's argument, or there is an error.
struct ChannelNumbers {
  int64_t channels;
  int32_t dtype;
  const char* op;

  // Of the statistics: float32, or float64 if x is.
  int32_t wide() const;
  // One number for each channel, in the sizes, the dtype and the order that kernels read; statistics in `wide`.
  Tensor statistic(const Tensor& given, const char* name) const;
  Tensor number(const Tensor& given, const char* name) const;
  // New ones on the device of `like`, or none if they are not wanted.
  Tensor fresh(const Tensor& like, bool wanted, int32_t dtype) const;
  // Puts weight and bias among the arguments, and brings them into the order of memory that these point into.
  void put(BatchNormArgs& args, std::optional<Tensor>& weight, std::optional<Tensor>& bias) const;

 private:
  void check_sizes(const Tensor& given, const char* name) const;
};

}  // namespace nnart

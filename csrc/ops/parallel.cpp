// Binds core/parallel.h to torch's thread pool.
#include "core/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace nnart {

void run_parallel(int64_t n, int64_t grain, RangeFunction function, void* context) {
  torch::stable::parallel_for(0, n, grain, [=](int64_t begin, int64_t end) { function(begin, end, context); });
}

}  // namespace nnart

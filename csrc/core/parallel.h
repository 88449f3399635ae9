// Threads for kernels that know nothing of torch: ops/parallel.cpp binds run_parallel to torch's own pool, so that
// torch.set_num_threads governs these kernels too and no second pool competes for the cores.
#pragma once

#include <cstdint>

namespace nnart {

using RangeFunction = void (*)(int64_t begin, int64_t end, void* context);

// Calls function on disjoint ranges that cover [0, n), each of at least grain items unless n is smaller.
void run_parallel(int64_t n, int64_t grain, RangeFunction function, void* context);

template <class Body>
inline __attribute__((always_inline)) void parallel_for(int64_t n, int64_t grain, const Body& body) {
  if (n <= grain) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  run_parallel(
      n, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

}  // namespace nnart

// Fetching by hand what will be read or written soon.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart::cpu {
namespace {

// The hardware does not foresee short lines: what lies so many bytes ahead is fetched by hand, to be read or to be
// written. On Zen 5 this is 3 to 6 times as fast where the tensors are in no cache; from 2 to 6 KB measure the same.
constexpr int64_t kAheadBytes = 3 << 10;
template <class S>
NNART_HD void fetch_source_ahead(const S* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAheadBytes, 0, 3);
}
template <class S>
NNART_HD void fetch_target_ahead(S* p) {
  __builtin_prefetch(reinterpret_cast<char*>(p) + kAheadBytes, 1, 3);
}

}  // namespace
}  // namespace nnart::cpu

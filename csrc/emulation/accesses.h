// What kernels read and write, seen access by access: the kernels are compiled with -fsanitize=thread, whose calls
// accesses.cpp takes in place of ThreadSanitizer's own. Off until watched is set; then accesses are counted and held
// against one another for races.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nnart::emulation {

extern bool watches;  // accesses of the running kernel

// Two accesses are in order if one thread makes them, or a barrier of both threads' block or warp lies between them.
struct Moment {
  uint32_t launch, block, block_barriers;
  uint16_t thread, warp_barriers;
};

// Set by the scheduler before a thread runs.
extern Moment moment;

struct Range {
  uintptr_t begin = 0, end = 0;
  bool holds(uintptr_t address) const { return address >= begin && address < end; }
};

// What the launch under way has read from global memory or written to it, in bytes: those of all accesses, and those of
// the 32-byte sectors that they touched, each counted once for every block that does, or once for the launch.
struct Traffic {
  int64_t accesses = 0, by_blocks = 0, by_launch = 0;
};

void begin_watching(Range fibers, Range caller);
// read and written.
void end_watching(Traffic& read, Traffic& written);

// Whether an address is of a block's shared memory; defined by the scheduler.
bool is_shared(uintptr_t address);

}  // namespace nnart::emulation

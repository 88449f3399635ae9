#include "emulation/accesses.h"

#include <cstdio>
#include <memory>
#include <unordered_map>

#include "emulation/emulation.h"

// Of the object that this file is linked into, by the linker.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[], _end[];

namespace nnart::emulation {

bool watches = false;
Moment moment{};

namespace {

constexpr uintptr_t kPage = 4096, kSector = 32;
// Instead of who read last, where several did between two barriers: threads of one warp, as a mark on one of them, of
// one block, and of the launch.
constexpr uint16_t kSeveralOfWarp = 0x8000, kSeveralOfBlock = 0xffff;
constexpr uint32_t kSeveralBlocks = 0xffffffff;

// The last who wrote a byte and who read it.
struct Byte {
  Moment write{}, read{};
};
// The last who touched a sector.
struct Sector {
  uint32_t launch = 0, block = 0;
};
struct Page {
  Byte bytes[kPage];
  Sector read[kPage / kSector], written[kPage / kSector];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
Range fibers, caller;
Traffic read, written;

bool is_same_warp(const Moment& before, const Moment& now) {
  return before.thread != kSeveralOfBlock && (before.thread & ~kSeveralOfWarp) / kWarp == now.thread / kWarp;
}

bool is_ordered(const Moment& before, const Moment& now, bool shared) {
  if (before.launch != now.launch) return true;
  if (before.block != now.block) return shared;
  if (before.thread == now.thread) return true;
  if (before.block_barriers != now.block_barriers) return true;
  return is_same_warp(before, now) && before.warp_barriers != now.warp_barriers;
}

void report(const char* what, uintptr_t address, const Moment& before, bool shared) {
  static char text[200];
  snprintf(text, sizeof text, "race in %s memory: %s at byte %#zx, after thread %u of block %u without a barrier",
           shared ? "shared" : "global", what, size_t(address), unsigned(before.thread & ~kSeveralOfWarp),
           before.block);
  stop(text);
}

Page& page_of(uintptr_t address) {
  static uintptr_t last = 0;
  static Page* last_page = nullptr;
  uintptr_t number = address / kPage;
  if (number != last || !last_page) {
    std::unique_ptr<Page>& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    last = number;
    last_page = page.get();
  }
  return *last_page;
}

void see_byte(uintptr_t address, bool writes, bool shared) {
  Byte& byte = page_of(address).bytes[address % kPage];
  if (!is_ordered(byte.write, moment, shared))
    return report(writes ? "a second write" : "a read of what is written", address, byte.write, shared);
  bool after_reader = is_ordered(byte.read, moment, shared);
  if (writes) {
    if (!after_reader) return report("a write of what is read", address, byte.read, shared);
    byte.write = moment;
    return;
  }
  Moment before = byte.read;
  byte.read = moment;
  if (after_reader) return;
  if (before.block != moment.block)
    byte.read.block = kSeveralBlocks;
  else
    byte.read.thread = is_same_warp(before, moment) ? uint16_t(moment.thread | kSeveralOfWarp) : kSeveralOfBlock;
}

void see(const void* pointer, size_t size, bool writes) {
  auto address = reinterpret_cast<uintptr_t>(pointer);
  static const Range object{reinterpret_cast<uintptr_t>(__ehdr_start), reinterpret_cast<uintptr_t>(_end)};
  if (fibers.holds(address) || caller.holds(address) || object.holds(address)) return;
  bool shared = is_shared(address);
  if (!shared) {
    Traffic& traffic = writes ? written : read;
    traffic.accesses += int64_t(size);
    for (uintptr_t at = address / kSector * kSector; at < address + size; at += kSector) {
      Page& page = page_of(at);
      Sector& sector = (writes ? page.written : page.read)[at % kPage / kSector];
      bool of_launch = sector.launch == moment.launch;
      if (!of_launch) traffic.by_launch += kSector;
      if (!of_launch || sector.block != moment.block) traffic.by_blocks += kSector;
      sector = {moment.launch, moment.block};
    }
  }
  for (size_t i = 0; i < size; ++i) see_byte(address + i, writes, shared);
}

}  // namespace

void begin_watching(Range fiber_stacks, Range callers_stack) {
  fibers = fiber_stacks;
  caller = callers_stack;
  read = written = {};
  watches = true;
}

void end_watching(Traffic& all_read, Traffic& all_written) {
  watches = false;
  all_read = read;
  all_written = written;
}

}  // namespace nnart::emulation

#define NNART_SEES(suffix, size)                                          \
  void __tsan_read##suffix(void* p) {                                     \
    if (nnart::emulation::watches) nnart::emulation::see(p, size, false); \
  }                                                                       \
  void __tsan_write##suffix(void* p) {                                    \
    if (nnart::emulation::watches) nnart::emulation::see(p, size, true);  \
  }

extern "C" {
NNART_SEES(1, 1)
NNART_SEES(2, 2)
NNART_SEES(4, 4)
NNART_SEES(8, 8)
NNART_SEES(16, 16)
void __tsan_unaligned_read2(void* p) { __tsan_read2(p); }
void __tsan_unaligned_read4(void* p) { __tsan_read4(p); }
void __tsan_unaligned_read8(void* p) { __tsan_read8(p); }
void __tsan_unaligned_read16(void* p) { __tsan_read16(p); }
void __tsan_unaligned_write2(void* p) { __tsan_write2(p); }
void __tsan_unaligned_write4(void* p) { __tsan_write4(p); }
void __tsan_unaligned_write8(void* p) { __tsan_write8(p); }
void __tsan_unaligned_write16(void* p) { __tsan_write16(p); }
void __tsan_read_range(void* p, size_t size) {
  if (nnart::emulation::watches) nnart::emulation::see(p, size, false);
}
void __tsan_write_range(void* p, size_t size) {
  if (nnart::emulation::watches) nnart::emulation::see(p, size, true);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void*, void*) {}
}

#include "emulation/emulation.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/accesses.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) || defined(NNART_PORTABLE_FIBERS)
#define NNART_UCONTEXT
#include <ucontext.h>
#endif

// Where this object stands in memory, by the linker: its symbols are counted from there.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[];

namespace nnart::emulation {

Position position{};

namespace {

// ---- a fiber: a stack, and what its owner left on it

constexpr size_t kStackBytes = 256 << 10, kGuardBytes = 4 << 10;
constexpr int kMostThreads = 1024;

#if !defined(NNART_UCONTEXT)
// Leaves the registers that a function must keep on the stack that it leaves, and takes those on the other.
using Context = void*;
extern "C" __attribute__((naked, noinline)) void nnart_switch_fibers(Context* /*from*/, Context* /*to*/) {
  asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n movq %rsp, (%rdi)\n"
      "movq (%rsi), %rsp\n popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}
void prepare(Context& context, char* stack, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // a return address that is never used, which leaves the stack aligned as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
void nnart_switch_fibers(Context* from, Context* to) { swapcontext(from, to); }
void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Done };

struct Fiber {
  Context context;
  char* stack = nullptr;
  State state = State::Done;
  const char* where = "";      // it waits
  uint32_t mask = 0;           // of the lanes it waits for
  uint16_t warp_barriers = 0;  // that it has passed
  unsigned exchanges = 0;
  std::deque<std::pair<Copy, int>> copies;  // that it has not waited for, and the group of each
  int groups = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Warp {
  uint32_t arrived = 0;
  uint64_t slots[2][kWarp];  // of this exchange and the one before, which some lanes may still read
};

struct Launch {
  std::mutex mutex;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Fiber* current = nullptr;
  Context scheduler;
  void (*run)(void*) = nullptr;
  void* context = nullptr;
  int threads = 0, alive = 0, at_barrier = 0;
  const char* barrier = "";  // where the first of at_barrier waits
  uint32_t block_barriers = 0;
  int64_t block = 0;  // counted over all launches
  uint32_t number = 0;
  std::string error;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
} now;

Schedule schedule = Schedule::Forward;
std::vector<SharedArray*> of_block;  // that the block has asked for
std::set<const void*> kernels;       // that have run

bool watches_next = false;
std::string traffic_text;

void to_scheduler() {
  Fiber* fiber = now.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber->state == State::Done ? nullptr : &fiber->fake_stack, now.stack_bottom,
                                 now.stack_size);
#endif
  nnart_switch_fibers(&fiber->context, &now.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &now.stack_bottom, &now.stack_size);
#endif
}

void open_block_barrier() {
  now.at_barrier = 0;
  ++now.block_barriers;
  for (Fiber& fiber : now.fibers)
    if (fiber.state == State::AtBlockBarrier) fiber.state = State::Ready;
}

int number_of(const Fiber& fiber) { return int(&fiber - now.fibers.data()); }

void enter_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &now.stack_bottom, &now.stack_size);
#endif
  now.run(now.context);
  now.current->state = State::Done;
  --now.alive;
  if (now.alive > 0 && now.at_barrier == now.alive) open_block_barrier();
  to_scheduler();
}

void resume(Fiber& fiber) {
  now.current = &fiber;
  position.thread.x = unsigned(number_of(fiber));
  moment = {now.number, position.block.x, now.block_barriers, uint16_t(number_of(fiber)), fiber.warp_barriers};
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStackBytes);
#endif
  nnart_switch_fibers(&now.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// Runs the ready threads of [begin, end) once; whether there was one.
bool run_ready(int begin, int end) {
  bool any = false;
  for (int i = begin; i < end && now.error.empty(); ++i) {
    Fiber& fiber = now.fibers[size_t(schedule == Schedule::Reverse ? end - 1 - (i - begin) : i)];
    if (fiber.state != State::Ready) continue;
    resume(fiber);
    any = true;
  }
  return any;
}

void report_deadlock() {
  now.error = "threads wait for others that do not come:";
  const char* said = nullptr;
  for (Fiber& fiber : now.fibers)
    if (fiber.state != State::Done && (!said || strcmp(said, fiber.where) != 0)) {
      now.error += " thread " + std::to_string(number_of(fiber)) + " in " + fiber.where + ";";
      said = fiber.where;
    }
  now.error += " of block " + std::to_string(position.block.x);
}

void run_block() {
  ++now.block;
  of_block.clear();
  now.alive = now.threads;
  now.at_barrier = 0;
  now.block_barriers = 0;
  for (Warp& warp : now.warps) warp.arrived = 0;
  for (Fiber& fiber : now.fibers) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, kStackBytes);
#endif
    fiber.state = State::Ready;
    fiber.warp_barriers = 0;
    fiber.exchanges = 0;
    fiber.copies.clear();
    fiber.groups = 0;
    prepare(fiber.context, fiber.stack, &enter_thread);
  }
  while (now.alive > 0 && now.error.empty()) {
    bool any = false;
    if (schedule == Schedule::Warps) {
      for (int first = 0; first < now.threads; first += kWarp)
        while (run_ready(first, std::min(first + kWarp, now.threads))) any = true;
    } else {
      any = run_ready(0, now.threads);
    }
    if (!any && now.error.empty()) report_deadlock();
  }
}

// A stack for each thread, with a page below it that nobody may touch.
char* stacks() {
  static char* begin = [] {
    size_t bytes = kMostThreads * (kStackBytes + kGuardBytes);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    for (int i = 0; i < kMostThreads; ++i)
      mprotect(static_cast<char*>(memory) + size_t(i) * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    return static_cast<char*>(memory);
  }();
  return begin;
}

void make_fibers(int threads) {
  now.threads = threads;
  now.fibers.resize(size_t(threads));
  now.warps.resize(size_t(threads + kWarp - 1) / kWarp);
  for (Fiber& fiber : now.fibers)
    fiber.stack = stacks() + size_t(number_of(fiber)) * (kStackBytes + kGuardBytes) + kGuardBytes;
}

Range callers_stack() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  size_t size = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &begin, &size);
  pthread_attr_destroy(&attributes);
  return {reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(begin) + size};
}

}  // namespace

const char* launch(const void* kernel, int64_t blocks, int threads, void (*run)(void*), void* context) {
  std::scoped_lock lock(now.mutex);
  now.error.clear();
  if (blocks < 1 || blocks > 0x7fffffff || threads < 1 || threads > kMostThreads)
    return "invalid configuration argument";
  kernels.insert(kernel);
  ++now.number;
  now.run = run;
  now.context = context;
  make_fibers(threads);
  position.threads = {unsigned(threads), 1, 1};
  position.blocks = {unsigned(blocks), 1, 1};
  if (watches_next) {
    auto begin = reinterpret_cast<uintptr_t>(stacks());
    begin_watching({begin, begin + kMostThreads * (kStackBytes + kGuardBytes)}, callers_stack());
  }
  for (int64_t b = 0; b < blocks && now.error.empty(); ++b) {
    position.block = {unsigned(schedule == Schedule::Reverse ? blocks - 1 - b : b), 0, 0};
    run_block();
  }
  if (watches_next) {
    Traffic read, written;
    end_watching(read, written);
    char name[40];
    snprintf(name, sizeof name, "%p", kernel);
    traffic_text += name;
    for (int64_t number :
         {read.accesses, written.accesses, read.by_blocks, written.by_blocks, read.by_launch, written.by_launch})
      traffic_text += ' ' + std::to_string(number);
    traffic_text += '\n';
  }
  return now.error.empty() ? nullptr : now.error.c_str();
}

// Called by a thread; the scheduler never comes back to it.
void stop(const char* what) {
  if (now.error.empty())
    now.error = std::string(what) + " [thread " + std::to_string(position.thread.x) + " of block " +
                std::to_string(position.block.x) + "]";
  now.current->state = State::Done;
  to_scheduler();
}

void block_barrier(const char* where) {
  Fiber& fiber = *now.current;
  fiber.where = where;
  if (now.at_barrier == 0) now.barrier = where;
  if (strcmp(now.barrier, where) != 0)
    stop((std::string("threads of one block in different barriers: ") + where + " and " + now.barrier).c_str());
  if (++now.at_barrier == now.alive) {
    open_block_barrier();
  } else {
    fiber.state = State::AtBlockBarrier;
    to_scheduler();
  }
  moment.block_barriers = now.block_barriers;
}

namespace {

int lane() { return int(position.thread.x % kWarp); }

// Until all lanes of mask are there.
void meet(uint32_t mask, const char* where) {
  Fiber& fiber = *now.current;
  Warp& warp = now.warps[position.thread.x / kWarp];
  int first = int(position.thread.x) / kWarp * kWarp, lanes = std::min(kWarp, now.threads - first);
  if (lanes < kWarp) mask &= (uint32_t{1} << lanes) - 1;
  if (!(mask >> lane() & 1)) stop((std::string(where) + ": the mask lacks a lane that calls").c_str());
  fiber.where = where;
  fiber.mask = mask;
  warp.arrived |= uint32_t{1} << lane();
  if ((warp.arrived & mask) != mask) {
    fiber.state = State::AtWarpBarrier;
    return to_scheduler();
  }
  warp.arrived &= ~mask;
  for (int other = 0; other < lanes; ++other) {
    Fiber& waiting = now.fibers[size_t(first + other)];
    if (!(mask >> other & 1) || waiting.state != State::AtWarpBarrier) continue;
    if (waiting.mask != mask || strcmp(waiting.where, where) != 0)
      stop((std::string("lanes of one warp in different functions: ") + where + " and " + waiting.where).c_str());
    waiting.state = State::Ready;
  }
}

// What each lane hands the others: slots[lane], once all have come.
const uint64_t* exchange(uint32_t mask, uint64_t value, const char* where) {
  uint64_t* slots = now.warps[position.thread.x / kWarp].slots[now.current->exchanges++ % 2];
  slots[lane()] = value;
  meet(mask, where);
  return slots;
}

}  // namespace

void warp_barrier(const char* where) {
  meet(0xffffffff, where);
  moment.warp_barriers = ++now.current->warp_barriers;
}

uint64_t exchange_xor(uint32_t mask, uint64_t value, int lane_mask, const char* where) {
  return exchange(mask, value, where)[lane() ^ lane_mask];
}

void exchange_all(uint64_t value, uint64_t (&of_lanes)[kWarp], const char* where) {
  memcpy(of_lanes, exchange(0xffffffff, value, where), sizeof of_lanes);
}

uint32_t match_any_bits(uint32_t mask, uint64_t value, const char* where) {
  const uint64_t* slots = exchange(mask, value, where);
  uint32_t same = 0;
  for (int other = 0; other < kWarp; ++other)
    if (mask >> other & 1 && slots[other] == value) same |= uint32_t{1} << other;
  return same;
}

void begin_copy(Copy copy) { now.current->copies.emplace_back(copy, now.current->groups); }

void end_group_of_copies() { ++now.current->groups; }

bool next_copy(int pending, Copy& copy) {
  Fiber& fiber = *now.current;
  if (fiber.copies.empty() || fiber.copies.front().second >= fiber.groups - pending) return false;
  copy = fiber.copies.front().first;
  fiber.copies.pop_front();
  return true;
}

void* SharedArray::of_block() {
  if (block_ != now.block) {
    block_ = now.block;
    memset(data_, 0xff, bytes_);
    emulation::of_block.push_back(this);
  }
  return data_;
}

bool is_shared(uintptr_t address) {
  return std::any_of(of_block.begin(), of_block.end(), [&](const SharedArray* array) { return array->holds(address); });
}

}  // namespace nnart::emulation

// ---- what tests ask for, by ctypes

namespace {

std::string kernels_text;

}  // namespace

#define NNART_FOR_TESTS extern "C" __attribute__((visibility("default")))

// 0, 1 or 2, as Schedule has them.
NNART_FOR_TESTS void nnart_emulation_schedule(int schedule) {
  nnart::emulation::schedule = nnart::emulation::Schedule(schedule);
}

// From now on accesses are watched, or not.
NNART_FOR_TESTS void nnart_emulation_watch(int watches) {
  nnart::emulation::watches_next = watches != 0;
  nnart::emulation::traffic_text.clear();
}

// A line for each launch since: the kernel's address, and each number of Traffic read and written.
NNART_FOR_TESTS const char* nnart_emulation_traffic() { return nnart::emulation::traffic_text.c_str(); }

// The addresses of the kernels that have run, a line each.
NNART_FOR_TESTS const char* nnart_emulation_kernels() {
  kernels_text.clear();
  for (const void* kernel : nnart::emulation::kernels) {
    char line[40];
    snprintf(line, sizeof line, "%p\n", kernel);
    kernels_text += line;
  }
  return kernels_text.c_str();
}

NNART_FOR_TESTS const void* nnart_emulation_object() { return __ehdr_start; }

// Blocks of threads as fibers; cuda_runtime.h says what for.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
namespace {

constexpr size_t STACK = 256 * 1024;
constexpr int WARP_SIZE = 32;

// What the device is said to be, and what its kernels are built for at least.
constexpr int OLDEST = 75;
int said(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}
int capability() { return said("DEQCERT_EMULATED_CAPABILITY", 90); }
int multiprocessors() { return said("DEQCERT_EMULATED_MULTIPROCESSORS", 16); }

struct Fiber {
  std::unique_ptr<char[]> stack{new char[STACK]};
  jmp_buf at;
  bool begun = false, done = true;
  Wait waits = RUNS;
  unsigned mask = 0;
  int line = 0, from = -1;
  uint64_t value = 0;
  Place place = {};
};

// Makes AddressSanitizer know on which stack we are.
struct Switch {
  void* fake = nullptr;
  void start(const void* bottom, size_t size) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake, bottom, size);
#else
    (void)bottom, (void)size;
#endif
  }
  void finish(const void** bottom, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, bottom, size);
#else
    (void)bottom, (void)size;
#endif
  }
};

std::mutex one_at_a_time;
std::vector<std::unique_ptr<Fiber>> fibers;
Fiber* current = nullptr;
const Call* running = nullptr;
std::unique_ptr<Shared<double>[]> dynamic;
jmp_buf scheduler;
const void* home_bottom = nullptr;
size_t home_size = 0;
uint64_t blocks_so_far = 0, launches = 0;
bool failed = false;
cudaError_t refused = cudaSuccess;
char sentence[200];

void back_to_scheduler() {
  Switch change;
  if (_setjmp(current->at) == 0) {
    change.start(home_bottom, home_size);
    _longjmp(scheduler, 1);
  }
  change.finish(&home_bottom, &home_size);
}

void body() {
  Switch().finish(&home_bottom, &home_size);
  for (;;) {  // a fiber serves block after block
    running->run(*running);
    current->done = true;
    back_to_scheduler();
  }
}

void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = dim3(static_cast<unsigned>(fiber.place.thread));
  Switch change;
  if (_setjmp(scheduler) == 0) {
    change.start(fiber.stack.get(), STACK);
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    ucontext_t context, unused;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, body, 0);
    swapcontext(&unused, &context);
  }
  change.finish(nullptr, nullptr);
}

void say(const char* format, int a = 0, int b = 0) {
  failed = true;
  snprintf(sentence, sizeof sentence, format, a, b);
}

// Lets the lanes of one warp go on that have all arrived; true if there were any.
bool release_warp(Fiber* const* lanes, int count) {
  for (int i = 0; i < count; ++i) {
    Fiber& first = *lanes[i];
    if (first.done || first.waits != WARP) continue;
    for (int k = 0; k < WARP_SIZE; ++k) {
      if (!(first.mask >> k & 1)) continue;
      const bool there = k < count && !lanes[k]->done && lanes[k]->waits == WARP &&
                         lanes[k]->line == first.line && lanes[k]->mask == first.mask;
      if (!there) {
        say("line %d: lane %d is missing from a warp operation that names it", first.line, k);
        return false;
      }
    }
    uint64_t values[WARP_SIZE];
    for (int k = 0; k < count; ++k) values[k] = lanes[k]->value;
    const unsigned mask = first.mask;
    for (int k = 0; k < count; ++k) {
      if (!(mask >> k & 1)) continue;
      const int from = lanes[k]->from;
      lanes[k]->waits = RUNS;
      // A shuffle exchanges values and orders no memory.
      if (from < 0) {
        ++lanes[k]->place.warp_barriers;
        continue;
      }
      if (!(mask >> from & 1)) {
        say("line %d: a shuffle takes from lane %d, which it does not name", first.line, from);
        return false;
      }
      lanes[k]->value = values[from];
    }
    return true;
  }
  return false;
}

// First to last, last to first, and any other way.
std::vector<int> order_of(int count) {
  std::vector<int> order(count);
  for (int t = 0; t < count; ++t) order[t] = t;
  const uint64_t way = launches % 3;
  if (way == 1) std::reverse(order.begin(), order.end());
  if (way == 2) std::shuffle(order.begin(), order.end(), std::mt19937_64(launches));
  return order;
}

// Lets a warp go as far as it comes without the others: as a GPU may.
void run_warp(Fiber* const* lanes, const std::vector<int>& order) {
  const int count = static_cast<int>(order.size());
  do {
    for (const int k : order) {
      if (!lanes[k]->done && lanes[k]->waits == RUNS) resume(*lanes[k]);
      if (failed) return;
    }
  } while (release_warp(lanes, count));
}

void run_block(int threads) {
  const int warps = (threads + WARP_SIZE - 1) / WARP_SIZE;
  std::vector<Fiber*> all(threads);
  ++blocks_so_far;
  for (int t = 0; t < threads; ++t) {
    all[t] = fibers[t].get();
    all[t]->done = false;
    all[t]->waits = RUNS;
    all[t]->place = {blocks_so_far, t, 0, 0};
  }
  for (;;) {
    for (const int w : order_of(warps)) {
      const int first = w * WARP_SIZE;
      run_warp(&all[first], order_of(std::min(WARP_SIZE, threads - first)));
      if (failed) return;
    }
    const auto waits = [](const Fiber* f) { return !f->done; };
    const int at_barrier = static_cast<int>(std::count_if(all.begin(), all.end(), waits));
    if (at_barrier == 0) return;
    const int line = (*std::find_if(all.begin(), all.end(), waits))->line;
    const bool together = std::all_of(all.begin(), all.end(),
                                      [&](const Fiber* f) { return waits(f) && f->line == line; });
    if (!together)
      return say("line %d: %d threads wait at a barrier that not all reach", line, at_barrier);
    for (Fiber* fiber : all) {
      fiber->waits = RUNS;
      ++fiber->place.barriers;
    }
  }
}

}  // namespace

const Place& here() { return current->place; }

void fail(const char* what) {
  say("block %d, thread %d: ", static_cast<int>(blockIdx.x), current->place.thread);
  const size_t used = strlen(sentence);
  snprintf(sentence + used, sizeof sentence - used, "%s", what);
  back_to_scheduler();
  __builtin_unreachable();
}

uint64_t wait(Wait what, unsigned mask, int line, uint64_t value, int from) {
  current->waits = what;
  current->mask = mask;
  current->line = line;
  current->value = value;
  current->from = from;
  back_to_scheduler();
  return current->value;
}

Shared<double>* dynamic_shared() { return dynamic.get(); }

cudaError_t has_code() {
  return capability() < OLDEST ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

cudaError_t launch(const Call& call, dim3 grid, dim3 block, size_t shared) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  failed = false;
  refused = has_code();
  if (refused != cudaSuccess) return refused;
  running = &call;
  gridDim = grid;
  blockDim = block;
  const int threads = static_cast<int>(block.x);
  while (static_cast<int>(fibers.size()) < threads) fibers.emplace_back(new Fiber);
  dynamic.reset(new Shared<double>[shared / sizeof(double)]);
  for (const int b : order_of(static_cast<int>(grid.x))) {
    blockIdx = dim3(static_cast<unsigned>(b));
    run_block(threads);
    if (failed) break;
  }
  ++launches;
  if (failed) fibers.clear();  // they stand in the middle of a kernel
  return failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace emulated

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool counts = attribute == cudaDevAttrMultiProcessorCount;
  *value = counts ? emulated::multiprocessors() : emulated::capability() == 75 ? 1024 : 2048;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = emulated::failed ? cudaErrorLaunchFailure : emulated::refused;
  emulated::failed = false;
  emulated::refused = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorNoKernelImageForDevice)
    return "no kernel image is available for the device";
  return error == cudaErrorLaunchFailure ? emulated::sentence : "the grid has too many blocks";
}

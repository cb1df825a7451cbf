#include "simt.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;

namespace simt {
namespace {

constexpr size_t kStackBytes = 64 << 10;

using Value = std::array<char, sizeof(uint64_t)>;

enum class State { kReady, kAtBlockBarrier, kInWarpExchange, kReturned };

// A fiber that runs the body of one block after another. It is started by makecontext, and then
// switched to and from by _setjmp and _longjmp, which call the kernel of the system no more.
struct Thread {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t start;
  bool started = false;
  jmp_buf context;
  State state = State::kReturned;
  Value given;  // to its warp
};

// The one block that is running.
struct Block {
  std::vector<Thread> threads;
  std::vector<Value> exchanged;  // what each thread gave in its warp's last exchange
  unsigned size = 0;
  unsigned running = 0;
  jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
} block;

// Returns when the scheduler lets the calling thread go on.
void wait_as(State state) {
  Thread& thread = block.threads[block.running];
  thread.state = state;
  if (_setjmp(thread.context) == 0) _longjmp(block.scheduler, 1);
}

void thread_main() {
  for (;;) {
    (*block.body)();
    wait_as(State::kReturned);
  }
}

void resume(unsigned index) {
  Thread& thread = block.threads[index];
  block.running = index;
  threadIdx.x = index;
  if (_setjmp(block.scheduler) != 0) return;
  if (thread.started) _longjmp(thread.context, 1);
  thread.started = true;
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = thread.stack.get();
  thread.start.uc_stack.ss_size = kStackBytes;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, thread_main, 0);
  setcontext(&thread.start);
}

bool all_in(State state, unsigned begin, unsigned end) {
  return std::all_of(block.threads.begin() + begin, block.threads.begin() + end,
                     [&](const Thread& thread) { return thread.state == state; });
}

void make_ready(unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end; ++i) block.threads[i].state = State::kReady;
}

// Lets go on whoever waits for nobody any more. A warp's exchange is done when every lane has given
// its value; the block's barrier, when every thread is there.
void release_waiting_threads() {
  for (unsigned warp = 0; warp < block.size; warp += kWarp) {
    if (!all_in(State::kInWarpExchange, warp, warp + kWarp)) continue;
    for (unsigned i = warp; i < warp + kWarp; ++i) block.exchanged[i] = block.threads[i].given;
    make_ready(warp, warp + kWarp);
  }
  if (all_in(State::kAtBlockBarrier, 0, block.size)) make_ready(0, block.size);
}

void run_block(const std::vector<unsigned>& order) {
  make_ready(0, block.size);
  while (!all_in(State::kReturned, 0, block.size)) {
    bool progress = false;
    for (unsigned index : order) {
      if (block.threads[index].state != State::kReady) continue;
      resume(index);
      progress = true;
    }
    if (!progress) {
      block.threads.clear();  // which are in the middle of a body
      throw std::logic_error("threads wait for others that do not come");
    }
    release_waiting_threads();
  }
}

std::vector<unsigned> thread_order(unsigned size, Order order) {
  std::vector<unsigned> threads(size);
  std::iota(threads.begin(), threads.end(), 0);
  if (order == Order::kBackward) std::reverse(threads.begin(), threads.end());
  if (order == Order::kShuffled) std::shuffle(threads.begin(), threads.end(), std::mt19937(0));
  return threads;
}

}  // namespace

void run(unsigned grid, unsigned size, Order order, const std::function<void()>& body) {
  if (size == 0 || size % kWarp != 0) throw std::logic_error("blocks are to be of whole warps");
  block.size = size;
  block.body = &body;
  if (block.threads.size() < size) block.threads.resize(size);
  block.exchanged.resize(size);
  blockDim = dim3(size);
  const std::vector<unsigned> threads = thread_order(size, order);
  for (unsigned i = 0; i < grid; ++i) {
    blockIdx.x = i;
    run_block(threads);
  }
}

void sync_block() { wait_as(State::kAtBlockBarrier); }

void exchange_in_warp(const void* value, size_t size, void* values) {
  const unsigned first = block.running / kWarp * kWarp;
  memcpy(block.threads[block.running].given.data(), value, size);
  wait_as(State::kInWarpExchange);
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    memcpy(static_cast<char*>(values) + lane * size, block.exchanged[first + lane].data(), size);
  }
}

}  // namespace simt

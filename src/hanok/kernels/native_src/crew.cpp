#include "crew.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <stdexcept>
#include <utility>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hanok {
namespace {

constexpr int kSpins = 4000;       // inside a program: some tens of microseconds
constexpr int kIdleSpins = 20000;  // between programs: what a caller needs to sample and come back

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Sleeps while *word is `seen`; may return early.
void sleep_on(std::atomic<uint32_t>& word, uint32_t seen) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  if (word.load() == seen) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}
void wake(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

}  // namespace

Crew::Crew(int threads, int loops) : loops_(loops) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Crew::~Crew() {
  stop_ = true;
  round_.fetch_add(1);
  wake(round_);
  for (Loop& loop : loops_) {  // a late thread may sleep on a loop that no later program got to
    loop.done.store(UINT_MAX);
    if (loop.sleepers.load() > 0) wake(loop.done);
  }
  for (auto& worker : workers_) worker.join();
}

int Crew::claim(uint32_t round, int place, int count) {
  auto& next = loops_[place].next;
  uint64_t value = next.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(value >> 32) == round && static_cast<int>(value & 0xffffffff) < count)
    if (next.compare_exchange_weak(value, value + 1, std::memory_order_acq_rel)) return static_cast<int>(value & 0xffffffff);
  return -1;
}

bool Crew::take(uint32_t round, int place, int item) {
  auto& taken = loops_[place].taken[item / 32];
  const uint64_t bit = uint64_t{1} << item % 32;
  uint64_t value = taken.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(value >> 32) == round && !(value & bit))
    if (taken.compare_exchange_weak(value, value | bit, std::memory_order_acq_rel)) return true;
  return false;
}

bool Crew::taken(uint32_t round, int place, int item) {
  const uint64_t value = loops_[place].taken[item / 32].load(std::memory_order_acquire);
  return static_cast<uint32_t>(value >> 32) != round || (value >> item % 32 & 1);
}

bool Crew::wait_until(uint32_t round, int place, int count, Clock::time_point end) {
  for (int spins = 0;; ++spins) {
    if (over(loops_[place].done.load(std::memory_order_acquire), round, count) || round_.load(std::memory_order_acquire) != round) return true;
    if (spins % 16 == 15 && Clock::now() > end) return false;
    pause();
  }
}

void Crew::finish(int place, int count) {
  Loop& loop = loops_[place];
  const uint32_t done = loop.done.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (static_cast<int>(done & kItems) == count && loop.sleepers.load() > 0) wake(loop.done);
}

// A thread that slept through the end of its round must not sleep on a later one's count, which may never be reached: the count is
// the round's own, so what it read last has changed for good when the round is over.
bool Crew::wait(uint32_t round, int place, int count) {
  Loop& loop = loops_[place];
  for (int spins = 0;; ++spins) {
    if (round_.load(std::memory_order_acquire) != round) return false;
    const uint32_t done = loop.done.load(std::memory_order_acquire);
    if (over(done, round, count)) return done >> 22 == (round & 1023);
    if (spins < kSpins) {
      pause();
      continue;
    }
    loop.sleepers.fetch_add(1);
    const uint32_t again = loop.done.load();
    if (!over(again, round, count)) sleep_on(loop.done, again);
    loop.sleepers.fetch_sub(1);
  }
}

void Crew::run(int loops, Program program) {
  if (loops > static_cast<int>(loops_.size())) throw std::length_error("a program of too many loops");
  std::lock_guard<std::mutex> turn(turn_);
  auto mine = std::make_shared<const Program>(std::move(program));
  uint32_t round;
  {
    std::lock_guard<std::mutex> door(door_);
    round = round_.load() + 1;
    for (int i = 0; i < loops; ++i) {
      loops_[i].done.store((round & 1023) << 22, std::memory_order_relaxed);
      loops_[i].next.store(static_cast<uint64_t>(round) << 32, std::memory_order_relaxed);
      for (auto& taken : loops_[i].taken) taken.store(static_cast<uint64_t>(round) << 32, std::memory_order_relaxed);
    }
    program_ = mine;
    round_.store(round);
  }
  if (sleepers_.load() > 0) wake(round_);
  Walk walk(*this, round);
  (*mine)(walk);
}

void Crew::work() {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; round_.load(std::memory_order_acquire) == seen && spins < kIdleSpins; ++spins) pause();
    if (round_.load() == seen) {
      sleepers_.fetch_add(1);
      sleep_on(round_, seen);
      sleepers_.fetch_sub(1);
    }
    std::shared_ptr<const Program> program;
    {
      std::lock_guard<std::mutex> door(door_);
      if (round_.load() == seen) continue;
      seen = round_.load();
      if (stop_) return;  // only here: whoever saw the last round would otherwise sleep on it, and nobody wakes it again
      program = program_;
    }
    Walk walk(*this, seen);
    (*program)(walk);
  }
}

}  // namespace hanok

// Threads that walk through one program together: a chain of loops, each of which begins when all items of the one before are
// done. Items are claimed one by one, and nobody waits for a thread, only for items: one whose core was taken by another process
// delays just the item that it holds, and where items can be done again, not even that. A waiting thread spins briefly and then sleeps, so that an idle core can take the other in.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace hanok {

class Crew {
 public:
  // loops: of a program at most.
  explicit Crew(int threads, int loops = 16);
  ~Crew();
  Crew(const Crew&) = delete;
  using Clock = std::chrono::steady_clock;
  static constexpr int kItems = (1 << 22) - 1;  // of a loop at most
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // One thread's way through the program. A thread that comes late finds every item taken and goes on.
  class Walk {
   public:
    // Runs body(i) for i in [0, count), each once in the whole crew; returns when all are done, or false when the program is
    // over and this thread came too late for it.
    template <class Body>
    bool loop(int count, const Body& body) {
      const int place = place_++;
      for (int item; (item = crew_.claim(round_, place, count)) >= 0;) {
        body(item);
        crew_.finish(place, count);
      }
      return crew_.wait(round_, place, count);
    }

    // As `loop`, in two parts: work(i) touches nothing that another thread reads, keep(i) hands out what it found. A waiting thread
    // does the items again of one that seems to have lost its core; keep(i) is called once. The late one's work may find its input
    // overwritten, but not gone: who calls this keeps the memory until the crew is.
    template <class Work, class Keep>
    bool loop_again(int count, const Work& work, const Keep& keep) {
      if (count > kAgain || crew_.threads() == 1)
        return loop(count, [&](int item) {
          work(item);
          keep(item);
        });
      const int place = place_++;
      const auto start = Clock::now();
      int mine = 0;
      const auto both = [&](int item) {
        work(item);
        if (!crew_.take(round_, place, item)) return;
        keep(item);
        crew_.finish(place, count);
      };
      for (int item; (item = crew_.claim(round_, place, count)) >= 0; ++mine) both(item);
      if (mine) patience_ = (Clock::now() - start) * 3 / (2 * mine) + std::chrono::microseconds(10);  // as long again as one item took
      if (!crew_.wait_until(round_, place, count, Clock::now() + patience_))
        for (int item = 0; item < count; ++item)
          if (!crew_.taken(round_, place, item)) both(item);
      return crew_.wait(round_, place, count);
    }

   private:
    friend class Crew;
    Walk(Crew& crew, uint32_t round) : crew_(crew), round_(round) {}
    Crew& crew_;
    uint32_t round_;
    int place_ = 0;
    Clock::duration patience_ = std::chrono::microseconds(200);  // of a thread that has had no item yet
  };

  // Every thread calls program(walk); `loops` loops at most, of kItems items at most. Returns when the caller's own call has; a thread that is late may
  // still be inside, so the program must own what it reads between its loops. One program at a time.
  using Program = std::function<void(Walk&)>;
  void run(int loops, Program program);

 private:
  static constexpr int kAgain = 128;  // items of a loop that can be done again
  struct alignas(64) Loop {
    std::atomic<uint64_t> next{0};  // round << 32 | item
    std::atomic<uint32_t> done{0};  // the round's lowest ten bits << 22 | items done: a value that is seen and slept on never comes back
    std::atomic<int> sleepers{0};
    std::atomic<uint64_t> taken[kAgain / 32] = {};  // round << 32 | a bit for each item whose result somebody hands out
  };
  int claim(uint32_t round, int place, int count);
  bool take(uint32_t round, int place, int item);   // false: somebody has, or the round is over
  bool taken(uint32_t round, int place, int item);  // true too when the round is over
  void finish(int place, int count);
  static bool over(uint32_t done, uint32_t round, int count) { return done >> 22 != (round & 1023) || static_cast<int>(done & kItems) >= count; }
  bool wait_until(uint32_t round, int place, int count, Clock::time_point);  // false: still not done
  bool wait(uint32_t round, int place, int count);
  void work();

  std::vector<Loop> loops_;
  std::atomic<uint32_t> round_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::shared_ptr<const Program> program_;
  std::mutex turn_, door_;  // whose program it is; what a thread reads when it joins in
  std::vector<std::thread> workers_;  // the last that begins
};

}  // namespace hanok

// Threads that walk through one program together: a chain of loops, each of which begins when all items of the one before are
// done. Items are claimed one by one, and nobody waits for a thread, only for items: one whose core was taken by another process
// delays just the item that it holds. A waiting thread spins briefly and then sleeps, so that an idle core can take the other in.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace hanok {

class Crew {
 public:
  explicit Crew(int threads);
  ~Crew();
  Crew(const Crew&) = delete;
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

   private:
    friend class Crew;
    Walk(Crew& crew, uint32_t round) : crew_(crew), round_(round) {}
    Crew& crew_;
    uint32_t round_;
    int place_ = 0;
  };

  // Every thread calls program(walk); at most `loops` loops. Returns when the caller's own call has; a thread that is late may
  // still be inside, so the program must own what it reads between its loops. One program at a time.
  using Program = std::function<void(Walk&)>;
  void run(int loops, Program program);

 private:
  static constexpr int kLoops = 4096;
  struct alignas(64) Loop {
    std::atomic<uint64_t> next{0};  // round << 32 | item
    std::atomic<uint32_t> done{0};
    std::atomic<int> sleepers{0};
  };
  int claim(uint32_t round, int place, int count);
  void finish(int place, int count);
  bool wait(uint32_t round, int place, int count);
  void work();

  std::vector<std::thread> workers_;
  std::vector<Loop> loops_ = std::vector<Loop>(kLoops);
  std::atomic<uint32_t> round_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::shared_ptr<const Program> program_;
  std::mutex turn_, door_;  // whose program it is; what a thread reads when it joins in
};

}  // namespace hanok

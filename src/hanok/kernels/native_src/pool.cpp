#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace hanok {
namespace {

constexpr int kSpins = 2000;

struct Job {
  const std::function<void(int)>* body;
  int count;
  std::atomic<int> next{0};
  std::atomic<int> done{0};
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int count, const std::function<void(int)>& body) {
    Job job{&body, count};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take(job);
    for (int spins = 0; job.done.load(std::memory_order_acquire) < count; ++spins)
      if (spins > kSpins) std::this_thread::yield();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    idle_.wait(lock, [this] { return inside_ == 0; });  // `job` lives on this stack
  }

 private:
  static void take(Job& job) {
    for (int i; (i = job.next.fetch_add(1)) < job.count;) {
      (*job.body)(i);
      job.done.fetch_add(1, std::memory_order_release);
    }
  }
  void work() {
    unsigned seen = 0;
    while (true) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        if (stop_) return;
        job = job_;
        if (job == nullptr) continue;
        ++inside_;
      }
      take(*job);
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (--inside_ == 0) idle_.notify_all();
      }
    }
  }
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::atomic<unsigned> generation_{0};
  Job* job_ = nullptr;
  int inside_ = 0;
  bool stop_ = false;
};

using GompParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
GompParallel team = nullptr;
std::atomic<int> team_size{0};  // 0: as many as the caller's OpenMP setting says

void take_all(void* job_address) {
  Job& job = *static_cast<Job*>(job_address);
  for (int i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) (*job.body)(i);
}

std::mutex call_mutex;
Pool* pool = nullptr;  // never destroyed at exit: workers may outlive static destructors

}  // namespace

void share_threads(uintptr_t gomp_parallel) { team = reinterpret_cast<GompParallel>(gomp_parallel); }

void set_num_threads(int threads) {
  team_size = std::max(1, threads);
  if (team) return;
  std::lock_guard<std::mutex> lock(call_mutex);
  delete pool;
  pool = new Pool(std::max(1, threads));
}

int num_threads() {
  if (team && team_size) return team_size;
  std::lock_guard<std::mutex> lock(call_mutex);
  return pool ? pool->threads() : std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(int count, const std::function<void(int)>& body) {
  if (count <= 0) return;
  if (team) {
    Job job{&body, count};
    if (count == 1 || team_size == 1) take_all(&job);
    else team(take_all, &job, (unsigned)team_size.load(), 0);
    return;
  }
  std::lock_guard<std::mutex> lock(call_mutex);  // one loop at a time; callers from other threads wait
  if (!pool) pool = new Pool(std::max(1u, std::thread::hardware_concurrency()));
  if (count == 1 || pool->threads() == 1) {
    for (int i = 0; i < count; ++i) body(i);
    return;
  }
  pool->run(count, body);
}

}  // namespace hanok

// A thread pool for short parallel loops on shared cores: chunks are handed out one by one, so that a thread whose core
// is taken by another process only delays its own chunk; waiting threads spin for some microseconds, then sleep.
#pragma once
#include <cstdint>
#include <functional>

namespace hanok {

// Runs body(i) for i in [0, count), each exactly once, in no fixed order. Blocks until all are done.
void parallel_for(int count, const std::function<void(int)>& body);
// Address of GNU OpenMP's GOMP_parallel in this process: loops then run on its threads, which PyTorch's loops run on too. Two
// sets of threads on the same cores would take them from each other, as threads that wait for work spin.
void share_threads(uintptr_t gomp_parallel);
void set_num_threads(int threads);
int num_threads();

}  // namespace hanok

// Memory that stays between calls.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(HANOK_ISA)  // one for each instruction set: the linker must not take another's
namespace HANOK_ISA {
#else
namespace hanok {
#endif

// A buffer on cache lines that only grows, by half of itself at least, and takes memory as it is written. What it grew out of stays
// until the end: a thread that is late may still read it.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() {
    for (void* room : rooms_) std::free(room);
  }
  T* at_least(size_t count) {
    if (count > size_) {
      const size_t size = std::max(count, size_ + size_ / 2);
      rooms_.reserve(rooms_.size() + 1);
      void* room = std::calloc(size * sizeof(T) + 128, 1);  // zeros that the system has are not written
      if (!room) throw std::bad_alloc();
      rooms_.push_back(room);
      size_ = size;
      data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(room) + 63) / 64 * 64);
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  std::vector<void*> rooms_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace HANOK_ISA or hanok

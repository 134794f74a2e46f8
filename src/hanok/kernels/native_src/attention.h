// Attention of a few queries of one sequence over the blocks of the cache that they see.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

struct Task {  // queries of `rows` rows of one sequence, `count` heads that share a key head
  int row, rows, kv, head, count;
};

constexpr int kSegment = 512;  // keys whose scores are in memory at once
constexpr int kSlice = 2048;   // of the text, summed by itself: slices of one query may be different threads'
constexpr int kQueries = 8;

struct AttentionScratch {
  alignas(64) float scores[kQueries][kSegment];
  alignas(64) uint16_t weights[kQueries][kSegment];
  alignas(64) float key_scales[kSegment], value_scales[kSegment];  // of a cache in int8
  float most[kQueries], total[kQueries];
  Buffer<uint16_t> keys, values;  // a tile and a block of it in bfloat16, which holds int8 exactly
};

inline void widen(const int8_t* from, size_t count, uint16_t* to) {
  typedef int8_t vb __attribute__((vector_size(W), aligned(1), may_alias));
  for (size_t i = 0; i < count; i += W)
    store(reinterpret_cast<bf16*>(to + i), __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const vb*>(from + i), vi), vf));
}

// Scores of one query in a segment to weights: scale, cap, what it does not see, the running maximum. `from` and `to` are the keys
// that it sees, `begin` and `padded` those that are read, all within the segment. Returns what the sum so far has to shrink by.
inline float weigh(const AttentionShape& shape, int m, bool bytes, int begin, int from, int to, int padded,
                   AttentionScratch& s) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  float* row = s.scores[m];
  uint16_t* weights = s.weights[m];
  if (from >= to) {
    std::fill(weights + begin, weights + padded, 0);
    return 1.0f;
  }
  const int first = from / W * W;
  vf high = splat(s.most[m]);
  for (int t = first; t < to; t += W) {
    vf x = load(row + t, std::min(to - t, W)) * splat(shape.scale);
    if (bytes) x *= load(s.key_scales + t);
    if (shape.softcap > 0) x = splat(shape.softcap) * tanh(x / splat(shape.softcap));
    for (int i = 0; i < from - t; ++i) x[i] = kNever;
    for (int i = to - t; i < W; ++i) x[i] = kNever;
    store(row + t, x);
    high = select(x > high, x, high);
  }
  float most = s.most[m];
  for (int i = 0; i < W; ++i) most = std::max(most, high[i]);
  const float fade = s.total[m] > 0 ? std::exp(s.most[m] - most) : 0.0f;
  s.most[m] = most;
  std::fill(weights + begin, weights + std::max(begin, first), 0);
  vf total{};
  int t = first;
  for (; t < to; t += W) {
    const vf p = exp(load(row + t) - splat(most));
    total += p;
    // what is not seen may have a scale that is no number
    store(reinterpret_cast<bf16*>(weights + t), bytes ? select(p == vf{}, p, p * load(s.value_scales + t)) : p);
  }
  if (t < padded) std::fill(weights + t, weights + padded, 0);
  s.total[m] = s.total[m] * fade + sum(total);
  return fade;
}

// Of M queries over one slice of the text: sums of values by their weights, not yet divided by s.total.
// Slices and segments begin at multiples in the text, whatever is seen, so that a query's sums do not depend on those beside it.
template <int M>
void attend(const AttentionShape& shape, int blocks, const CacheLayer& cache, const int32_t* table, int kv, const uint16_t* q,
            const int* ends, int slice, float* out, AttentionScratch& s) {
  const int dim = shape.key_dim, wide = shape.value_dim;
  const size_t head = (size_t)kv * blocks;
  const bool bytes = cache.key_scales != nullptr;
  const auto place = [&](int t) { return (head + table[t / kBlock]) * kBlock + t % kBlock; };
  const auto key_tile = [&](int t) -> const uint16_t* {
    if (!bytes) return cache.keys + place(t) * dim;
    uint16_t* tile = s.keys.at_least(kTile * dim);
    widen(reinterpret_cast<const int8_t*>(cache.keys) + place(t) * dim, kTile * dim, tile);
    return tile;
  };
  int end = 0, least = std::numeric_limits<int>::max(), first[M];
  for (int m = 0; m < M; ++m) {
    s.most[m] = -std::numeric_limits<float>::infinity();
    s.total[m] = 0.0f;
    first[m] = shape.window ? std::max(0, ends[m] - shape.window) : 0;
    least = std::min(least, first[m]);
    end = std::max(end, ends[m]);
    std::memset(out + m * wide, 0, wide * sizeof(float));
  }
  least = std::max(least / kBlock * kBlock, slice * kSlice);
  end = std::min(end, (slice + 1) * kSlice);
  for (int start = least / kSegment * kSegment; start < end; start += kSegment) {
    const int begin = std::max(least, start), stop = (std::min(end, start + kSegment) + kTile - 1) / kTile * kTile;
    for (int t = begin; t < stop; t += kTile) {
      if (bytes) {
        std::memcpy(s.key_scales + t - start, cache.key_scales + place(t), kTile * sizeof(float));
        std::memcpy(s.value_scales + t - start, (cache.values ? cache.value_scales : cache.key_scales) + place(t), kTile * sizeof(float));
      }
      score_tile<M>(key_tile(t), q, dim, &s.scores[0][t - start], kSegment);
    }
    for (int m = 0; m < M; ++m) {
      const int to = std::min(std::max(ends[m] - start, 0), kSegment);
      const float fade = weigh(shape, m, bytes, begin - start, std::max(first[m] - start, 0), to, stop - start, s);
      if (fade != 1.0f)
        for (int i = 0; i < wide; ++i) out[m * wide + i] *= fade;
    }
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    for (int t = begin; t < stop; t += kBlock) {
      const uint16_t *v = cache.values ? cache.values + place(t) * wide : nullptr, *p = &s.weights[0][t - start];
      const int count = std::min(kBlock, stop - t);
      if (!v) {  // they are the keys' first channels
        v = s.values.at_least(kBlock * wide);
        for (int i = 0; i < count; i += kTile) turn_tile(key_tile(t + i), wide, s.values.data() + i * wide);
      } else if (bytes) {
        v = s.values.at_least(kBlock * wide);
        widen(reinterpret_cast<const int8_t*>(cache.values) + place(t) * wide, count * wide, s.values.data());
      }
      int d = 0;
      for (; d + 16 * kWide <= wide; d += 16 * kWide) value_tile<M, kWide>(v + d * 2, 2 * wide, p, kSegment, count / 2, out + d, wide);
      for (; d < wide; d += 16) value_tile<M, 1>(v + d * 2, 2 * wide, p, kSegment, count / 2, out + d, wide);
    }
  }
}

// What some slices have found for one query, in the order of the text.
struct Found {
  float most, total;
  Found(float sink, bool sinks) : most(sinks ? sink : -std::numeric_limits<float>::infinity()), total(sinks ? 1.0f : 0.0f) {}
  void add(float its_most, float its_total, const float* from, int wide, float* to) {
    if (its_total == 0) return;  // it sees nothing of that slice
    const float high = std::max(most, its_most), before = total > 0 ? std::exp(most - high) : 0.0f, now = std::exp(its_most - high);
    total = total * before + its_total * now;
    for (int i = 0; i < wide; ++i) to[i] = to[i] * before + from[i] * now;
    most = high;
  }
};

}  // namespace HANOK_ISA

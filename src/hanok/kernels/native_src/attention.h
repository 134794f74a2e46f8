// Attention of a few queries of one sequence over the blocks of the cache that they see.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

struct Task {  // queries of `rows` rows of one sequence, `count` heads that share a key head
  int row, rows, kv, head, count;
};

constexpr int kSegment = 512;  // keys whose scores are in memory at once
constexpr int kQueries = 8;

struct AttentionScratch {
  alignas(64) float scores[kQueries][kSegment];
  alignas(64) uint16_t weights[kQueries][kSegment];
  float most[kQueries], total[kQueries];
};

// Scores of one query in a segment to weights: scale, cap, what it does not see, the running maximum. `from` and `to` are the keys
// that it sees, `begin` and `padded` those that are read, all within the segment. Returns what the sum so far has to shrink by.
inline float weigh(const AttentionShape& shape, int m, int begin, int from, int to, int padded, AttentionScratch& s) {
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
    store(reinterpret_cast<bf16*>(weights + t), p);
  }
  if (t < padded) std::fill(weights + t, weights + padded, 0);
  s.total[m] = s.total[m] * fade + sum(total);
  return fade;
}

// Segments begin at multiples of kSegment in the text, whatever is seen, so that a query's sums do not depend on those beside it.
template <int M>
void attend(const AttentionShape& shape, int blocks, const uint16_t* keys, const uint16_t* values, const int32_t* table, int kv,
            const uint16_t* q, const int* ends, const float* sinks, float* out, AttentionScratch& s) {
  const int dim = shape.key_dim, wide = shape.value_dim;
  const size_t of_keys = (size_t)kBlock * dim, of_values = (size_t)kBlock * wide;
  keys += kv * blocks * of_keys;
  values += kv * blocks * of_values;
  int end = 0, least = std::numeric_limits<int>::max(), first[M];
  for (int m = 0; m < M; ++m) {
    s.most[m] = sinks[m];
    s.total[m] = shape.sinks ? 1.0f : 0.0f;
    first[m] = shape.window ? std::max(0, ends[m] - shape.window) : 0;
    least = std::min(least, first[m]);
    end = std::max(end, ends[m]);
    std::memset(out + m * wide, 0, wide * sizeof(float));
  }
  least = least / kBlock * kBlock;
  for (int start = least / kSegment * kSegment; start < end; start += kSegment) {
    const int begin = std::max(least, start), stop = (std::min(end, start + kSegment) + kTile - 1) / kTile * kTile;
    for (int t = begin; t < stop; t += kTile) {
      const uint16_t* k = keys + table[t / kBlock] * of_keys + (size_t)(t % kBlock) * dim;
      score_tile<M>(k, q, dim, &s.scores[0][t - start], kSegment);
    }
    for (int m = 0; m < M; ++m) {
      const int to = std::min(std::max(ends[m] - start, 0), kSegment);
      const float fade = weigh(shape, m, begin - start, std::max(first[m] - start, 0), to, stop - start, s);
      if (fade != 1.0f)
        for (int i = 0; i < wide; ++i) out[m * wide + i] *= fade;
    }
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    for (int t = begin; t < stop; t += kBlock) {
      const uint16_t* v = values + table[t / kBlock] * of_values;
      const uint16_t* p = &s.weights[0][t - start];
      const int pairs = std::min(kBlock, stop - t) / 2;
      int d = 0;
      for (; d + 16 * kWide <= wide; d += 16 * kWide) value_tile<M, kWide>(v + d * 2, 2 * wide, p, kSegment, pairs, out + d, wide);
      for (; d < wide; d += 16) value_tile<M, 1>(v + d * 2, 2 * wide, p, kSegment, pairs, out + d, wide);
    }
  }
  for (int m = 0; m < M; ++m) {
    const float inverse = 1.0f / s.total[m];
    for (int d = 0; d < wide; ++d) out[m * wide + d] *= inverse;
  }
}

}  // namespace HANOK_ISA

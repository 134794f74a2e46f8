// Attention of a few queries of one sequence over the blocks of the cache that they see.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "tiles.h"

namespace HANOK_ISA {

struct Task {  // queries of `rows` rows of one sequence, `count` heads that share a key head
  int row, rows, kv, head, count;
};

constexpr int kSegment = 512;  // keys whose scores are in memory at once
constexpr int kSlice = 2048;   // of the text, summed by itself: slices of one query may be different threads'
constexpr int kQueries = 8;

// Of a cache in int8 everything is multiplied as integers: queries and weights are rounded to 16 bits, with a scale for each.
struct AttentionScratch {
  alignas(64) float scores[kQueries][kSegment];
  union {
    alignas(64) uint16_t weights[kQueries][kSegment];
    alignas(64) int16_t shorts[kQueries][kSegment];
  };
  alignas(64) float key_scales[kSegment], value_scales[kSegment];
  float most[kQueries], total[kQueries], query_scales[kQueries], units[kQueries];
  Buffer<int16_t> queries, keys, values;  // of a cache in int8 without values: a tile of keys, and a block turned to values
};

// The scale of n numbers, and their inverse, with which they are integers up to `high`. What is not finite shows in the scale.
struct Scale {
  float scale, inverse;
};
template <class T>
inline Scale scale_of(const T* x, int n, float high) {
  vf most{}, total{};
  for (int i = 0; i < n; i += W) {
    const vf v = load(x + i, std::min(n - i, W)), size = select(v < vf{}, -v, v);
    most = select(size > most, size, most);
    total += v * vf{};
  }
  float largest = 0;
  for (int i = 0; i < W; ++i) largest = std::max(largest, most[i]);
  return {largest / high + sum(total), largest > 0 ? high / largest : 0.0f};
}
template <class T>
inline void to_shorts(const T* x, int n, float inverse, int16_t* to) {
  typedef int16_t vs __attribute__((vector_size(W * 2), aligned(2), may_alias));
  const vf magic = splat(12582912.0f);
  for (int i = 0; i < n; i += W) {
    const int count = std::min(n - i, W);
    const vf v = (load(x + i, count) * splat(inverse) + magic) - magic;
    const vs rounded = __builtin_convertvector(__builtin_convertvector(v, vi), vs);
    std::memcpy(to + i, &rounded, count * sizeof *to);
  }
}

// Scores of one query in a segment to weights: scale, cap, what it does not see, the running maximum. `from` and `to` are the keys
// that it sees, `begin` and `padded` those that are read, all within the segment. Returns what the sum so far has to shrink by.
inline float weigh(const AttentionShape& shape, int m, bool bytes, int begin, int from, int to, int padded,
                   AttentionScratch& s) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  float* row = s.scores[m];
  uint16_t* weights = s.weights[m];  // zeros are the same in both types
  if (from >= to) {
    std::fill(weights + begin, weights + padded, 0);
    s.units[m] = 0.0f;
    return 1.0f;
  }
  const int first = from / W * W;
  const vf scale = splat(bytes ? shape.scale * s.query_scales[m] : shape.scale);
  vf high = splat(s.most[m]);
  for (int t = first; t < to; t += W) {
    vf x = load(row + t, std::min(to - t, W)) * scale;
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
    if (bytes) store(row + t, select(p == vf{}, p, p * load(s.value_scales + t)));  // what is not seen may have a scale that is no number
    else store(reinterpret_cast<bf16*>(weights + t), p);
  }
  if (bytes) {
    const Scale found = scale_of(row + first, t - first, 32767.0f);
    to_shorts(row + first, t - first, found.inverse, s.shorts[m] + first);
    s.units[m] = found.scale;
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
  const auto *key_bytes = reinterpret_cast<const int8_t*>(cache.keys), *value_bytes = reinterpret_cast<const int8_t*>(cache.values);
  const auto place = [&](int t) { return (head + table[t / kBlock]) * kBlock + t % kBlock; };
  int end = 0, least = std::numeric_limits<int>::max(), first[M];
  for (int m = 0; m < M; ++m) {
    s.most[m] = -std::numeric_limits<float>::infinity();
    s.total[m] = 0.0f;
    first[m] = shape.window ? std::max(0, ends[m] - shape.window) : 0;
    least = std::min(least, first[m]);
    end = std::max(end, ends[m]);
    std::memset(out + m * wide, 0, wide * sizeof(float));
  }
  int16_t* queries = nullptr;
  if (bytes) {
    queries = s.queries.at_least((size_t)M * dim + 32);
    const float high = std::min(32767.0f, std::floor(2147483392.0f / (127.0f * dim)));  // sums fit into 31 bits
    for (int m = 0; m < M; ++m) {
      const bf16* from = reinterpret_cast<const bf16*>(q + (size_t)m * dim);
      const Scale found = scale_of(from, dim, high);
      to_shorts(from, dim, found.inverse, queries + (size_t)m * dim);
      s.query_scales[m] = found.scale;
    }
  }
  // Sums over `count` tokens' values from a place of the segment on; `p` weights of the first query.
  const auto add_values = [&](const auto* v, const auto* p, int count, auto... units) {
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    int d = 0;
    for (; d + 16 * kWide <= wide; d += 16 * kWide)
      value_tile<M, kWide>(v + d * 2, 2 * wide, p, kSegment, count / 2, units..., out + d, wide);
    for (; d < wide; d += 16) value_tile<M, 1>(v + d * 2, 2 * wide, p, kSegment, count / 2, units..., out + d, wide);
  };
  least = std::max(least / kBlock * kBlock, slice * kSlice);
  end = std::min(end, (slice + 1) * kSlice);
  for (int start = least / kSegment * kSegment; start < end; start += kSegment) {
    const int begin = std::max(least, start), stop = (std::min(end, start + kSegment) + kTile - 1) / kTile * kTile;
    for (int t = begin; t < stop; t += kTile) {
      float* scores = &s.scores[0][t - start];
      if (bytes) {
        std::memcpy(s.key_scales + t - start, cache.key_scales + place(t), kTile * sizeof(float));
        std::memcpy(s.value_scales + t - start, (cache.values ? cache.value_scales : cache.key_scales) + place(t), kTile * sizeof(float));
        score_tile<M>(key_bytes + place(t) * dim, queries, dim, scores, kSegment);
      } else {
        score_tile<M>(cache.keys + place(t) * dim, q, dim, scores, kSegment);
      }
    }
    for (int m = 0; m < M; ++m) {
      const int to = std::min(std::max(ends[m] - start, 0), kSegment);
      const float fade = weigh(shape, m, bytes, begin - start, std::max(first[m] - start, 0), to, stop - start, s);
      if (fade != 1.0f)
        for (int i = 0; i < wide; ++i) out[m * wide + i] *= fade;
    }
    for (int t = begin; t < stop; t += kBlock) {
      const int count = std::min(kBlock, stop - t);
      const uint16_t* weights = &s.weights[0][t - start];
      const int16_t* shorts = &s.shorts[0][t - start];
      if (cache.values && bytes) {
        add_values(value_bytes + place(t) * wide, shorts, count, s.units);
      } else if (cache.values) {
        add_values(cache.values + place(t) * wide, weights, count);
      } else if (bytes) {  // they are the keys' first channels
        const int8_t* from = key_bytes + place(t) * dim;
        int16_t *tile = s.keys.at_least((size_t)kTile * dim), *v = s.values.at_least((size_t)kBlock * wide);
        for (int i = 0; i < count; i += kTile, from += kTile * dim) {
          std::copy(from, from + kTile * wide, tile);
          turn_tile(reinterpret_cast<const uint16_t*>(tile), wide, reinterpret_cast<uint16_t*>(v) + i * wide);
        }
        add_values(static_cast<const int16_t*>(v), shorts, count, s.units);
      } else {
        uint16_t* v = reinterpret_cast<uint16_t*>(s.values.at_least((size_t)kBlock * wide));
        for (int i = 0; i < count; i += kTile) turn_tile(cache.keys + place(t + i) * dim, wide, v + i * wide);
        add_values(static_cast<const uint16_t*>(v), weights, count);
      }
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

// Compiled once for each instruction set. Sums run in one fixed order for each row, whatever else is in the step and however many
// threads there are, so a row's numbers depend on its own sequence alone.
#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "vec.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define HANOK_VNNI 1
#include <immintrin.h>
#endif

namespace HANOK_ISA {
using namespace hanok;

// A buffer on cache lines that only grows.
template <class T>
class Buffer {
 public:
  ~Buffer() { operator delete[](data_, std::align_val_t(64)); }
  T* at_least(size_t count) {
    if (count > size_) {
      operator delete[](data_, std::align_val_t(64));
      data_ = static_cast<T*>(operator new[](count * sizeof(T) + 64, std::align_val_t(64)));
      std::memset(static_cast<void*>(data_), 0, count * sizeof(T) + 64);
      size_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Rows ready for a product: bfloat16, or int8 with one scale a row and, of each group of 32, the sum times what the packed weights
// are too large by.
struct Rows {
  int cols = 0;
  uint16_t* bf = nullptr;
  int8_t* q = nullptr;
  int32_t* sums = nullptr;
  float* scale = nullptr;
};
struct RowBuffers {
  Buffer<float> space;
  Buffer<uint16_t> bf;
  Buffer<int8_t> q;
  Buffer<int32_t> sums;
  Buffer<float> scale;
  Rows make(int rows, int cols) {
    return {cols, bf.at_least((size_t)rows * cols), q.at_least((size_t)rows * cols), sums.at_least((size_t)rows * (cols / 32)),
            scale.at_least(rows)};
  }
};

inline uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t x) {
  const uint32_t u = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}
inline float from_half(uint16_t x) {
  const uint32_t sign = (x & 0x8000u) << 16, exponent = (x >> 10) & 31, mantissa = x & 1023;
  uint32_t u;
  if (exponent == 0) {
    const float y = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -y : y;
  }
  u = exponent == 31 ? sign | 0x7f800000u | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}

// To the nearest even; what is too large becomes infinite.
inline uint16_t to_half(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint16_t sign = (u >> 16) & 0x8000;
  const float size = std::fabs(x);
  if (!(size < 65520.0f)) return sign | (size != size ? 0x7e00 : 0x7c00);
  if (size < 6.103515625e-05f) return sign | static_cast<uint16_t>(std::nearbyint(size * 16777216.0f));
  u &= 0x7fffffff;
  u += 0xfff + ((u >> 13) & 1);
  return sign | static_cast<uint16_t>((u >> 13) - (112 << 10));
}

void round_row(const float* x, int row, Kind kind, const Rows& rows) {
  const int cols = rows.cols;
  if (kind == kBf16) {
    bf16* to = reinterpret_cast<bf16*>(rows.bf + (size_t)row * cols);
    for (int k = 0; k < cols; k += W) store(to + k, load(x + k));
    return;
  }
  vf high{};
  for (int k = 0; k < cols; k += W) {
    const vf v = load(x + k), size = v < vf{} ? -v : v;
    high = select(size > high, size, high);
  }
  float most = 0;
  for (int i = 0; i < W; ++i) most = std::max(most, high[i]);
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  rows.scale[row] = most / 127.0f;
  int8_t* to = rows.q + (size_t)row * cols;
  int32_t* sums = rows.sums + (size_t)row * (cols / 32);
  const vf magic = splat(12582912.0f);  // added and taken away: rounds to the nearest even
  for (int g = 0; g < cols / 32; ++g) {
    vi total{};
    for (int k = g * 32; k < g * 32 + 32; k += W) {
      const vi q = __builtin_convertvector((load(x + k) * splat(inverse) + magic) - magic, vi);
      total += q;
      typedef int8_t vb __attribute__((vector_size(W), aligned(1), may_alias));
      *reinterpret_cast<vb*>(to + k) = __builtin_convertvector(q, vb);
    }
    int32_t sum = 0;
    for (int i = 0; i < W; ++i) sum += total[i];
    sums[g] = (kind == kInt4 ? -8 : -128) * sum;
  }
}

#if HANOK_VNNI
inline __m512i four(const void* p) { return _mm512_set1_epi32(*static_cast<const int32_t*>(p)); }
inline void ahead(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p) + 1536, _MM_HINT_T0); }

// B blocks of 16 outputs of each of M rows. Sums of integers are exact, so their order is free; those of floats are not: one group
// after the other, whatever M and B are.
template <int M, int B, bool four_bits, bool first_rows>
inline void blocks_int(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  const int cols = a.cols, groups = cols / 32;
  const size_t bytes = (four_bits ? 8 : 16) * (size_t)cols;
  const uint8_t* w = a.weights + block * bytes;
  const uint16_t* s = a.scales + block * groups * 16;
  const int8_t* q = x.q + (size_t)row * cols;
  const int32_t* sums = x.sums + (size_t)row * groups;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[B][M];
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) total[b][m] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g) {
    constexpr bool kTwo = M * B < 4;  // chains of sums, where there are few
    __m512i sum[B][M], odd[B][M];
    for (int m = 0; m < M; ++m) {
      const __m512i start = four(sums + (size_t)m * groups + g);
      for (int b = 0; b < B; ++b) sum[b][m] = start, odd[b][m] = _mm512_setzero_si512();
    }
    for (int j = 0; j < 4; ++j) {
      __m512i l[B], h[B];
      for (int b = 0; b < B; ++b) {
        if (four_bits) {
          const uint8_t* from = w + b * bytes + (g * 4 + j) * 64;
          const __m512i v = _mm512_load_si512(from);
          if (first_rows) ahead(from);
          l[b] = _mm512_and_si512(v, low);
          h[b] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        } else {
          const uint8_t* from = w + b * bytes + (g * 4 + j) * 128;
          l[b] = _mm512_load_si512(from);
          h[b] = _mm512_load_si512(from + 64);
          if (first_rows) ahead(from), ahead(from + 64);
        }
      }
      for (int m = 0; m < M; ++m) {
        const int8_t* p = q + (size_t)m * cols + g * 32 + j * 8;
        const __m512i first = four(p), second = four(p + 4);
        for (int b = 0; b < B; ++b) {
          sum[b][m] = _mm512_dpbusd_epi32(sum[b][m], l[b], first);
          auto& other = kTwo ? odd[b][m] : sum[b][m];
          other = _mm512_dpbusd_epi32(other, h[b], second);
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      const uint16_t* at = s + ((size_t)b * groups + g) * 16;
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      for (int m = 0; m < M; ++m) {
        const __m512i both = kTwo ? _mm512_add_epi32(sum[b][m], odd[b][m]) : sum[b][m];
        total[b][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), scale, total[b][m]);
      }
    }
  }
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) _mm512_storeu_ps(out[b][m], _mm512_mul_ps(total[b][m], _mm512_set1_ps(x.scale[row + m])));
}

template <int M, int B, bool first_rows>
inline void blocks_bf16(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  const int cols = a.cols;
  const uint8_t* w = a.weights + block * 32 * cols;
  const uint16_t* v = x.bf + (size_t)row * cols;
  __m512 sum[B][M];
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) sum[b][m] = _mm512_setzero_ps();
  for (int k = 0; k < cols; k += 4) {
    __m512bh l[B], h[B];
    for (int b = 0; b < B; ++b) {
      const uint8_t* from = w + (size_t)b * 32 * cols + k * 32;
      l[b] = (__m512bh)_mm512_load_si512(from);
      h[b] = (__m512bh)_mm512_load_si512(from + 64);
      if (first_rows) ahead(from), ahead(from + 64);
    }
    for (int m = 0; m < M; ++m) {
      const uint16_t* p = v + (size_t)m * cols + k;
      const __m512bh first = (__m512bh)four(p), second = (__m512bh)four(p + 2);
      for (int b = 0; b < B; ++b) {
        sum[b][m] = _mm512_dpbf16_ps(sum[b][m], l[b], first);
        sum[b][m] = _mm512_dpbf16_ps(sum[b][m], h[b], second);
      }
    }
  }
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) _mm512_storeu_ps(out[b][m], sum[b][m]);
}

// `first_rows`: the weights come from memory, not from the cache that rows before left them in.
template <int M, int B, bool first_rows>
inline void blocks_of(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  constexpr int kWide = M > 1 && M * B <= 8 ? B : 1;  // more would not fit into registers; one row reads one stream faster than two
  if (a.kind == kBf16) return blocks_bf16<M, B, first_rows>(a, block, x, row, out);
  for (int b = 0; b < B; b += kWide) {
    if (a.kind == kInt4) blocks_int<M, kWide, true, first_rows>(a, block + b, x, row, out + b);
    else blocks_int<M, kWide, false, first_rows>(a, block + b, x, row, out + b);
  }
}
template <int M, int B>
inline void blocks_product(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  if (row == 0) blocks_of<M, B, true>(a, block, x, row, out);
  else blocks_of<M, B, false>(a, block, x, row, out);
}

// Scores of M queries with a tile of 16 keys.
template <int M>
inline void score_tile(const uint16_t* keys, const uint16_t* q, int dim, float* out, size_t pitch) {
  const uint8_t* w = reinterpret_cast<const uint8_t*>(keys);
  __m512 even[M], odd[M];
  for (int m = 0; m < M; ++m) even[m] = odd[m] = _mm512_setzero_ps();
  for (int k = 0; k < dim; k += 4, w += 128) {
    const __m512bh v = (__m512bh)_mm512_load_si512(w), u = (__m512bh)_mm512_load_si512(w + 64);
    ahead(w);
    ahead(w + 64);
    for (int m = 0; m < M; ++m) {
      even[m] = _mm512_dpbf16_ps(even[m], v, (__m512bh)four(q + m * dim + k));
      odd[m] = _mm512_dpbf16_ps(odd[m], u, (__m512bh)four(q + m * dim + k + 2));
    }
  }
  for (int m = 0; m < M; ++m) _mm512_storeu_ps(out + m * pitch, _mm512_add_ps(even[m], odd[m]));
}

// out[m][0 .. 16 V) += weights of `pairs` pairs of tokens times their values.
template <int M, int V>
inline void value_tile(const uint16_t* values, size_t stride, const uint16_t* p, size_t pitch, int pairs, float* out, int dim) {
  __m512 y[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) y[m][v] = _mm512_loadu_ps(out + m * dim + v * 16);
  for (int t = 0; t < pairs; ++t, values += stride) {
    __m512bh x[V];
    for (int v = 0; v < V; ++v) x[v] = (__m512bh)_mm512_loadu_si512(values + v * 32);
    for (int v = 0; v < V; ++v) _mm_prefetch(reinterpret_cast<const char*>(values + 4 * stride + v * 32), _MM_HINT_T0);
    for (int m = 0; m < M; ++m) {
      const __m512bh w = (__m512bh)four(p + m * pitch + 2 * t);
      for (int v = 0; v < V; ++v) y[m][v] = _mm512_dpbf16_ps(y[m][v], x[v], w);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + m * dim + v * 16, y[m][v]);
}
#else
template <int M>
void block_product(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[16]) {
  const int cols = a.cols, groups = cols / 32;
  for (int m = 0; m < M; ++m) {
    float total[16] = {};
    if (a.kind == kBf16) {
      const uint16_t* w = reinterpret_cast<const uint16_t*>(a.weights) + block * 16 * cols;
      const uint16_t* v = x.bf + (size_t)(row + m) * cols;
      for (int k = 0; k < cols; k += 2, w += 32) {
        const float a0 = from_bf16(v[k]), a1 = from_bf16(v[k + 1]);
        for (int n = 0; n < 16; ++n) total[n] += from_bf16(w[2 * n]) * a0 + from_bf16(w[2 * n + 1]) * a1;
      }
    } else {
      const int8_t* q = x.q + (size_t)(row + m) * cols;
      const int32_t* sums = x.sums + (size_t)(row + m) * groups;
      const uint16_t* s = a.scales + block * groups * 16;
      const uint8_t* w = a.weights + block * cols * (a.kind == kInt4 ? 8 : 16);
      for (int g = 0; g < groups; ++g) {
        int32_t sum[16];
        for (int n = 0; n < 16; ++n) sum[n] = sums[g];
        for (int j = 0; j < 4; ++j) {
          const int8_t* p = q + g * 32 + j * 8;
          for (int n = 0; n < 16; ++n)
            for (int i = 0; i < 4; ++i) {
              if (a.kind == kInt4) sum[n] += (w[n * 4 + i] & 15) * p[i] + (w[n * 4 + i] >> 4) * p[4 + i];
              else sum[n] += w[n * 4 + i] * p[i] + w[64 + n * 4 + i] * p[4 + i];
            }
          w += a.kind == kInt4 ? 64 : 128;
        }
        for (int n = 0; n < 16; ++n) total[n] += static_cast<float>(sum[n]) * from_half(s[g * 16 + n]);
      }
      for (int n = 0; n < 16; ++n) total[n] *= x.scale[row + m];
    }
    std::memcpy(out[m], total, sizeof total);
  }
}
template <int M, int B>
inline void blocks_product(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  for (int b = 0; b < B; ++b) block_product<M>(a, block + b, x, row, out[b]);
}
template <int M>
inline void score_tile(const uint16_t* keys, const uint16_t* q, int dim, float* out, size_t pitch) {
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 16; ++n) {
      float total = 0;
      for (int k = 0; k < dim; k += 2)
        total += from_bf16(keys[k * 16 + n * 2]) * from_bf16(q[m * dim + k]) +
                 from_bf16(keys[k * 16 + n * 2 + 1]) * from_bf16(q[m * dim + k + 1]);
      out[m * pitch + n] = total;
    }
}
template <int M, int V>
inline void value_tile(const uint16_t* values, size_t stride, const uint16_t* p, size_t pitch, int pairs, float* out, int dim) {
  for (int m = 0; m < M; ++m)
    for (int t = 0; t < pairs; ++t) {
      const float a0 = from_bf16(p[m * pitch + 2 * t]), a1 = from_bf16(p[m * pitch + 2 * t + 1]);
      for (int n = 0; n < 16 * V; ++n)
        out[m * dim + n] += from_bf16(values[t * stride + 2 * n]) * a0 + from_bf16(values[t * stride + 2 * n + 1]) * a1;
    }
}
#endif

// The widest tiles that fit, first of rows, then of blocks: tile(block, row, M, B) for integral constants M and B.
template <class Tile>
inline void in_tiles(int first, int last, int rows, const Tile& tile) {
  const auto some_rows = [&](int block, auto wide) {
    int row = 0;
    const auto some = [&](auto tall) {
      for (; row + tall() <= rows; row += tall()) tile(block, row, tall, wide);
    };
    some(std::integral_constant<int, 8>{});
    some(std::integral_constant<int, 4>{});
    some(std::integral_constant<int, 2>{});
    some(std::integral_constant<int, 1>{});
  };
  int block = first;
  for (; block + 2 <= last; block += 2) some_rows(block, std::integral_constant<int, 2>{});
  if (block < last) some_rows(block, std::integral_constant<int, 1>{});
}

// Calls use(block, row, M rows of 16 outputs, M) for the blocks of one item.
template <class Use>
inline void product_item(const Matrix& a, int first, int last, const Rows& x, int rows, const Use& use) {
  alignas(64) float out[2][8][16];
  in_tiles(first, last, rows, [&](int block, int row, auto tall, auto wide) {
    blocks_product<tall(), wide()>(a, block, x, row, out);
    for (int b = 0; b < wide(); ++b) use(block + b, row, out[b], tall());
  });
}

// Blocks of an item: small enough that the last one is not waited for long, in pairs for gate and up.
inline int blocks_each(int blocks, int threads) { return std::max(2, blocks / (threads * 8) / 2 * 2); }

template <class Get, class Use>
inline bool multiply(Crew::Walk& walk, int threads, const Matrix& a, int rows, const Get& get, const Use& use) {
  const int blocks = a.rows / 16, each = blocks_each(blocks, threads);
  return walk.loop((blocks + each - 1) / each, [&](int item) {
    product_item(a, item * each, std::min(blocks, (item + 1) * each), get(), rows, use);
  });
}

void unpack_row(const Matrix& a, int row, int cols, float* out) {
  const size_t block = row / 16;
  const int n = row % 16;
  for (int k = 0; k < cols; ++k) {
    if (a.kind == kBf16) {
      out[k] = from_bf16(reinterpret_cast<const uint16_t*>(a.weights)[block * 16 * a.cols + (k / 2) * 32 + n * 2 + k % 2]);
      continue;
    }
    const float scale = from_half(a.scales[(block * (a.cols / 32) + k / 32) * 16 + n]);
    if (a.kind == kInt8) {
      out[k] = scale * (a.weights[block * 16 * a.cols + (k / 4) * 64 + n * 4 + k % 4] - 128);
    } else {
      const uint8_t both = a.weights[block * 8 * a.cols + (k / 8) * 64 + n * 4 + k % 4];
      out[k] = scale * ((k % 8 < 4 ? both & 15 : both >> 4) - 8);
    }
  }
}

void normalise(const float* x, const float* weight, float eps, int n, float* out) {
  vf squares{};
  int i = 0;
  for (; i + W <= n; i += W) squares += load(x + i) * load(x + i);
  float total = sum(squares);
  for (; i < n; ++i) total += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(total / n + eps);
  for (i = 0; i + W <= n; i += W) store(out + i, load(x + i) * splat(factor) * load(weight + i));
  for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

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

template <int M>
void attend(const AttentionShape& shape, int blocks, const uint16_t* keys, const uint16_t* values, const int32_t* table, int kv,
            const uint16_t* q, const int* ends, float* out, AttentionScratch& s) {
  const int dim = shape.key_dim, wide = shape.value_dim;
  const size_t of_keys = (size_t)kBlock * dim, of_values = (size_t)kBlock * wide;
  keys += kv * blocks * of_keys;
  values += kv * blocks * of_values;
  int end = 0;
  for (int m = 0; m < M; ++m) {
    s.most[m] = -std::numeric_limits<float>::infinity();
    s.total[m] = 0;
    end = std::max(end, ends[m]);
    std::memset(out + m * wide, 0, wide * sizeof(float));
  }
  for (int start = 0; start < end; start += kSegment) {
    const int stop = std::min(end, start + kSegment), padded = (stop - start + kTile - 1) / kTile * kTile;
    for (int t = start; t < start + padded; t += kTile) {
      const uint16_t* k = keys + table[t / kBlock] * of_keys + (size_t)(t % kBlock) * dim;
      score_tile<M>(k, q, dim, &s.scores[0][t - start], kSegment);
    }
    float fade[M];
    for (int m = 0; m < M; ++m) {
      float* row = s.scores[m];
      const int seen = std::min(std::max(ends[m] - start, 0), padded);
      vf high = splat(s.most[m]);
      for (int t = 0; t < seen; t += W) {
        vf x = load(row + t, seen - t < W ? seen - t : W) * splat(shape.scale);
        if (seen - t < W)
          for (int i = seen - t; i < W; ++i) x[i] = -std::numeric_limits<float>::infinity();
        store(row + t, x);
        high = select(x > high, x, high);
      }
      float most = s.most[m];
      for (int i = 0; i < W; ++i) most = std::max(most, high[i]);
      fade[m] = s.total[m] > 0 ? std::exp(s.most[m] - most) : 0.0f;
      s.most[m] = most;
      vf total{};
      int t = 0;
      for (; t < seen; t += W) {
        const vf p = exp(load(row + t) - splat(most));
        total += p;
        store(reinterpret_cast<bf16*>(&s.weights[m][t]), p);
      }
      for (; t < padded; ++t) s.weights[m][t] = 0;
      s.total[m] = s.total[m] * fade[m] + sum(total);
    }
    for (int m = 0; m < M; ++m)
      if (fade[m] != 1.0f)
        for (int i = 0; i < wide; ++i) out[m * wide + i] *= fade[m];
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    for (int t = start; t < start + padded; t += kBlock) {
      const uint16_t* v = values + table[t / kBlock] * of_values;
      const uint16_t* p = &s.weights[0][t - start];
      const int pairs = std::min(kBlock, start + padded - t) / 2;
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

struct Buffers : Scratch {
  Buffer<float> x, normal, input, context, mixed, inner, rotation, decay, gate;
  Buffer<uint16_t> queries;
  RowBuffers wide, deep, heads, last, low_decay, low_gate;
};

// Buffers and pointers of one step; lives as long as a thread walks through it.
struct Step {
  std::shared_ptr<const ModelWeights> model;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<Scratch> scratch;
  StepArgs args;
  std::vector<Task> tasks[2];  // of full and of latent attention
  std::vector<Task> runs;      // of delta attention: all rows of one sequence, one head
  float *x, *normal, *input, *context, *mixed, *inner, *cosine, *decay, *gate;
  uint16_t* queries;
  Rows wide, deep, heads, last, low_decay, low_gate;
  bool apart = true;  // no two rows belong to one sequence, and a task has all queries of its key head
};

const LayerWeights* layer_with(const ModelWeights& model, Mixer mixer) {
  for (const LayerWeights& layer : model.layers)
    if (layer.mixer == mixer) return &layer;
  return nullptr;
}

void plan_attention(Step& step) {
  const auto& sequences = step.args.sequences;
  const int rows = step.args.rows;
  for (int row = 1; row < rows; ++row)
    if (sequences[row] == sequences[row - 1]) step.apart = false;
  const LayerWeights* full = layer_with(*step.model, kFull);
  if (full && full->attention.heads / full->attention.kv_heads > kQueries) step.apart = false;
  for (const Mixer mixer : {kFull, kLatent}) {
    const LayerWeights* layer = layer_with(*step.model, mixer);
    if (!layer) continue;
    const AttentionShape& shape = layer->attention;
    const int shared = shape.heads / shape.kv_heads, heads = std::min(shared, kQueries);
    const int tile = std::max(1, kQueries / shared);
    for (int row = 0; row < rows;) {
      int end = row + 1;
      while (end < rows && end - row < tile && sequences[end] == sequences[row]) ++end;
      for (int kv = 0; kv < shape.kv_heads; ++kv)
        for (int head = 0; head < shared; head += heads)
          step.tasks[mixer].push_back({row, end - row, kv, kv * shared + head, std::min(heads, shared - head)});
      row = end;
    }
  }
  if (const LayerWeights* layer = layer_with(*step.model, kDelta))
    for (int row = 0; row < rows;) {
      int end = row + 1;
      while (end < rows && sequences[end] == sequences[row]) ++end;
      for (int head = 0; head < layer->delta.heads; ++head) step.runs.push_back({row, end - row, 0, head, 1});
      row = end;
    }
}

// One token's key and value of one key head into the cache.
void keep(const Step& step, const AttentionShape& shape, int number, int row, int kv, const float* key, const float* value) {
  const int position = step.args.positions[row], inside = position % kBlock;
  const int block = step.args.tables[(size_t)step.args.sequences[row] * step.args.table_width + position / kBlock];
  const size_t place = ((size_t)kv * step.cache->blocks + block) * kBlock;
  uint16_t* k = step.cache->keys[number] + (place + inside / kTile * kTile) * shape.key_dim + (inside % kTile) * 2;
  uint16_t* v = step.cache->values[number] + (place + inside / 2 * 2) * shape.value_dim + inside % 2;
  for (int i = 0; i < shape.key_dim; i += 2) {
    k[i * kTile] = to_bf16(key[i]);
    k[i * kTile + 1] = to_bf16(key[i + 1]);
  }
  for (int i = 0; i < shape.value_dim; ++i) v[i * 2] = to_bf16(value[i]);
}

// Normalises and turns a key head of a row and the queries that share it; key and value go into the cache.
void place_head(const Step& step, const LayerWeights& layer, int number, int row, int kv) {
  const ModelWeights& model = *step.model;
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim, half = model.rotary / 2, heads = shape.heads, shared = heads / shape.kv_heads;
  float* input = step.input + (size_t)row * layer.input.rows;
  const float *cosine = step.cosine + (size_t)row * 2 * half, *sine = cosine + half;
  const auto turn = [&](int head, const float* weight) {
    float* p = input + head * dim;
    if (weight) normalise(p, weight, model.eps, dim, p);
    for (int i = 0; i < half; ++i) {
      const float a = p[i], b = p[i + half];
      p[i] = a * cosine[i] - b * sine[i];
      p[i + half] = b * cosine[i] + a * sine[i];
    }
    return p;
  };
  for (int head = kv * shared; head < (kv + 1) * shared; ++head) {
    const float* p = turn(head, layer.q_norm);
    uint16_t* q = step.queries + ((size_t)row * heads + head) * dim;
    for (int i = 0; i < dim; ++i) q[i] = to_bf16(p[i]);
  }
  keep(step, shape, number, row, kv, turn(heads + kv, layer.k_norm), input + (heads + shape.kv_heads + kv) * dim);
}

// Latent attention: the up-projection of keys goes into the query, so that all heads look at one latent.
void place_latent(const Step& step, const LayerWeights& layer, int number, int row) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  const int latent = shape.value_dim, own = w.nope + w.shared;
  float* input = step.input + (size_t)row * layer.input.rows;
  float* compressed = input + shape.heads * own;
  normalise(compressed, w.norm, 1e-6f, latent, compressed);
  keep(step, shape, number, row, 0, compressed, compressed);
  static thread_local std::vector<float> query;
  query.resize(shape.key_dim);
  for (int head = 0; head < shape.heads; ++head) {
    const float *q = input + head * own, *up = w.to_key + (size_t)head * w.nope * latent;
    std::fill(query.begin(), query.begin() + latent, 0.0f);
    for (int i = 0; i < w.nope; ++i)
      for (int l = 0; l < latent; l += W) store(&query[l], load(&query[l]) + splat(q[i]) * load(up + (size_t)i * latent + l));
    std::memcpy(&query[latent], q + w.nope, w.shared * sizeof(float));
    uint16_t* to = step.queries + ((size_t)row * shape.heads + head) * shape.key_dim;
    for (int i = 0; i < shape.key_dim; ++i) to[i] = to_bf16(query[i]);
  }
}

void latent_values(const Step& step, const LayerWeights& layer, int row, int head) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  const int latent = shape.value_dim;
  const float* context = step.context + ((size_t)row * shape.heads + head) * latent;
  const float* up = w.to_value + (size_t)head * w.value * latent;
  float* to = step.mixed + (size_t)row * layer.output.cols + head * w.value;
  for (int i = 0; i < w.value; ++i) {
    vf total{};
    for (int l = 0; l < latent; l += W) total += load(context + l) * load(up + (size_t)i * latent + l);
    to[i] = sum(total);
  }
}

inline vf log1p_exp(vf x) {  // softplus: max(x, 0) + log(1 + exp(-|x|))
  const vf size = select(x < vf{}, -x, x), positive = select(x < vf{}, vf{}, x);
  return positive + log1p(exp(-size));
}

// Delta attention of one head over the rows of one sequence, token by token: convolution, decay, error, write, read, gated norm.
void run_delta(const Step& step, const LayerWeights& layer, int number, const Task& task) {
  const DeltaWeights& w = layer.delta;
  const int width = w.width, inner = w.heads * width, head = task.head, kept = w.taps - 1;
  const int slot = step.args.slots[step.args.sequences[task.row]];
  float* state = step.cache->states[number] + ((size_t)slot * w.heads + head) * width * width;
  float* tails = step.cache->tails[number] + (size_t)slot * 3 * inner * kept;
  static thread_local std::vector<float> space;
  space.resize(7 * width);
  float *q = space.data(), *k = q + width, *v = k + width, *decay = v + width, *read = decay + width, *error = read + width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for (int row = task.row; row < task.row + task.rows; ++row) {
    const bool fresh = step.args.positions[row] == 0;
    if (fresh) std::memset(state, 0, (size_t)width * width * sizeof(float));
    const float* input = step.input + (size_t)row * layer.input.rows;
    for (int part = 0; part < 3; ++part) {
      const int first = part * inner + head * width;
      float* to = q + part * width;
      for (int i = 0; i < width; ++i) {
        float* tail = tails + (size_t)(first + i) * kept;
        if (fresh) std::memset(tail, 0, kept * sizeof(float));
        const float* taps = w.convolution + (size_t)(first + i) * w.taps;
        const float x = input[first + i];
        float total = x * taps[kept];
        for (int t = 0; t < kept; ++t) total += tail[t] * taps[t];
        for (int t = 0; t + 1 < kept; ++t) tail[t] = tail[t + 1];
        if (kept) tail[kept - 1] = x;
        to[i] = total;
      }
      vf squares{};
      for (int i = 0; i < width; i += W) {
        const vf x = load(to + i), y = x * sigmoid(x);
        store(to + i, y);
        squares += y * y;
      }
      if (part == 2) continue;
      const float factor = (part == 0 ? scale : 1.0f) / std::sqrt(sum(squares) + 1e-6f);
      for (int i = 0; i < width; i += W) store(to + i, load(to + i) * splat(factor));
    }
    const float *raw = step.decay + (size_t)row * layer.delta.decay.rows + head * width, rate = w.rate[head];
    const float beta = sigmoid(splat(input[3 * inner + 2 * width + head]))[0];
    for (int i = 0; i < width; i += W) {
      const vf x = load(raw + i) + load(w.bias + head * width + i);
      const vf log_decay = w.lower_bound < 0 ? splat(w.lower_bound) * sigmoid(splat(rate) * x) : splat(-rate) * log1p_exp(x);
      store(decay + i, exp(log_decay));
      store(read + i, vf{});
    }
    for (int i = 0; i < width; ++i) {
      float* s = state + (size_t)i * width;
      for (int j = 0; j < width; j += W) {
        const vf y = load(s + j) * splat(decay[i]);
        store(s + j, y);
        store(read + j, load(read + j) + splat(k[i]) * y);
      }
    }
    for (int j = 0; j < width; j += W) {
      store(error + j, splat(beta) * (load(v + j) - load(read + j)));
      store(read + j, vf{});
    }
    for (int i = 0; i < width; ++i) {
      float* s = state + (size_t)i * width;
      for (int j = 0; j < width; j += W) {
        const vf y = load(s + j) + splat(k[i]) * load(error + j);
        store(s + j, y);
        store(read + j, load(read + j) + splat(q[i]) * y);
      }
    }
    float* to = step.mixed + (size_t)row * layer.output.cols + head * width;
    const float* gate = step.gate + (size_t)row * layer.delta.gate.rows + head * width;
    normalise(read, w.norm, step.model->eps, width, to);
    for (int j = 0; j < width; j += W) store(to + j, load(to + j) * sigmoid(load(gate + j)));
  }
}

void run_task(const Step& step, const LayerWeights& layer, int number, const Task& task, float* to) {
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim, wide = shape.value_dim;
  static thread_local AttentionScratch scratch;
  static thread_local std::vector<uint16_t> q;
  static thread_local std::vector<float> out;
  q.resize((size_t)kQueries * dim + 32);
  out.resize((size_t)kQueries * wide);
  int ends[kQueries], count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count) {
      const size_t from = ((size_t)(task.row + r) * shape.heads + task.head + h) * dim;
      std::memcpy(q.data() + (size_t)count * dim, step.queries + from, dim * sizeof(uint16_t));
      ends[count] = step.args.positions[task.row + r] + 1;
    }
  const uint16_t *keys = step.cache->keys[number], *values = step.cache->values[number];
  const int32_t* table = step.args.tables.data() + (size_t)step.args.sequences[task.row] * step.args.table_width;
  int done = 0;
  const auto some = [&](auto size) {
    constexpr int M = decltype(size)::value;
    for (; done + M <= count; done += M)
      attend<M>(shape, step.cache->blocks, keys, values, table, task.kv, q.data() + (size_t)done * dim, ends + done,
                out.data() + (size_t)done * wide, scratch);
  };
  some(std::integral_constant<int, 8>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
  count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count)
      std::memcpy(to + ((size_t)(task.row + r) * shape.heads + task.head + h) * wide, out.data() + (size_t)count * wide,
                  wide * sizeof(float));
}

// silu(gate) * up of some pairs of blocks.
void gate_and_up(const Step& step, const Matrix& a, int first, int last, const Rows& x) {
  alignas(64) float out[2][8][16];
  in_tiles(first, last, step.args.rows, [&](int block, int row, auto tall, auto wide) {
    blocks_product<tall(), wide()>(a, block, x, row, out);
    for (int m = 0; m < tall(); ++m) {
      float* y = step.inner + (size_t)(row + m) * step.deep.cols + block / 2 * 16;
      for (int n = 0; n < 16; n += W) {
        const vf gate = load(out[0][m] + n);
        store(y + n, gate * sigmoid(gate) * load(out[1][m] + n));
      }
    }
  });
}

constexpr int kFew = 2;

void walk_through(const Step& step, Crew::Walk& walk, int threads) {
  const ModelWeights& model = *step.model;
  const StepArgs& args = step.args;
  const int rows = args.rows, hidden = model.hidden;
  const int width = step.wide.cols;
  if (!walk.loop(rows, [&](int row) {
        unpack_row(model.embedding, args.ids[row], hidden, step.x + (size_t)row * width);
        float* cosine = step.cosine + (size_t)row * model.rotary;
        for (int i = 0; i < model.rotary / 2; ++i) {
          const float angle = static_cast<float>(args.positions[row]) * model.frequencies[i];
          cosine[i] = std::cos(angle) * model.rope_factor;
          cosine[i + model.rotary / 2] = std::sin(angle) * model.rope_factor;
        }
      })) return;
  // Rows made ready for a product: by all threads together, or, where they are few, by each thread for itself as it needs them,
  // which costs less than to wait for one another.
  const auto ready = [&](const Rows& together, RowBuffers& own, int count, Kind kind, const auto& source, const auto& use) {
    if (count > kFew) {
      return walk.loop(count, [&](int row) { round_row(source(row, nullptr), row, kind, together); }) && use([&]() -> const Rows& { return together; });
    }
    Rows mine;
    bool made = false;
    return use([&]() -> const Rows& {
      if (!made) {
        mine = own.make(kFew, together.cols);
        float* space = own.space.at_least(together.cols);
        for (int row = 0; row < count; ++row) round_row(source(row, space), row, kind, mine);
        made = true;
      }
      return mine;
    });
  };
  static thread_local RowBuffers own_wide, own_heads, own_deep, own_low;
  const auto normal_of = [&](const float* weight) {
    return [&step, &model, weight, width, hidden](int row, float* space) -> const float* {
      float* to = space ? space : step.normal + (size_t)row * width;
      normalise(step.x + (size_t)row * width, weight, model.eps, hidden, to);
      std::fill(to + hidden, to + width, 0.0f);
      return to;
    };
  };
  const auto product_to_x = [&](const Matrix& a, const auto& get) {
    return multiply(walk, threads, a, rows, get, [&](int block, int row, float (*out)[16], int count) {
      for (int m = 0; m < count; ++m) {
        float* x = step.x + (size_t)(row + m) * width + block * 16;
        for (int n = 0; n < 16; ++n) x[n] += out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
      }
    });
  };
  for (size_t number = 0; number < model.layers.size(); ++number) {
    const LayerWeights& layer = model.layers[number];
    const auto product_to = [&](const Matrix& a, float* to, const auto& get) {
      return multiply(walk, threads, a, rows, get, [&a, to](int block, int row, float (*out)[16], int count) {
        for (int m = 0; m < count; ++m) {
          float* y = to + (size_t)(row + m) * a.rows + block * 16;
          for (int n = 0; n < 16; ++n) y[n] = out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
        }
      });
    };
    if (!ready(step.wide, own_wide, rows, layer.input.kind, normal_of(layer.attention_norm), [&](const auto& get) {
          return product_to(layer.input, step.input, get);
        })) return;
    if (layer.mixer == kFull) {
      if (!step.apart && !walk.loop(rows, [&](int row) {
            for (int kv = 0; kv < layer.attention.kv_heads; ++kv) place_head(step, layer, (int)number, row, kv);
          })) return;
      const auto& tasks = step.tasks[kFull];
      if (!walk.loop((int)tasks.size(), [&](int item) {
            const Task& task = tasks[item];
            if (step.apart) place_head(step, layer, (int)number, task.row, task.kv);
            run_task(step, layer, (int)number, task, step.mixed);
          })) return;
    } else if (layer.mixer == kLatent) {
      if (!walk.loop(rows, [&](int row) { place_latent(step, layer, (int)number, row); })) return;
      const auto& tasks = step.tasks[kLatent];
      if (!walk.loop((int)tasks.size(), [&](int item) {
            const Task& task = tasks[item];
            run_task(step, layer, (int)number, task, step.context);
            for (int row = task.row; row < task.row + task.rows; ++row)
              for (int head = task.head; head < task.head + task.count; ++head) latent_values(step, layer, row, head);
          })) return;
    } else {
      const DeltaWeights& delta = layer.delta;
      const auto low = [&](int part) {
        return [&step, &layer, &delta, part](int row, float* space) -> const float* {
          static thread_local Buffer<float> together;
          float* to = space ? space : together.at_least(delta.decay.cols);
          const float* from = step.input + (size_t)row * layer.input.rows + 3 * delta.heads * delta.width + part * delta.width;
          std::memcpy(to, from, delta.width * sizeof(float));
          std::fill(to + delta.width, to + delta.decay.cols, 0.0f);
          return to;
        };
      };
      if (!ready(step.low_decay, own_low, rows, delta.decay.kind, low(0), [&](const auto& get) { return product_to(delta.decay, step.decay, get); })) return;
      if (!ready(step.low_gate, own_low, rows, delta.gate.kind, low(1), [&](const auto& get) { return product_to(delta.gate, step.gate, get); })) return;
      if (!walk.loop((int)step.runs.size(), [&](int item) { run_delta(step, layer, (int)number, step.runs[item]); })) return;
    }
    const auto mixed_row = [&](int row, float*) -> const float* { return step.mixed + (size_t)row * layer.output.cols; };
    Rows heads = step.heads;
    heads.cols = layer.output.cols;
    if (!ready(heads, own_heads, rows, layer.output.kind, mixed_row, [&](const auto& get) { return product_to_x(layer.output, get); })) return;
    if (!ready(step.wide, own_wide, rows, layer.gate_up.kind, normal_of(layer.mlp_norm), [&](const auto& get) {
          const int blocks = layer.gate_up.rows / 16, each = blocks_each(blocks, threads);
          return walk.loop((blocks + each - 1) / each, [&](int item) {
            gate_and_up(step, layer.gate_up, item * each, std::min(blocks, (item + 1) * each), get());
          });
        })) return;
    const auto inner_row = [&](int row, float*) -> const float* { return step.inner + (size_t)row * step.deep.cols; };
    if (!ready(step.deep, own_deep, rows, layer.down.kind, inner_row, [&](const auto& get) { return product_to_x(layer.down, get); })) return;
  }
  if (args.wanted == 0) return;
  const auto last_row = [&](int i, float* space) -> const float* {
    float* to = space ? space : step.normal + (size_t)i * width;
    normalise(step.x + (size_t)args.wanted_rows[i] * width, model.final_norm, model.eps, hidden, to);
    std::fill(to + hidden, to + width, 0.0f);
    return to;
  };
  ready(step.last, own_wide, args.wanted, model.head.kind, last_row, [&](const auto& get) {
    return multiply(walk, threads, model.head, args.wanted, get, [&](int block, int row, float (*out)[16], int count) {
      const int left = std::min(16, model.vocabulary - block * 16);
      for (int m = 0; m < count && left > 0; ++m)
        std::memcpy(args.logits + (size_t)(row + m) * model.vocabulary + block * 16, out[m], left * sizeof(float));
    });
  });
}

std::shared_ptr<Scratch> new_scratch() { return std::make_shared<Buffers>(); }

void run_step(const std::shared_ptr<const ModelWeights>& model, const std::shared_ptr<Cache>& cache,
              const std::shared_ptr<Scratch>& scratch, StepArgs args, Crew& crew) {
  auto& buffers = static_cast<Buffers&>(*scratch);
  auto step = std::make_shared<Step>();
  step->model = model;
  step->cache = cache;
  step->scratch = scratch;
  const int rows = args.rows;
  const LayerWeights& first = model->layers.front();
  const int width = first.input.cols;
  int input = 0, mixed = 0, context = 0, queries = 0, low = 32, channels = 16;
  for (const LayerWeights& layer : model->layers) {
    input = std::max(input, layer.input.rows);
    mixed = std::max(mixed, layer.output.cols);
    context = std::max(context, layer.attention.heads * layer.attention.value_dim);
    queries = std::max(queries, layer.attention.heads * layer.attention.key_dim);
    low = std::max(low, layer.delta.decay.cols);
    channels = std::max(channels, layer.delta.decay.rows);
  }
  step->wide = buffers.wide.make(rows, width);
  step->heads = buffers.heads.make(rows, mixed);
  step->deep = buffers.deep.make(rows, first.down.cols);
  step->last = buffers.last.make(std::max(1, args.wanted), width);
  step->low_decay = buffers.low_decay.make(rows, low);
  step->low_gate = buffers.low_gate.make(rows, low);
  step->x = buffers.x.at_least((size_t)rows * width);
  step->normal = buffers.normal.at_least((size_t)std::max(rows, args.wanted) * width);
  step->input = buffers.input.at_least((size_t)rows * input);
  step->context = buffers.context.at_least((size_t)rows * context);
  step->mixed = buffers.mixed.at_least((size_t)rows * mixed);
  step->inner = buffers.inner.at_least((size_t)rows * first.down.cols);
  step->cosine = buffers.rotation.at_least((size_t)rows * std::max(2, model->rotary));
  step->decay = buffers.decay.at_least((size_t)rows * channels);
  step->gate = buffers.gate.at_least((size_t)rows * channels);
  step->queries = buffers.queries.at_least((size_t)rows * queries);
  step->args = std::move(args);
  plan_attention(*step);
  const int threads = crew.threads();
  crew.run(4 + 16 * (int)model->layers.size(), [step, threads](Crew::Walk& walk) { walk_through(*step, walk, threads); });
}

// y [rows, a.rows] = x [rows, a.cols] times the matrix, rounded as a step rounds them.
void product(const Matrix& a, const float* x, int rows, float* y, Crew& crew) {
  auto buffers = std::make_shared<RowBuffers>();
  const Rows rounded = buffers->make(rows, a.cols);
  const int threads = crew.threads();
  crew.run(2, [=](Crew::Walk& walk) {
    if (!walk.loop(rows, [&](int row) { round_row(x + (size_t)row * a.cols, row, a.kind, rounded); })) return;
    multiply(walk, threads, a, rows, [&]() -> const Rows& { return rounded; }, [&](int block, int row, float (*out)[16], int count) {
      for (int m = 0; m < count; ++m) {
        float* to = y + (size_t)(row + m) * a.rows + block * 16;
        for (int n = 0; n < 16; ++n) to[n] = out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
      }
    });
    (void)buffers;
  });
}

// Groups of 32 numbers to four bits: of several scales the one with the least squared error (kernels/formats.py).
void quantise_four(const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, Crew& crew) {
  constexpr size_t kEach = 2048;
  const int items = static_cast<int>((groups + kEach - 1) / kEach);
  crew.run(1, [=](Crew::Walk& walk) {
    walk.loop(items, [&](int item) {
      for (size_t g = item * kEach; g < std::min(groups, (item + 1) * kEach); ++g) {
        const float* x = w + g * 32;
        float largest = 0;
        for (int i = 0; i < 32; ++i)
          if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
        float least = std::numeric_limits<float>::infinity();
        const vf magic = splat(12582912.0f);
        for (int step = 0; step < tries; ++step) {
          const uint16_t half = to_half(largest / (-6.4f - 0.2f * step));
          const float scale = from_half(half), inverse = scale == 0 ? 0.0f : 1.0f / scale;
          vf error{}, kept[32 / W];
          for (int i = 0; i < 32; i += W) {
            vf n = (load(x + i) * splat(inverse) + magic) - magic;
            n = select(n < splat(-8.0f), splat(-8.0f), select(n > splat(7.0f), splat(7.0f), n));
            const vf off = load(x + i) - n * splat(scale);
            error += off * off;
            kept[i / W] = n;
          }
          const float total = sum(error);
          if (total >= least) continue;
          least = total;
          scales[g] = half;
          for (int i = 0; i < 32; ++i) q[g * 32 + i] = static_cast<int8_t>(kept[i / W][i % W]);
        }
      }
    });
  });
}
}  // namespace HANOK_ISA

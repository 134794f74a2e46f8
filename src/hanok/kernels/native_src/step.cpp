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
template <int M, int B>
inline void blocks_int(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  const bool four_bits = a.kind == kInt4;
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
    __m512i sum[B][M];
    for (int m = 0; m < M; ++m) {
      const __m512i start = four(sums + (size_t)m * groups + g);
      for (int b = 0; b < B; ++b) sum[b][m] = start;
    }
    for (int j = 0; j < 4; ++j) {
      __m512i l[B], h[B];
      for (int b = 0; b < B; ++b) {
        if (four_bits) {
          const uint8_t* from = w + b * bytes + (g * 4 + j) * 64;
          const __m512i v = _mm512_load_si512(from);
          if (row == 0) ahead(from);
          l[b] = _mm512_and_si512(v, low);
          h[b] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        } else {
          const uint8_t* from = w + b * bytes + (g * 4 + j) * 128;
          l[b] = _mm512_load_si512(from);
          h[b] = _mm512_load_si512(from + 64);
          if (row == 0) ahead(from), ahead(from + 64);
        }
      }
      for (int m = 0; m < M; ++m) {
        const int8_t* p = q + (size_t)m * cols + g * 32 + j * 8;
        const __m512i first = four(p), second = four(p + 4);
        for (int b = 0; b < B; ++b) {
          sum[b][m] = _mm512_dpbusd_epi32(sum[b][m], l[b], first);
          sum[b][m] = _mm512_dpbusd_epi32(sum[b][m], h[b], second);
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      const uint16_t* at = s + ((size_t)b * groups + g) * 16;
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      for (int m = 0; m < M; ++m) total[b][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[b][m]), scale, total[b][m]);
    }
  }
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) _mm512_storeu_ps(out[b][m], _mm512_mul_ps(total[b][m], _mm512_set1_ps(x.scale[row + m])));
}

template <int M, int B>
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
      if (row == 0) ahead(from), ahead(from + 64);
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

template <int M, int B>
inline void blocks_product(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[8][16]) {
  if (a.kind == kBf16) {
    blocks_bf16<M, B>(a, block, x, row, out);
  } else if (M * B <= 8) {
    blocks_int<M, B>(a, block, x, row, out);
  } else {  // sums and totals would not fit into the registers
    for (int b = 0; b < B; ++b) blocks_int<M, 1>(a, block + b, x, row, out + b);
  }
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
void attend(const ModelWeights& model, int blocks, const uint16_t* keys, const uint16_t* values, const int32_t* table, int kv,
            const uint16_t* q, const int* ends, float* out, AttentionScratch& s) {
  const int dim = model.head_dim;
  const size_t of_block = (size_t)kBlock * dim, of_head = (size_t)blocks * of_block;
  int end = 0;
  for (int m = 0; m < M; ++m) {
    s.most[m] = -std::numeric_limits<float>::infinity();
    s.total[m] = 0;
    end = std::max(end, ends[m]);
    std::memset(out + m * dim, 0, dim * sizeof(float));
  }
  for (int start = 0; start < end; start += kSegment) {
    const int stop = std::min(end, start + kSegment), padded = (stop - start + kTile - 1) / kTile * kTile;
    for (int t = start; t < start + padded; t += kTile) {
      const uint16_t* k = keys + table[t / kBlock] * of_block + kv * of_head + (size_t)(t % kBlock) * dim;
      score_tile<M>(k, q, dim, &s.scores[0][t - start], kSegment);
    }
    float fade[M];
    for (int m = 0; m < M; ++m) {
      float* row = s.scores[m];
      const int seen = std::min(std::max(ends[m] - start, 0), padded);
      vf high = splat(s.most[m]);
      for (int t = 0; t < seen; t += W) {
        vf x = load(row + t, seen - t < W ? seen - t : W) * splat(model.scale);
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
        for (int i = 0; i < dim; ++i) out[m * dim + i] *= fade[m];
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    for (int t = start; t < start + padded; t += kBlock) {
      const uint16_t* v = values + table[t / kBlock] * of_block + kv * of_head;
      const uint16_t* p = &s.weights[0][t - start];
      const int pairs = std::min(kBlock, start + padded - t) / 2;
      int d = 0;
      for (; d + 16 * kWide <= dim; d += 16 * kWide) value_tile<M, kWide>(v + d * 2, 2 * dim, p, kSegment, pairs, out + d, dim);
      for (; d < dim; d += 16) value_tile<M, 1>(v + d * 2, 2 * dim, p, kSegment, pairs, out + d, dim);
    }
  }
  for (int m = 0; m < M; ++m) {
    const float inverse = 1.0f / s.total[m];
    for (int d = 0; d < dim; ++d) out[m * dim + d] *= inverse;
  }
}

struct Buffers : Scratch {
  Buffer<float> x, normal, qkv, mixed, inner, rotation;
  Buffer<uint16_t> queries;
  RowBuffers wide, deep, heads, last;
};

// Buffers and pointers of one step; lives as long as a thread walks through it.
struct Step {
  std::shared_ptr<const ModelWeights> model;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<Scratch> scratch;
  StepArgs args;
  std::vector<Task> tasks;
  float *x, *normal, *qkv, *mixed, *inner, *cosine;
  uint16_t* queries;
  Rows wide, deep, heads, last;
  bool apart = true;  // no two rows belong to one sequence
};

void plan_attention(Step& step) {
  const ModelWeights& model = *step.model;
  const auto& sequences = step.args.sequences;
  const int shared = model.heads / model.kv_heads, heads = std::min(shared, kQueries);
  const int tile = std::max(1, kQueries / shared);
  step.apart = shared <= kQueries;  // a task then has all queries of its key head
  for (int row = 0; row < step.args.rows;) {
    int end = row + 1;
    while (end < step.args.rows && end - row < tile && sequences[end] == sequences[row]) ++end;
    if (row && sequences[row] == sequences[row - 1]) step.apart = false;
    if (end - row > 1) step.apart = false;
    for (int kv = 0; kv < model.kv_heads; ++kv)
      for (int head = 0; head < shared; head += heads)
        step.tasks.push_back({row, end - row, kv, kv * shared + head, std::min(heads, shared - head)});
    row = end;
  }
}

// Normalises and turns a key head of a row and the queries that share it; key and value go into the cache.
void place_head(const Step& step, const LayerWeights& layer, int number, int row, int kv) {
  const ModelWeights& model = *step.model;
  const int dim = model.head_dim, half = model.rotary / 2, position = step.args.positions[row];
  const int heads = model.heads, kv_heads = model.kv_heads, shared = heads / kv_heads;
  float* qkv = step.qkv + (size_t)row * layer.qkv.rows;
  const float *cosine = step.cosine + (size_t)row * 2 * half, *sine = cosine + half;
  const auto turn = [&](int head, const float* weight) {
    float* p = qkv + head * dim;
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
  const float *key = turn(heads + kv, layer.k_norm), *value = qkv + (heads + kv_heads + kv) * dim;
  const int block = step.args.tables[(size_t)step.args.sequences[row] * step.args.table_width + position / kBlock];
  const int inside = position % kBlock;
  const size_t place = ((size_t)kv * step.cache->blocks + block) * kBlock * dim;
  uint16_t* k = step.cache->keys[number] + place + (size_t)(inside / kTile) * kTile * dim + (inside % kTile) * 2;
  uint16_t* v = step.cache->values[number] + place + (size_t)(inside / 2) * 2 * dim + inside % 2;
  for (int i = 0; i < dim; i += 2) {
    k[i * kTile] = to_bf16(key[i]);
    k[i * kTile + 1] = to_bf16(key[i + 1]);
  }
  for (int i = 0; i < dim; ++i) v[i * 2] = to_bf16(value[i]);
}

void run_task(const Step& step, int number, const Task& task) {
  const ModelWeights& model = *step.model;
  const int dim = model.head_dim;
  static thread_local AttentionScratch scratch;
  static thread_local std::vector<uint16_t> q;
  static thread_local std::vector<float> out;
  q.resize((size_t)kQueries * dim + 32);
  out.resize((size_t)kQueries * dim);
  int ends[kQueries], count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count) {
      const size_t from = ((size_t)(task.row + r) * model.heads + task.head + h) * dim;
      std::memcpy(q.data() + (size_t)count * dim, step.queries + from, dim * sizeof(uint16_t));
      ends[count] = step.args.positions[task.row + r] + 1;
    }
  const uint16_t *keys = step.cache->keys[number], *values = step.cache->values[number];
  const int32_t* table = step.args.tables.data() + (size_t)step.args.sequences[task.row] * step.args.table_width;
  int done = 0;
  const auto some = [&](auto size) {
    constexpr int M = decltype(size)::value;
    for (; done + M <= count; done += M)
      attend<M>(model, step.cache->blocks, keys, values, table, task.kv, q.data() + (size_t)done * dim, ends + done, out.data() + (size_t)done * dim, scratch);
  };
  some(std::integral_constant<int, 8>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
  count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count)
      std::memcpy(step.mixed + ((size_t)(task.row + r) * model.heads + task.head + h) * dim, out.data() + (size_t)count * dim,
                  dim * sizeof(float));
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
  static thread_local RowBuffers own_wide, own_heads, own_deep;
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
    if (!ready(step.wide, own_wide, rows, layer.qkv.kind, normal_of(layer.attention_norm), [&](const auto& get) {
          return multiply(walk, threads, layer.qkv, rows, get, [&](int block, int row, float (*out)[16], int count) {
            for (int m = 0; m < count; ++m) {
              float* y = step.qkv + (size_t)(row + m) * layer.qkv.rows + block * 16;
              for (int n = 0; n < 16; ++n) y[n] = out[m][n] + (layer.qkv.bias ? layer.qkv.bias[block * 16 + n] : 0.0f);
            }
          });
        })) return;
    if (!step.apart && !walk.loop(rows, [&](int row) {
          for (int kv = 0; kv < model.kv_heads; ++kv) place_head(step, layer, (int)number, row, kv);
        })) return;
    if (!walk.loop((int)step.tasks.size(), [&](int item) {
          const Task& task = step.tasks[item];
          if (step.apart && task.head == task.kv * (model.heads / model.kv_heads)) place_head(step, layer, (int)number, task.row, task.kv);
          run_task(step, (int)number, task);
        })) return;
    const auto mixed_row = [&](int row, float*) -> const float* { return step.mixed + (size_t)row * step.heads.cols; };
    if (!ready(step.heads, own_heads, rows, layer.output.kind, mixed_row, [&](const auto& get) { return product_to_x(layer.output, get); })) return;
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
  const int width = first.qkv.cols, mixed = model->heads * model->head_dim;
  step->wide = buffers.wide.make(rows, width);
  step->heads = buffers.heads.make(rows, first.output.cols);
  step->deep = buffers.deep.make(rows, first.down.cols);
  step->last = buffers.last.make(std::max(1, args.wanted), width);
  step->x = buffers.x.at_least((size_t)rows * width);
  step->normal = buffers.normal.at_least((size_t)std::max(rows, args.wanted) * width);
  step->qkv = buffers.qkv.at_least((size_t)rows * first.qkv.rows);
  step->mixed = buffers.mixed.at_least((size_t)rows * mixed);
  step->inner = buffers.inner.at_least((size_t)rows * first.down.cols);
  step->cosine = buffers.rotation.at_least((size_t)rows * std::max(2, model->rotary));
  step->queries = buffers.queries.at_least((size_t)rows * mixed);
  step->args = std::move(args);
  plan_attention(*step);
  const int threads = crew.threads();
  crew.run(4 + 10 * (int)model->layers.size(), [step, threads](Crew::Walk& walk) { walk_through(*step, walk, threads); });
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

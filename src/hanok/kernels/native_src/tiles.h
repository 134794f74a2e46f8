// Tiles of attention, keys and values of 16 tokens by some queries, for each instruction set; of caches in bfloat16, and in int8.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

#if HANOK_VNNI
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

// 32 integers, of a cache of 8 bits or widened, as 16 bits.
inline __m512i shorts(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline __m512i shorts(const int16_t* p) { return _mm512_loadu_si512(p); }

// Scores in integers: exact where dim * 127 * the largest of q fits into 31 bits.
template <int M>
inline void score_tile(const int8_t* keys, const int16_t* q, int dim, float* out, size_t pitch) {
  __m512i even[M], odd[M];
  for (int m = 0; m < M; ++m) even[m] = odd[m] = _mm512_setzero_si512();
  for (int k = 0; k < dim; k += 4, keys += 64) {
    const __m512i v = shorts(keys), u = shorts(keys + 32);
    ahead(reinterpret_cast<const uint8_t*>(keys));
    for (int m = 0; m < M; ++m) {
      even[m] = _mm512_dpwssd_epi32(even[m], v, four(q + m * dim + k));
      odd[m] = _mm512_dpwssd_epi32(odd[m], u, four(q + m * dim + k + 2));
    }
  }
  for (int m = 0; m < M; ++m) _mm512_storeu_ps(out + m * pitch, _mm512_cvtepi32_ps(_mm512_add_epi32(even[m], odd[m])));
}

// As below, of integers: sums over a block of the cache are exact, and count `units[m]`.
template <int M, int V, class Value>
inline void value_tile(const Value* values, size_t stride, const int16_t* p, size_t pitch, int pairs, const float* units, float* out,
                       int dim) {
  __m512i y[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) y[m][v] = _mm512_setzero_si512();
  for (int t = 0; t < pairs; ++t, values += stride) {
    __m512i x[V];
    for (int v = 0; v < V; ++v) x[v] = shorts(values + v * 32);
    for (size_t byte = 0; byte < V * 32 * sizeof(Value); byte += 64)
      _mm_prefetch(reinterpret_cast<const char*>(values + 12 * stride) + byte, _MM_HINT_T0);
    for (int m = 0; m < M; ++m) {
      const __m512i w = four(p + m * pitch + 2 * t);
      for (int v = 0; v < V; ++v) y[m][v] = _mm512_dpwssd_epi32(y[m][v], x[v], w);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) {
      float* to = out + m * dim + v * 16;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(y[m][v]), _mm512_set1_ps(units[m]), _mm512_loadu_ps(to)));
    }
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
// The first `wide` channels of a tile of 16 keys as `value_tile` reads them: 16 x 32 bits of them turn at a time.
inline void turn_tile(const uint16_t* keys, int wide, uint16_t* to) {
  const __m512i pairs = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100);  // [t0 d0, t0 d1, t1 d0, t1 d1] to [t0 d0, t1 d0, ...]
  for (int d = 0; d < wide; d += 16, keys += 8 * 32, to += 32) {
    __m512i x[8], y[8];
    for (int i = 0; i < 8; ++i) x[i] = _mm512_shuffle_epi8(_mm512_load_si512(keys + i * 32), pairs);
    for (int i = 0; i < 4; ++i) {
      y[i] = _mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]);
      y[4 + i] = _mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]);
    }
    for (int odd = 0; odd < 2; ++odd) {
      const __m512i *z = y + 4 * odd;
      const __m512i a = _mm512_shuffle_i64x2(z[0], z[1], 0x88), b = _mm512_shuffle_i64x2(z[0], z[1], 0xdd);
      const __m512i c = _mm512_shuffle_i64x2(z[2], z[3], 0x88), e = _mm512_shuffle_i64x2(z[2], z[3], 0xdd);
      _mm512_storeu_si512(to + (size_t)(odd + 0) * 2 * wide, _mm512_shuffle_i64x2(a, c, 0x88));
      _mm512_storeu_si512(to + (size_t)(odd + 2) * 2 * wide, _mm512_shuffle_i64x2(b, e, 0x88));
      _mm512_storeu_si512(to + (size_t)(odd + 4) * 2 * wide, _mm512_shuffle_i64x2(a, c, 0xdd));
      _mm512_storeu_si512(to + (size_t)(odd + 6) * 2 * wide, _mm512_shuffle_i64x2(b, e, 0xdd));
    }
  }
}
#else
inline void turn_tile(const uint16_t* keys, int wide, uint16_t* to) {
  for (int d = 0; d < wide; ++d)
    for (int t = 0; t < 16; ++t) to[(t / 2 * wide + d) * 2 + t % 2] = keys[(d / 2 * 16 + t) * 2 + d % 2];
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
template <int M>
inline void score_tile(const int8_t* keys, const int16_t* q, int dim, float* out, size_t pitch) {
  for (int m = 0; m < M; ++m) {
    int32_t total[16] = {};
    for (int k = 0; k < dim; k += 2)
      for (int n = 0; n < 16; ++n)
        total[n] += keys[k * 16 + n * 2] * q[m * dim + k] + keys[k * 16 + n * 2 + 1] * q[m * dim + k + 1];
    for (int n = 0; n < 16; ++n) out[m * pitch + n] = static_cast<float>(total[n]);
  }
}
template <int M, int V, class Value>
inline void value_tile(const Value* values, size_t stride, const int16_t* p, size_t pitch, int pairs, const float* units, float* out,
                       int dim) {
  for (int m = 0; m < M; ++m) {
    int32_t total[16 * V] = {};
    for (int t = 0; t < pairs; ++t)
      for (int n = 0; n < 16 * V; ++n)
        total[n] += values[t * stride + 2 * n] * p[m * pitch + 2 * t] + values[t * stride + 2 * n + 1] * p[m * pitch + 2 * t + 1];
    for (int n = 0; n < 16 * V; ++n) out[m * dim + n] += static_cast<float>(total[n]) * units[m];
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

}  // namespace HANOK_ISA

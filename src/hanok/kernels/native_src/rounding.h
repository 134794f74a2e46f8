// Rows ready for products: buffers, bfloat16 and float16, rounding to bfloat16 or to integers in groups.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "buffer.h"
#include "vec.h"

namespace HANOK_ISA {
using namespace hanok;

// Rows ready for a product: bfloat16, or int8 with, for each group of 32, a scale and the sum times what the packed weights are too
// large by.
struct Rows {
  int cols = 0;
  uint16_t* bf = nullptr;
  int8_t* q = nullptr;
  int32_t* sums = nullptr;
  float* scale = nullptr;
  Rows from(int row) const {
    return {cols, bf + (size_t)row * cols, q + (size_t)row * cols, sums + (size_t)row * (cols / 32), scale + (size_t)row * (cols / 32)};
  }
};
struct RowBuffers {
  Buffer<float> space;
  Buffer<uint16_t> bf;
  Buffer<int8_t> q;
  Buffer<int32_t> sums;
  Buffer<float> scale;
  Rows make(int rows, int cols) {
    return {cols, bf.at_least((size_t)rows * cols), q.at_least((size_t)rows * cols), sums.at_least((size_t)rows * (cols / 32)),
            scale.at_least((size_t)rows * (cols / 32))};
  }
};

inline uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (x != x) return 0x7fc0;
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
  int8_t* to = rows.q + (size_t)row * cols;
  int32_t* sums = rows.sums + (size_t)row * (cols / 32);
  float* scales = rows.scale + (size_t)row * (cols / 32);
  const vf magic = splat(12582912.0f);  // added and taken away: rounds to the nearest even
  for (int g = 0; g < cols / 32; ++g) {
    vi high{};  // sizes are ordered as their bits are, and what is not finite lies above all that is
    for (int k = g * 32; k < g * 32 + 32; k += W) {
      const vi size = (vi)load(x + k) & 0x7fffffff;
      high = size > high ? size : high;
    }
    int32_t top = 0;
    for (int i = 0; i < W; ++i) top = std::max(top, high[i]);
    if (top >= 0x7f800000) {  // integers would hide it: the scale makes every sum of the row no number
      std::memset(to + g * 32, 0, 32);
      scales[g] = std::numeric_limits<float>::quiet_NaN();
      sums[g] = 0;
      continue;
    }
    float most;
    std::memcpy(&most, &top, sizeof most);
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    scales[g] = most / 127.0f;
    vi total{};
    for (int k = g * 32; k < g * 32 + 32; k += W) {
      const vi q = __builtin_convertvector((load(x + k) * splat(inverse) + magic) - magic, vi);
      total += q;
      typedef int8_t vb __attribute__((vector_size(W), aligned(1), may_alias));
      *reinterpret_cast<vb*>(to + k) = __builtin_convertvector(q, vb);
    }
    int32_t sum = 0;
    for (int i = 0; i < W; ++i) sum += total[i];
    sums[g] = -offset_of(kind) * sum;
  }
}

}  // namespace HANOK_ISA

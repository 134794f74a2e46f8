// Vectors of floats of the width that this translation unit is compiled for (GCC and Clang vector extensions).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace HANOK_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vf __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
inline void store(float* p, vf x) { *reinterpret_cast<vf*>(p) = x; }
inline vf splat(float x) { return x - vf{}; }
// bfloat16: the upper half of a float32; stores round to the nearest even.
struct bf16 {
  uint16_t upper;
};
typedef uint16_t vh __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(W * 4), aligned(4), may_alias));
inline vf load(const bf16* p) { return (vf)(__builtin_convertvector(*reinterpret_cast<const vh*>(p), vu) << 16); }
inline void store(bf16* p, vf x) {
  const vu u = (vu)x;
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  *reinterpret_cast<vh*>(p) = __builtin_convertvector(x == x ? rounded : vu{} + 0x7fc0, vh);
}
// The first n of W elements; the rest reads as zero and is not written.
template <class T>
inline vf load(const T* p, int n) {
  if (n >= W) return load(p);
  T part[W] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load(part);
}
template <class T>
inline void store(T* p, vf x, int n) {
  if (n >= W) return store(p, x);
  T part[W];
  store(part, x);
  std::memcpy(p, part, n * sizeof(T));
}
inline float sum(vf x) {
  float total = 0;
  for (int i = 0; i < W; ++i) total += x[i];
  return total;
}
inline float dot(const float* a, const float* b, int n) {
  vf total{};
  int i = 0;
  for (; i + W <= n; i += W) total += load(a + i) * load(b + i);
  float rest = sum(total);
  for (; i < n; ++i) rest += a[i] * b[i];
  return rest;
}
inline vf bits(vi x) { vf y; std::memcpy(&y, &x, sizeof y); return y; }
inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }

// exp for x <= about 88: range reduction by log 2 and a polynomial; relative error below 2e-7. Below -87 it is zero.
inline vf exp(vf x) {
  const vi tiny = x < splat(-87.0f);
  x = select(tiny, splat(-87.0f), x);
  x = select(x > splat(88.0f), splat(88.0f), x);
  vf n = x * splat(1.44269504088896341f) + splat(12582912.0f);  // rounds to the nearest integer
  vi k;
  std::memcpy(&k, &n, sizeof k);
  n -= splat(12582912.0f);
  vf r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
  vf scale = bits((k << 23) + 0x3f800000);  // the rounding constant's own low bits vanish in the shift
  return select(tiny, vf{}, p * scale);
}
// log(1 + y) for 0 <= y <= 1, by the series of the inverse hyperbolic tangent; relative error below 1e-7.
inline vf log1p(vf y) {
  const vf s = y / (splat(2.0f) + y), s2 = s * s;
  vf p = splat(1.0f / 15);
  for (int odd = 13; odd >= 1; odd -= 2) p = p * s2 + splat(1.0f / odd);
  return splat(2.0f) * s * p;
}
// Absolute error below 2e-7: for caps and activations, which add to it or scale it.
inline vf tanh(vf x) { return splat(1.0f) - splat(2.0f) / (splat(1.0f) + exp(x + x)); }
inline vf sigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

}  // namespace HANOK_ISA

// How packed matrices are made (step.h): from the codes of a file, or from numbers that are rounded on the way (kernels/formats.py).
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

// Groups of 32 numbers are rounded sixteen at a time: number k of group n is x[k * 16 + n]. Squares are summed as one vector of W
// lanes would sum those of one group: every W-th, then lane by lane.
constexpr int kSide = 16;

// To float16 and back.
inline vf as_half(vf x, uint16_t* half) {
#if HANOK_VNNI
  const __m256i h = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(half), h);
  return (vf)_mm512_cvtph_ps(h);
#else
  vf back;
  for (int i = 0; i < W; ++i) half[i] = to_half(x[i]), back[i] = from_half(half[i]);
  return back;
#endif
}
inline vf inverse_of(vf scale) { return select(scale == vf{}, vf{}, splat(1.0f) / scale); }

template <int kBits>
inline vf nearest(vf x, vf inverse) {
  constexpr float kHigh = (1 << (kBits - 1)) - 1, kLow = kBits == 8 ? -kHigh : -kHigh - 1;
  if (kBits == 8) {  // as PyTorch does it: the product is rounded before it becomes an integer
#if HANOK_VNNI
    x = (vf)_mm512_roundscale_ps(_mm512_mul_ps((__m512)x, (__m512)inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    x *= inverse;
    for (int i = 0; i < W; ++i) x[i] = std::nearbyint(x[i]);
#endif
  } else {
    const vf magic = splat(12582912.0f);
    x = (x * inverse + magic) - magic;
  }
  return select(x < splat(kLow), splat(kLow), select(x > splat(kHigh), splat(kHigh), x));
}

// float16 scales of W groups: of eight bits by the largest number, of fewer the one, of several, with the least squared error.
template <int kBits>
inline void find_scales(const float* x, int tries, uint16_t* half) {
  vf largest{}, size{};
  for (int k = 0; k < 32; ++k) {
    const vf v = load(x + k * kSide), its = bits((vi)v & 0x7fffffff);
    const vi more = its > size;
    largest = select(more, v, largest), size = select(more, its, size);
  }
  if (kBits == 8) {
    as_half(size / splat(127.0f), half);
    return;
  }
  constexpr float kFirst = kBits == 4 ? -5.6f : -13.6f, kStep = 0.1f;  // as in kernels/formats.py
  vf least = splat(std::numeric_limits<float>::infinity());
  vi best{};
  for (int step = 0; step < tries; ++step) {
    uint16_t now[W];
    const vf scale = as_half(largest / splat(kFirst - kStep * step), now), inverse = inverse_of(scale);
    vf total{};
    for (int i = 0; i < W; ++i) {
      vf error{};
      for (int k = i; k < 32; k += W) {
        const vf v = load(x + k * kSide), off = v - nearest<kBits>(v, inverse) * scale;
        error += off * off;
      }
      total += error;
    }
    vi code;
    for (int i = 0; i < W; ++i) code[i] = now[i];
    const vi worse = total >= least;
    least = select(worse, least, total), best = worse ? best : code;
  }
  for (int i = 0; i < W; ++i) half[i] = static_cast<uint16_t>(best[i]);
}

// Codes of W groups, not below zero: use(k, codes).
template <int kBits, class Use>
inline void round_groups(const float* x, const uint16_t* half, const Use& use) {
  vf scale;
  for (int i = 0; i < W; ++i) scale[i] = from_half(half[i]);
  const vf inverse = inverse_of(scale);
  for (int k = 0; k < 32; ++k)
    use(k, __builtin_convertvector(nearest<kBits>(load(x + k * kSide), inverse), vi) + (1 << (kBits - 1)));
}

template <int kBits>
void quantise_items(const float* w, size_t first, size_t last, int tries, int8_t* q, uint16_t* scales) {
  alignas(64) float x[32 * kSide];
  uint16_t half[kSide];
  for (size_t g = first; g < last; g += kSide) {
    const int count = static_cast<int>(std::min<size_t>(kSide, last - g));
    std::memset(x, 0, sizeof x);
    for (int n = 0; n < count; ++n)
      for (int k = 0; k < 32; ++k) x[k * kSide + n] = w[(g + n) * 32 + k];
    for (int n = 0; n < kSide; n += W) {
      find_scales<kBits>(x + n, tries, half + n);
      round_groups<kBits>(x + n, half + n, [&](int k, vi code) {
        for (int i = 0; i < W && n + i < count; ++i) q[(g + n + i) * 32 + k] = static_cast<int8_t>(code[i] - (1 << (kBits - 1)));
      });
    }
    std::memcpy(scales + g, half, count * sizeof *half);
  }
}

void quantise(int bits, const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, Crew& crew) {
  constexpr size_t kEach = 2048;
  const int items = static_cast<int>((groups + kEach - 1) / kEach);
  crew.run(1, [=](Crew::Walk& walk) {
    walk.loop(items, [&](int item) {
      const auto some = bits == 4 ? quantise_items<4> : bits == 5 ? quantise_items<5> : quantise_items<8>;
      some(w, item * kEach, std::min(groups, (item + 1) * kEach), tries, q, scales);
    });
  });
}

// Eight neighbouring codes, the lowest bits first, as the image has them: the first four in the low halves of four bytes, the
// others in the high halves.
inline uint32_t turned(uint32_t word) {
  const auto apart = [](uint32_t half) {
    half = (half | half << 8) & 0x00ff00ff;
    return (half | half << 4) & 0x0f0f0f0f;
  };
  return apart(word & 0xffff) | apart(word >> 16) << 4;
}

// A block of 16 rows of codes.
inline void pack_code_block(const PackArgs& a, int block) {
  const int words = a.cols / (a.kind == kInt4 ? 8 : 4), groups = a.cols / 32 >> a.span;
  uint32_t* to = reinterpret_cast<uint32_t*>(a.image) + (size_t)block * words * 16;
  uint16_t* scales = a.scales + (size_t)block * groups * 16;
  if (a.zeros) std::memset(a.zeros + (size_t)block * groups * 16, 0, (size_t)groups * 16 * sizeof *a.zeros);
  for (int n = 0; n < 16; ++n) {
    const uint8_t* row = reinterpret_cast<const uint8_t*>(a.rows[block * 16 + n]);
    const uint16_t* scale = reinterpret_cast<const uint16_t*>(a.row_scales[block * 16 + n]);
    if (!row) {  // zeros
      for (int w = 0; w < words; ++w) to[w * 16 + n] = a.kind == kInt4 ? 0x88888888u : 0x80808080u;
      for (int g = 0; g < groups; ++g) scales[g * 16 + n] = 0;
      continue;
    }
    for (int w = 0; w < words; ++w) {
      uint32_t word;
      std::memcpy(&word, row + 4 * (size_t)w, sizeof word);
      to[w * 16 + n] = a.kind == kInt4 ? turned(word) : word ^ a.flip;
    }
    const int each = groups / a.row_groups[block * 16 + n];
    for (int g = 0; g < groups; ++g) std::memcpy(&scales[g * 16 + n], scale + g / each, sizeof(uint16_t));
    const uint16_t* zero = a.zeros ? reinterpret_cast<const uint16_t*>(a.row_zeros[block * 16 + n]) : nullptr;
    if (!zero) continue;
    uint16_t* zeros = a.zeros + (size_t)block * groups * 16;
    for (int g = 0; g < groups; ++g) std::memcpy(&zeros[g * 16 + n], zero + g / each, sizeof(uint16_t));
  }
}

// Number k of a row where it lies.
inline float number_at(Source source, const uint8_t* row, int k) {
  if (source == kFloat32) {
    float x;
    std::memcpy(&x, row + 4 * (size_t)k, sizeof x);
    return x;
  }
  uint16_t half;
  std::memcpy(&half, row + 2 * (size_t)k, sizeof half);
  return source == kBfloat16 ? from_bf16(half) : from_half(half);
}

// The image of a group: codes of W of its 16 rows, the first of which is `lane`.
template <int kBits>
inline void write_group(const vi* code, uint8_t* to, int lane) {
  const auto keep = [&](int word, vi x) { std::memcpy(to + word * 64 + lane * 4, &x, sizeof x); };
  if (kBits == 8) {
    for (int j = 0; j < 8; ++j) keep(j, code[4 * j] | code[4 * j + 1] << 8 | code[4 * j + 2] << 16 | code[4 * j + 3] << 24);
    return;
  }
  vi high{};
  for (int j = 0; j < 4; ++j) {
    vi both{};
    for (int m = 0; m < 4; ++m) {
      const vi l = code[8 * j + m], h = code[8 * j + 4 + m];
      both |= ((l & 15) | (h & 15) << 4) << (8 * m);
      high |= ((l >> 4 & 1) << (2 * j) | (h >> 4 & 1) << (2 * j + 1)) << (8 * m);
    }
    keep(j, both);
  }
  if (kBits == 5) keep(4, high);
}

// A block of 16 rows of numbers, rounded.
template <int kBits>
void pack_number_block(const PackArgs& a, int block) {
  alignas(64) float x[32 * kSide];
  const int groups = a.cols / 32;
  const size_t bytes = group_bytes(a.kind);
  for (int g = 0; g < groups; ++g) {
    const int count = std::min(32, std::max(0, a.given - g * 32));
    std::memset(x, 0, sizeof x);
    for (int n = 0; n < kSide; ++n)
      if (const uint8_t* row = reinterpret_cast<const uint8_t*>(a.rows[block * 16 + n]))
        for (int k = 0; k < count; ++k) x[k * kSide + n] = number_at(a.source, row, g * 32 + k);
    uint16_t* half = a.scales + ((size_t)block * groups + g) * 16;
    for (int n = 0; n < kSide; n += W) {
      vi code[32];
      find_scales<kBits>(x + n, a.tries, half + n);
      round_groups<kBits>(x + n, half + n, [&](int k, vi its) { code[k] = its; });
      write_group<kBits>(code, a.image + ((size_t)block * groups + g) * bytes, n);
    }
  }
}

void pack_rows(PackArgs args, Crew& crew) {
  const auto a = std::make_shared<const PackArgs>(std::move(args));
  crew.run(1, [a](Crew::Walk& walk) {
    constexpr int kEach = 4;
    const int blocks = static_cast<int>(a->rows.size() / 16);
    walk.loop((blocks + kEach - 1) / kEach, [&](int item) {
      for (int block = item * kEach; block < std::min(blocks, (item + 1) * kEach); ++block) {
        if (a->source == kCodes) pack_code_block(*a, block);
        else if (a->kind == kInt8) pack_number_block<8>(*a, block);
        else if (a->kind == kInt5) pack_number_block<5>(*a, block);
        else pack_number_block<4>(*a, block);
      }
    });
  });
}

}  // namespace HANOK_ISA

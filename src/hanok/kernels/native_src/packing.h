// How packed matrices are made (step.h): from the codes of a file, or from numbers that are rounded on the way (kernels/formats.py).
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

// 32 numbers to four bits: of several scales, float16, the one with the least squared error.
inline uint16_t quantise_group_four(const float* x, int tries, int8_t* q) {
  float largest = 0;
  for (int i = 0; i < 32; ++i)
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  float least = std::numeric_limits<float>::infinity();
  uint16_t best = 0;
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
    best = half;
    for (int i = 0; i < 32; ++i) q[i] = static_cast<int8_t>(kept[i / W][i % W]);
  }
  return best;
}

void quantise_four(const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, Crew& crew) {
  constexpr size_t kEach = 2048;
  const int items = static_cast<int>((groups + kEach - 1) / kEach);
  crew.run(1, [=](Crew::Walk& walk) {
    walk.loop(items, [&](int item) {
      for (size_t g = item * kEach; g < std::min(groups, (item + 1) * kEach); ++g)
        scales[g] = quantise_group_four(w + g * 32, tries, q + g * 32);
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
  const int words = a.cols / (a.kind == kInt4 ? 8 : 4), groups = a.cols / 32;
  uint32_t* to = reinterpret_cast<uint32_t*>(a.image) + (size_t)block * words * 16;
  uint16_t* scales = a.scales + (size_t)block * groups * 16;
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
  }
}

// A block of 16 rows of numbers, rounded to four bits.
inline void pack_number_block(const PackArgs& a, int block) {
  static thread_local std::vector<float> numbers;
  numbers.assign(a.cols, 0.0f);
  const int groups = a.cols / 32;
  for (int n = 0; n < 16; ++n) {
    const uint8_t* row = reinterpret_cast<const uint8_t*>(a.rows[block * 16 + n]);
    if (!row) std::fill(numbers.begin(), numbers.end(), 0.0f);
    else if (a.source == kFloat32) std::memcpy(numbers.data(), row, a.given * sizeof(float));
    else
      for (int k = 0; k < a.given; ++k) {
        uint16_t half;
        std::memcpy(&half, row + 2 * (size_t)k, sizeof half);
        numbers[k] = a.source == kBfloat16 ? from_bf16(half) : from_half(half);
      }
    for (int g = 0; g < groups; ++g) {
      int8_t q[32];
      uint8_t* to = a.image + ((size_t)block * groups + g) * 256;
      a.scales[((size_t)block * groups + g) * 16 + n] = quantise_group_four(numbers.data() + g * 32, a.tries, q);
      for (int i = 0; i < 32; ++i)
        if (i % 8 < 4) to[i / 8 * 64 + n * 4 + i % 4] = static_cast<uint8_t>((q[i] + 8) | (q[i + 4] + 8) << 4);
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
        else pack_number_block(*a, block);
      }
    });
  });
}

}  // namespace HANOK_ISA

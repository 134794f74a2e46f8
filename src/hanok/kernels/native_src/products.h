// Products of rows with packed matrices: tiles for each instruction set, items for threads.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "rounding.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define HANOK_VNNI 1
#include <immintrin.h>
#endif

namespace HANOK_ISA {

// Tiles of rows and blocks of outputs: as wide as sums and totals fit into registers. No result depends on them.
constexpr int kRowsOnce = 8;  // at most in the one tile of few rows
constexpr int kTall = 6;      // at most in each of several tiles, and beside two blocks at once; bfloat16 has kRowsOnce there too

// What a tile of rows fetches of weights that come from memory. Where rows fill one tile, weights are read once, and each line is asked
// for a little ahead. Where they fill several, all but the first find their block in the cache and would leave the memory idle: they
// share out the lines of the block that comes next, until all are asked for.
struct Fetch {
  int tile = 0, tiles = 1;
  int next = -1;  // block; -1: unknown
};

#if HANOK_VNNI
inline __m512i four(const void* p) { return _mm512_set1_epi32(*static_cast<const int32_t*>(p)); }
template <int bytes = 1536>
inline void ahead(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p) + bytes, _MM_HINT_T0); }
inline __m512 halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

constexpr int kAhead = 6144, kAheadOfOne = 3072;  // bytes; one row of codes leaves the processor time to look ahead by itself

// The part of the next B blocks that a tile fetches: lines, a few in each turn of its loop.
class Lines {
 public:
  // bytes: of a block. turns: of the tile's loop.
  Lines(const Fetch& fetch, const Matrix& a, size_t bytes, int blocks, int turns) {
    if (fetch.tiles == 1 || fetch.next < 0) return;
    const uint8_t* weights = a.weights + fetch.next * bytes;
    bytes *= blocks;
    each_ = static_cast<int>((bytes / 64 + (size_t)turns * fetch.tiles - 1) / ((size_t)turns * fetch.tiles));
    const size_t from = (size_t)fetch.tile * each_ * turns * 64;
    if (from < bytes) at_ = weights + from;
    else each_ = 0;
  }
  void fetch() {
    for (int line = 0; line < each_; ++line, at_ += 64) ahead<0>(at_);
  }

 private:
  const uint8_t* at_ = nullptr;
  int each_ = 0;
};

// B blocks of 16 outputs of each of M rows. Sums of integers are exact, so their order is free; those of floats are not: one group
// after the other, whatever M and B are. The sum of a group's inputs is taken away as often as codes are too large by: beforehand, as
// an integer, or, where a zero point is added to that, behind the group's products, as a float.
template <int M, int B, Kind kind, bool zero_points, bool once>
inline void blocks_int(const Matrix& a, size_t block, const Rows& x, int row, const Fetch& fetch, float (*out)[8][16]) {
  const int cols = a.cols, groups = cols / 32, span = a.span, scaled = groups >> span;
  constexpr int kGroup = group_bytes(kind), kFar = M == 1 ? kAheadOfOne : kAhead;
  const size_t bytes = (size_t)groups * kGroup;
  const uint8_t* w = a.weights + block * bytes;
  const uint16_t* s = a.scales + block * scaled * 16;
  const uint16_t* z = zero_points ? a.zeros + block * scaled * 16 : nullptr;
  const int8_t* q = x.q + (size_t)row * cols;
  const int32_t* sums = x.sums + (size_t)row * groups;
  const float* scales = x.scale + (size_t)row * groups;
  const __m512i low = _mm512_set1_epi8(15);
  Lines lines(fetch, a, bytes, B, groups);
  __m512 total[B][M];
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) total[b][m] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g) {
    if (!once) lines.fetch();
    constexpr bool kTwo = M * B < 4;  // chains of sums, where there are few
    __m512i sum[B][M], odd[B][M];
    for (int m = 0; m < M; ++m) {
      const __m512i start = zero_points ? _mm512_setzero_si512() : four(sums + (size_t)m * groups + g);
      for (int b = 0; b < B; ++b) sum[b][m] = start, odd[b][m] = _mm512_setzero_si512();
    }
    for (int j = 0; j < 4; ++j) {
      __m512i l[B], h[B];
      for (int b = 0; b < B; ++b) {
        if (kind != kInt8) {
          const uint8_t* from = w + b * bytes + g * kGroup + j * 64;
          const __m512i v = _mm512_load_si512(from);
          if (once) ahead<kFar>(from);
          l[b] = _mm512_and_si512(v, low);
          h[b] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
          if (kind == kInt5) {  // bits 2 j and 2 j + 1 of a byte become its bit 4
            const uint8_t* fifth = w + b * bytes + g * kGroup + 256;
            const __m512i t = _mm512_load_si512(fifth), bit = _mm512_set1_epi8(16);
            if (once && j == 0) ahead<kFar>(fifth);
            const __m512i tl = j < 2 ? _mm512_slli_epi16(t, 4 - 2 * j) : _mm512_srli_epi16(t, 2 * j - 4);
            const __m512i th = j < 2 ? _mm512_slli_epi16(t, 3 - 2 * j) : _mm512_srli_epi16(t, 2 * j - 3);
            l[b] = _mm512_ternarylogic_epi32(tl, bit, l[b], 0xea);  // tl & bit | l
            h[b] = _mm512_ternarylogic_epi32(th, bit, h[b], 0xea);
          }
        } else {
          const uint8_t* from = w + b * bytes + (g * 4 + j) * 128;
          l[b] = _mm512_load_si512(from);
          h[b] = _mm512_load_si512(from + 64);
          if (once) ahead<kFar>(from), ahead<kFar>(from + 64);
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
      const size_t at = ((size_t)b * scaled + (g >> span)) * 16;
      const __m512 scale = halves(s + at), one = _mm512_set1_ps(1.0f);
      const __m512 zero = zero_points ? _mm512_fmadd_ps(halves(z + at), _mm512_set1_ps(1.0f / offset_of(kind)), one) : one;
      for (int m = 0; m < M; ++m) {
        const size_t group = (size_t)m * groups + g;
        __m512 number = _mm512_cvtepi32_ps(kTwo ? _mm512_add_epi32(sum[b][m], odd[b][m]) : sum[b][m]);
        if (zero_points) number = _mm512_fmadd_ps(zero, _mm512_cvtepi32_ps(four(sums + group)), number);
        const __m512 product = _mm512_mul_ps(scale, _mm512_set1_ps(scales[group]));
        total[b][m] = _mm512_fmadd_ps(number, product, total[b][m]);
      }
    }
  }
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) _mm512_storeu_ps(out[b][m], total[b][m]);
}

template <int M, int B, bool once>
inline void blocks_bf16(const Matrix& a, size_t block, const Rows& x, int row, const Fetch& fetch, float (*out)[8][16]) {
  const int cols = a.cols;
  const uint8_t* w = a.weights + block * 32 * cols;
  const uint16_t* v = x.bf + (size_t)row * cols;
  Lines lines(fetch, a, (size_t)32 * cols, B, cols / 16);
  __m512 sum[B][M];
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) sum[b][m] = _mm512_setzero_ps();
  for (int k = 0; k < cols; k += 4) {
    if (!once && k % 16 == 0) lines.fetch();
    __m512bh l[B], h[B];
    for (int b = 0; b < B; ++b) {
      const uint8_t* from = w + (size_t)b * 32 * cols + k * 32;
      l[b] = (__m512bh)_mm512_load_si512(from);
      h[b] = (__m512bh)_mm512_load_si512(from + 64);
      if (once) ahead<kAhead>(from), ahead<kAhead>(from + 64);
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

template <int M, int B, bool once>
inline void blocks_of(const Matrix& a, size_t block, const Rows& x, int row, const Fetch& fetch, float (*out)[8][16]) {
  constexpr int kWide = M == 1 || M > kTall ? 1 : B;  // of integers: more would not fit, and one row reads one stream faster than two
  if (a.kind == kBf16) return blocks_bf16<M, B, once>(a, block, x, row, fetch, out);
  const auto codes = [&](int b, auto zero_points) {
    if (a.kind == kInt4) blocks_int<M, kWide, kInt4, zero_points(), once>(a, block + b, x, row, fetch, out + b);
    else if (a.kind == kInt5) blocks_int<M, kWide, kInt5, zero_points(), once>(a, block + b, x, row, fetch, out + b);
    else blocks_int<M, kWide, kInt8, zero_points(), once>(a, block + b, x, row, fetch, out + b);
  };
  for (int b = 0; b < B; b += kWide) a.zeros ? codes(b, std::true_type{}) : codes(b, std::false_type{});
}

// Weights that come from memory, and are read once, are one stream a thread.
template <int M, int B>
inline void blocks_product(const Matrix& a, size_t block, const Rows& x, int row, const Fetch& fetch, float (*out)[8][16]) {
  if (!a.cold || fetch.tiles > 1) return blocks_of<M, B, false>(a, block, x, row, fetch, out);
  for (int b = 0; b < B; ++b) blocks_of<M, 1, true>(a, block + b, x, row, fetch, out + b);
}

#else
template <int M>
void block_product(const Matrix& a, size_t block, const Rows& x, int row, float (*out)[16]) {
  const int cols = a.cols, groups = cols / 32, scaled = groups >> a.span;
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
      const uint16_t* s = a.scales + block * scaled * 16;
      const uint16_t* z = a.zeros ? a.zeros + block * scaled * 16 : nullptr;
      const uint8_t* w = a.weights + block * groups * group_bytes(a.kind);
      for (int g = 0; g < groups; ++g) {
        const uint8_t* fifth = w + 256;
        int32_t sum[16];
        for (int n = 0; n < 16; ++n) sum[n] = sums[g];
        for (int j = 0; j < 4; ++j) {
          const int8_t* p = q + g * 32 + j * 8;
          for (int n = 0; n < 16; ++n)
            for (int i = 0; i < 4; ++i) {
              if (a.kind != kInt8) sum[n] += (w[n * 4 + i] & 15) * p[i] + (w[n * 4 + i] >> 4) * p[4 + i];
              if (a.kind == kInt5) sum[n] += (fifth[n * 4 + i] >> 2 * j & 1) * 16 * p[i] + (fifth[n * 4 + i] >> (2 * j + 1) & 1) * 16 * p[4 + i];
              if (a.kind == kInt8) sum[n] += w[n * 4 + i] * p[i] + w[64 + n * 4 + i] * p[4 + i];
            }
          w += a.kind == kInt8 ? 128 : 64;
        }
        if (a.kind == kInt5) w += 64;
        const int of_span = (g >> a.span) * 16;
        const float scale = x.scale[(size_t)(row + m) * groups + g], less = sums[g] * (1.0f / offset_of(a.kind));
        for (int n = 0; n < 16; ++n) {
          float number = static_cast<float>(sum[n]);
          if (z) number += from_half(z[of_span + n]) * less;
          total[n] += number * (from_half(s[of_span + n]) * scale);
        }
      }
    }
    std::memcpy(out[m], total, sizeof total);
  }
}
template <int M, int B>
inline void blocks_product(const Matrix& a, size_t block, const Rows& x, int row, const Fetch&, float (*out)[8][16]) {
  for (int b = 0; b < B; ++b) block_product<M>(a, block + b, x, row, out[b]);
}
#endif

template <class Use>
inline void with_height(int rows, const Use& use) {
  switch (rows) {
    case 1: return use(std::integral_constant<int, 1>{});
    case 2: return use(std::integral_constant<int, 2>{});
    case 3: return use(std::integral_constant<int, 3>{});
    case 4: return use(std::integral_constant<int, 4>{});
    case 5: return use(std::integral_constant<int, 5>{});
    case 6: return use(std::integral_constant<int, 6>{});
    case 7: return use(std::integral_constant<int, 7>{});
    default: return use(std::integral_constant<int, 8>{});
  }
}

// The rows of blocks in tiles: tile(block, row, M, B, what it fetches) for integral constants M and B, pairs of blocks first. `after`: the
// block that this thread is likely to go on with; -1: not told.
template <class Tile>
inline void in_tiles(Kind kind, int first, int last, int after, int rows, const Tile& tile) {
  const int most = rows <= kRowsOnce || kind == kBf16 ? kRowsOnce : kTall, tiles = (rows + most - 1) / most;
  const auto some_rows = [&](int block, auto wide) {
    Fetch fetch{0, tiles, block + wide() < last ? block + wide() : after};
    for (int row = 0; fetch.tile < tiles; ++fetch.tile) {
      const int end = static_cast<int>((int64_t)rows * (fetch.tile + 1) / tiles);
      with_height(end - row, [&](auto tall) { tile(block, row, tall, wide, fetch); });
      row = end;
    }
  };
  int block = first;
  for (; block + 2 <= last; block += 2) some_rows(block, std::integral_constant<int, 2>{});
  if (block < last) some_rows(block, std::integral_constant<int, 1>{});
}

// Calls use(block, row, M rows of 16 outputs, M) for the blocks of one item.
template <class Use>
inline void product_item(const Matrix& a, int first, int last, int after, const Rows& x, int rows, const Use& use) {
  alignas(64) float out[2][8][16];
  in_tiles(a.kind, first, last, after, rows, [&](int block, int row, auto tall, auto wide, const Fetch& fetch) {
    blocks_product<tall(), wide()>(a, block, x, row, fetch, out);
    for (int b = 0; b < wide(); ++b) use(block + b, row, out[b], tall());
  });
}

// Blocks of an item: small enough that the last one is not waited for long, in pairs for gate and up.
inline int blocks_each(int blocks, int threads) { return std::max(2, blocks / (threads * 8) / 2 * 2); }

// Blocks [first, last) of an item, and the one that its thread is likely to go on with: threads take items by turns.
struct Blocks {
  Blocks(int item, int each, int blocks, int threads)
      : first(item * each), last(std::min(blocks, first + each)), after(first + threads * each < blocks ? first + threads * each : -1) {}
  int first, last, after;
};

constexpr int kRowsAgain = 8;  // of a product whose items may be done again

// One thread's results of an item, until they are handed out: [block][row][16].
inline float* found_space(size_t count) {
  static thread_local Buffer<float> space;
  return space.at_least(count);
}

// Calls use(block, row, rows of 16 outputs, how many) for all of a product.
template <class Get, class Use>
inline bool multiply(Crew::Walk& walk, int threads, const Matrix& a, int rows, const Get& get, const Use& use) {
  const int blocks = a.rows / 16, each = blocks_each(blocks, threads), items = (blocks + each - 1) / each;
  const auto product = [&](int item, const auto& use) {
    const Blocks its(item, each, blocks, threads);
    product_item(a, its.first, its.last, its.after, get(), rows, use);
  };
  if (rows > kRowsAgain) return walk.loop(items, [&](int item) { product(item, use); });
  float(*found)[16] = reinterpret_cast<float(*)[16]>(found_space((size_t)each * rows * 16));
  return walk.loop_again(
      items,
      [&](int item) {
        product(item, [&](int block, int row, float (*out)[16], int count) {
          std::memcpy(found[(block - item * each) * rows + row], out, count * sizeof *out);
        });
      },
      [&](int item) {
        for (int block = item * each; block < std::min(blocks, (item + 1) * each); ++block)
          use(block, 0, found + (block - item * each) * rows, rows);
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
    const size_t of_group = (block * (a.cols / 32 >> a.span) + (k / 32 >> a.span)) * 16 + n;
    const float scale = from_half(a.scales[of_group]), zero = a.zeros ? from_half(a.zeros[of_group]) : 0.0f;
    if (a.kind == kInt8) {
      out[k] = scale * (a.weights[block * 16 * a.cols + (k / 4) * 64 + n * 4 + k % 4] - 128 - zero);
      continue;
    }
    const uint8_t* group = a.weights + (block * (a.cols / 32) + k / 32) * group_bytes(a.kind);
    const int j = k % 32 / 8, at = n * 4 + k % 4, high = k % 8 >= 4;
    int code = group[j * 64 + at] >> 4 * high & 15;
    if (a.kind == kInt5) code |= (group[256 + at] >> (2 * j + high) & 1) << 4;
    out[k] = scale * (code - offset_of(a.kind) - zero);
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

void normalise(const float* x, const Norm& norm, float eps, int n, float* out) {
  if (!norm.bias) return normalise(x, norm.weight, eps, n, out);
  double total = 0, squares = 0;
  for (int i = 0; i < n; ++i) total += x[i];
  const float mean = static_cast<float>(total / n);
  for (int i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / std::sqrt(static_cast<float>(squares / n) + eps);
  for (int i = 0; i < n; ++i) out[i] = (x[i] - mean) * factor * norm.weight[i] + norm.bias[i];
}

}  // namespace HANOK_ISA

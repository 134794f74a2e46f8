// Short causal depthwise convolution with optional SiLU, forward and backward; compiled once for each instruction set.
// One unit of work is a block of tokens with all channels: rows are read as they lie in memory.
#include <algorithm>
#include <vector>

#include "pool.h"
#include "rows.h"
#include "vec.h"

namespace HANOK_ISA {
namespace {

constexpr int64_t TOKENS = 128;
constexpr int MOST_TAPS = 8;

// What all blocks share: weights by tap, the end of the batch, a row of zeros.
template <class T>
struct Conv {
  const ConvArgs& in;
  std::vector<float> weight;  // [taps, D]; tap j reads the token j back
  std::vector<T> zeros;

  explicit Conv(const ConvArgs& args) : in(args), weight((size_t)args.taps * args.channels), zeros(args.channels + W, T{}) {
    for (int c = 0; c < in.channels; ++c)
      for (int j = 0; j < in.taps; ++j) weight[(size_t)j * in.channels + c] = in.weight[(int64_t)c * in.taps + in.taps - 1 - j];
  }
  const float* tap(int j) const { return weight.data() + (size_t)j * in.channels; }
  int64_t tokens() const { return in.bounds[in.sequences]; }
  int sequence_of(int64_t t) const {
    return (int)(std::upper_bound(in.bounds, in.bounds + in.sequences + 1, (int32_t)t) - in.bounds) - 1;
  }
  // The row `back` tokens before token t of sequence b: from x, from its initial state, or zeros.
  const T* row(int b, int64_t t, int back) const {
    const int64_t from = t - back - in.bounds[b];
    if (from >= 0) return static_cast<const T*>(in.x) + (t - back) * in.channels;
    if (!in.initial) return zeros.data();
    return static_cast<const T*>(in.initial) + ((int64_t)b * (in.taps - 1) + from + in.taps - 1) * in.channels;
  }
  // body(c, n, pre-activation of columns c to c + n) for token t of sequence b
  template <class F>
  void for_columns(int b, int64_t t, F body) const {
    const T* rows[MOST_TAPS];
    for (int j = 0; j < in.taps; ++j) rows[j] = row(b, t, j);
    for (int c = 0; c < in.channels; c += W) {
      const int n = std::min(W, in.channels - c);
      vf pre{};
      for (int j = 0; j < in.taps; ++j) pre += load(tap(j) + c, n) * load(rows[j] + c, n);
      body(c, n, pre);
    }
  }
  // Gradient behind the activation of token t.
  void gradient(int b, int64_t t, const float* d_y, float* d_pre) const {
    const float* grad = d_y + t * in.channels;
    if (!in.silu) return void(std::memcpy(d_pre, grad, sizeof(float) * in.channels));
    for_columns(b, t, [&](int c, int n, vf pre) {
      const vf s = sigmoid(pre);
      store(d_pre + c, load(grad + c, n) * s * (splat(1.0f) + pre * (splat(1.0f) - s)), n);
    });
  }
};

int blocks_of(int64_t tokens) { return (int)((tokens + TOKENS - 1) / TOKENS); }

template <class T>
void forward(const ConvArgs& in, float* y) {
  const Conv<T> conv(in);
  hanok::parallel_for(blocks_of(conv.tokens()), [&](int block) {
    const int64_t from = block * TOKENS, to = std::min(conv.tokens(), from + TOKENS);
    int b = conv.sequence_of(from);
    for (int64_t t = from; t < to; ++t) {
      while (t >= in.bounds[b + 1]) ++b;
      float* out = y + t * in.channels;
      conv.for_columns(b, t, [&](int c, int n, vf pre) { store(out + c, in.silu ? pre * sigmoid(pre) : pre, n); });
    }
  });
}

template <class T>
void backward(const ConvArgs& in, const float* d_y, T* d_x, float* d_weight, float* d_initial) {
  const Conv<T> conv(in);
  const int channels = in.channels, taps = in.taps, blocks = blocks_of(conv.tokens());
  std::vector<float> sums((size_t)blocks * taps * channels, 0.0f);
  hanok::parallel_for(blocks, [&](int block) {
    const int64_t from = block * TOKENS, to = std::min(conv.tokens(), from + TOKENS);
    const int64_t last = std::min(conv.tokens(), to + taps - 1);  // tokens behind the block that read its last ones
    std::vector<float> d_pre((size_t)(last - from) * channels);
    int b = conv.sequence_of(from);
    for (int64_t t = from; t < last; ++t) {
      while (t >= in.bounds[b + 1]) ++b;
      conv.gradient(b, t, d_y, d_pre.data() + (t - from) * channels);
    }
    b = conv.sequence_of(from);
    float* totals = sums.data() + (size_t)block * taps * channels;
    for (int64_t t = from; t < to; ++t) {
      while (t >= in.bounds[b + 1]) ++b;
      const float* mine = d_pre.data() + (t - from) * channels;
      const int readers = (int)std::min<int64_t>(taps, in.bounds[b + 1] - t);  // tokens t ... t + readers - 1 read token t
      const T* rows[MOST_TAPS];
      for (int j = 0; j < taps; ++j) rows[j] = conv.row(b, t, j);
      for (int c = 0; c < channels; c += W) {
        const int n = std::min(W, channels - c);
        vf grad{};
        for (int j = 0; j < readers; ++j) grad += load(conv.tap(j) + c, n) * load(mine + (int64_t)j * channels + c, n);
        store(d_x + t * channels + c, grad, n);
        const vf g = load(mine + c, n);
        for (int j = 0; j < taps; ++j) {
          float* total = totals + (size_t)j * channels + c;
          store(total, load(total, n) + g * load(rows[j] + c, n), n);
        }
      }
    }
  });
  for (int c = 0; c < channels; ++c)
    for (int j = 0; j < taps; ++j) {
      float total = 0;
      for (int block = 0; block < blocks; ++block) total += sums[((size_t)block * taps + j) * channels + c];
      d_weight[(int64_t)c * taps + taps - 1 - j] = total;
    }
  if (!d_initial) return;
  hanok::parallel_for(in.sequences, [&](int b) {
    const int64_t start = in.bounds[b], count = std::min<int64_t>(taps - 1, in.bounds[b + 1] - start);
    std::vector<float> d_pre((size_t)taps * channels);
    for (int64_t i = 0; i < count; ++i) conv.gradient(b, start + i, d_y, d_pre.data() + i * channels);
    for (int row = 0; row < taps - 1; ++row) {
      float* out = d_initial + ((int64_t)b * (taps - 1) + row) * channels;
      std::fill(out, out + channels, 0.0f);
      for (int64_t i = 0; i < count && i <= row; ++i) {  // token i of the sequence reads this row through tap i + taps - 1 - row
        const float *w = conv.tap((int)i + taps - 1 - row), *g = d_pre.data() + i * channels;
        for (int c = 0; c < channels; ++c) out[c] += w[c] * g[c];
      }
    }
  });
}

}  // namespace

void conv_forward(const ConvArgs& in, float* y) {
  if (in.half) forward<bf16>(in, y); else forward<float>(in, y);
}
void conv_backward(const ConvArgs& in, const float* d_y, void* d_x, float* d_weight, float* d_initial) {
  if (in.half) backward<bf16>(in, d_y, (bf16*)d_x, d_weight, d_initial);
  else backward<float>(in, d_y, (float*)d_x, d_weight, d_initial);
}

}  // namespace HANOK_ISA

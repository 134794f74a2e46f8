// Short causal depthwise convolution with optional SiLU, forward and backward; compiled once for each instruction set.
// One unit of work is a block of channels over all tokens, so that sums do not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "kda.h"
#include "pool.h"
#include "vec.h"

namespace HANOK_ISA {
namespace {

constexpr int BLOCK = 64;

// The input `back` tokens before token t of a sequence that starts at `start`: from x, the initial state, or zero.
struct Reader {
  const ConvArgs& in;
  int sequence, channel, width;
  void operator()(int64_t t, int64_t start, int back, float* to) const {
    const int64_t from = t - back;
    if (from >= start) {
      std::memcpy(to, in.x + from * in.channels + channel, sizeof(float) * width);
    } else if (in.initial) {
      const int column = (int)(from - start) + in.taps - 1;
      const float* state = in.initial + ((int64_t)sequence * in.channels + channel) * (in.taps - 1) + column;
      for (int c = 0; c < width; ++c) to[c] = state[(int64_t)c * (in.taps - 1)];
    } else {
      std::fill(to, to + width, 0.0f);
    }
  }
};

void pre_activation(const Reader& read, const std::vector<float>& weight, int64_t t, int64_t start, float* pre) {
  float row[BLOCK] = {};
  std::fill(pre, pre + BLOCK, 0.0f);
  for (int back = read.in.taps - 1; back >= 0; --back) {
    read(t, start, back, row);
    const float* w = weight.data() + (read.in.taps - 1 - back) * BLOCK;
    for (int c = 0; c < BLOCK; ++c) pre[c] += w[c] * row[c];
  }
}

std::vector<float> taps_of(const ConvArgs& in, int channel, int width) {
  std::vector<float> weight((size_t)in.taps * BLOCK, 0.0f);
  for (int c = 0; c < width; ++c)
    for (int j = 0; j < in.taps; ++j) weight[(size_t)j * BLOCK + c] = in.weight[(int64_t)(channel + c) * in.taps + j];
  return weight;
}

}  // namespace

void conv_forward(const ConvArgs& in, float* y) {
  hanok::parallel_for((in.channels + BLOCK - 1) / BLOCK, [&](int block) {
    const int channel = block * BLOCK, width = std::min(BLOCK, in.channels - channel);
    const auto weight = taps_of(in, channel, width);
    float pre[BLOCK];
    for (int b = 0; b < in.sequences; ++b) {
      const Reader read{in, b, channel, width};
      for (int64_t t = in.bounds[b]; t < in.bounds[b + 1]; ++t) {
        pre_activation(read, weight, t, in.bounds[b], pre);
        if (in.silu)
          for (int c = 0; c < BLOCK; c += W) store(pre + c, load(pre + c) * sigmoid(load(pre + c)));
        std::memcpy(y + t * in.channels + channel, pre, sizeof(float) * width);
      }
    }
  });
}

void conv_backward(const ConvArgs& in, const float* d_y, float* d_x, float* d_weight, float* d_initial) {
  hanok::parallel_for((in.channels + BLOCK - 1) / BLOCK, [&](int block) {
    const int channel = block * BLOCK, width = std::min(BLOCK, in.channels - channel);
    const auto weight = taps_of(in, channel, width);
    std::vector<float> sums((size_t)in.taps * BLOCK, 0.0f), ring((size_t)in.taps * BLOCK);
    float pre[BLOCK], row[BLOCK] = {}, grad[BLOCK] = {};
    for (int b = 0; b < in.sequences; ++b) {
      const Reader read{in, b, channel, width};
      const int64_t start = in.bounds[b], end = in.bounds[b + 1];
      std::fill(ring.begin(), ring.end(), 0.0f);
      // from the last token back to the one before the first, whose gradients belong to the initial state
      for (int64_t t = end - 1; t >= start - (in.taps - 1); --t) {
        float* now = ring.data() + ((t - start + in.taps) % in.taps) * BLOCK;
        std::fill(now, now + BLOCK, 0.0f);
        if (t >= start) {
          std::memcpy(grad, d_y + t * in.channels + channel, sizeof(float) * width);
          if (in.silu) {
            pre_activation(read, weight, t, start, pre);
            for (int c = 0; c < BLOCK; c += W) {
              const vf x = load(pre + c), s = sigmoid(x);
              store(grad + c, load(grad + c) * s * (splat(1.0f) + x * (splat(1.0f) - s)));
            }
          }
          std::memcpy(now, grad, sizeof(float) * BLOCK);
          for (int back = 0; back < in.taps; ++back) {
            read(t, start, back, row);
            float* total = sums.data() + (size_t)(in.taps - 1 - back) * BLOCK;
            for (int c = 0; c < BLOCK; ++c) total[c] += grad[c] * row[c];
          }
        }
        std::fill(pre, pre + BLOCK, 0.0f);
        for (int back = 0; back < in.taps; ++back) {  // token t was read by token t + back
          const int64_t reader = t + back;
          if (reader < start || reader >= end) continue;
          const float *w = weight.data() + (size_t)(in.taps - 1 - back) * BLOCK;
          const float* g = ring.data() + ((reader - start + in.taps) % in.taps) * BLOCK;
          for (int c = 0; c < BLOCK; ++c) pre[c] += w[c] * g[c];
        }
        if (t >= start) {
          std::memcpy(d_x + t * in.channels + channel, pre, sizeof(float) * width);
        } else if (d_initial) {
          const int column = (int)(t - start) + in.taps - 1;
          float* state = d_initial + ((int64_t)b * in.channels + channel) * (in.taps - 1) + column;
          for (int c = 0; c < width; ++c) state[(int64_t)c * (in.taps - 1)] = pre[c];
        }
      }
    }
    for (int c = 0; c < width; ++c)
      for (int j = 0; j < in.taps; ++j) d_weight[(int64_t)(channel + c) * in.taps + j] = sums[(size_t)j * BLOCK + c];
  });
}

}  // namespace HANOK_ISA

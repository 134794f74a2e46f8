// Norms, gates and cross-entropy; compiled once for each instruction set. Sums over rows are made for each block of rows
// and then added in the order of the blocks, so that they do not depend on the number of threads.
#include "rows.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "vec.h"

namespace HANOK_ISA {
namespace {

int64_t rows_of_block(int width) { return std::clamp<int64_t>(16384 / std::max(1, width), 8, 1024); }
int blocks_of(const RowArgs& a) { return (int)((a.rows + rows_of_block(a.width) - 1) / rows_of_block(a.width)); }

// body(block, first row, last row + 1)
template <class F>
void for_blocks(const RowArgs& a, F body) {
  const int64_t step = rows_of_block(a.width);
  hanok::parallel_for(blocks_of(a), [&](int b) { body(b, b * step, std::min(a.rows, (b + 1) * step)); });
}
// The same, with a row of `columns` sums for each block, added into `total`.
template <class F>
void for_blocks_summed(const RowArgs& a, int columns, float* total, F body) {
  std::vector<float> sums((size_t)blocks_of(a) * columns, 0.0f);
  for_blocks(a, [&](int b, int64_t from, int64_t to) { body(sums.data() + (size_t)b * columns, from, to); });
  std::fill(total, total + columns, 0.0f);
  for (int b = 0; b < blocks_of(a); ++b)
    for (int c = 0; c < columns; ++c) total[c] += sums[(size_t)b * columns + c];
}
// body(c, n): columns c to c + n, at most W
template <class F>
inline void for_columns(int width, F body) {
  int c = 0;
  for (; c + W <= width; c += W) body(c, W);
  if (c < width) body(c, width - c);
}
template <class T>
inline float sum_of_squares(const T* x, int width) {
  vf total{};
  for_columns(width, [&](int c, int n) { const vf v = load(x + c, n); total += v * v; });
  return sum(total);
}
#define HANOK_BY_TYPE(a, call) \
  if ((a).half) { using T = bf16; call; } else { using T = float; call; }

template <class T>
void rms_forward(const RowArgs& a, const T* x, const float* w, float eps, T* y, float* rstd) {
  for_blocks(a, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const T* row = x + i * a.width;
      T* to_row = y + i * a.width;
      const float r = 1.0f / std::sqrt(sum_of_squares(row, a.width) / a.width + eps);
      rstd[i] = r;
      for_columns(a.width, [&](int c, int n) { store(to_row + c, load(row + c, n) * splat(r) * load(w + c, n), n); });
    }
  });
}
template <class T>
void rms_backward(const RowArgs& a, const T* d_y, const T* x, const float* w, const float* rstd, T* d_x, float* d_w) {
  for_blocks_summed(a, a.width, d_w, [&](float* d_weight, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const T *row = x + i * a.width, *grad = d_y + i * a.width;
      T* out = d_x + i * a.width;
      const vf r = splat(rstd[i]);
      vf dot{};
      for_columns(a.width, [&](int c, int n) {
        const vf normed = load(row + c, n) * r, g = load(grad + c, n);
        dot += normed * g * load(w + c, n);
        store(d_weight + c, load(d_weight + c, n) + g * normed, n);
      });
      const vf mean = splat(sum(dot) / a.width);
      for_columns(a.width, [&](int c, int n) {
        store(out + c, (load(grad + c, n) * load(w + c, n) - load(row + c, n) * r * mean) * r, n);
      });
    }
  });
}

template <class T>
void gated_forward(const RowArgs& a, const float* o, const T* gate, const float* w, float eps, T* y, float* rstd) {
  for_blocks(a, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const float* row = o + i * a.width;
      const T* gates = gate + i * a.width;
      T* out = y + i * a.width;
      const float r = 1.0f / std::sqrt(sum_of_squares(row, a.width) / a.width + eps);
      rstd[i] = r;
      for_columns(a.width, [&](int c, int n) {
        store(out + c, load(row + c, n) * splat(r) * load(w + c, n) * sigmoid(load(gates + c, n)), n);
      });
    }
  });
}
template <class T>
void gated_backward(const RowArgs& a, const T* d_y, const float* o, const T* gate, const float* w, const float* rstd,
                    float* d_o, T* d_gate, float* d_w) {
  for_blocks_summed(a, a.width, d_w, [&](float* d_weight, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = i * a.width;
      const vf r = splat(rstd[i]);
      vf dot{};
      for_columns(a.width, [&](int c, int n) {
        const vf normed = load(o + at + c, n) * r, weight = load(w + c, n), g = load(d_y + at + c, n);
        const vf s = sigmoid(load(gate + at + c, n)), through = g * s;
        dot += normed * through * weight;
        store(d_weight + c, load(d_weight + c, n) + through * normed, n);
        store(d_gate + at + c, g * normed * weight * s * (splat(1.0f) - s), n);
        store(d_o + at + c, through * weight, n);
      });
      const vf mean = splat(sum(dot) / a.width);
      for_columns(a.width, [&](int c, int n) {
        store(d_o + at + c, (load(d_o + at + c, n) - load(o + at + c, n) * r * mean) * r, n);
      });
    }
  });
}

template <class T>
void glu_forward(const RowArgs& a, const T* x, T* y) {
  for_blocks(a, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const T *gate = x + 2 * i * a.width, *up = gate + a.width;
      T* out = y + i * a.width;
      for_columns(a.width, [&](int c, int n) {
        const vf g = load(gate + c, n);
        store(out + c, g * sigmoid(g) * load(up + c, n), n);
      });
    }
  });
}
template <class T>
void glu_backward(const RowArgs& a, const T* d_y, const T* x, T* d_x) {
  for_blocks(a, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const T *gate = x + 2 * i * a.width, *up = gate + a.width, *grad = d_y + i * a.width;
      T *d_gate = d_x + 2 * i * a.width, *d_up = d_gate + a.width;
      for_columns(a.width, [&](int c, int n) {
        const vf g = load(gate + c, n), s = sigmoid(g), d = load(grad + c, n);
        store(d_gate + c, d * load(up + c, n) * s * (splat(1.0f) + g * (splat(1.0f) - s)), n);
        store(d_up + c, d * g * s, n);
      });
    }
  });
}

template <class T>
void entropy(const RowArgs& a, T* logits, const int64_t* targets, float* nats) {
  for_blocks(a, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      T* row = logits + i * a.width;
      const int whole = a.width / W * W, rest = a.width - whole;
      T last[W] = {};  // the columns behind the last whole vector, padded with the last of them
      if (rest) {
        std::memcpy(last, row + whole, rest * sizeof(T));
        std::fill(last + rest, last + W, row[a.width - 1]);
      }
      vf most = rest ? load(last) : load(row);
      for (int c = 0; c < whole; c += W) { const vf v = load(row + c); most = select(v > most, v, most); }
      float top = most[0];
      for (int j = 1; j < W; ++j) top = std::max(top, most[j]);
      vf total{};
      for (int c = 0; c < whole; c += W) total += exp(load(row + c) - splat(top));
      float z = sum(total);
      if (rest) {
        const vf tail = exp(load(last) - splat(top));
        for (int j = 0; j < rest; ++j) z += tail[j];
      }
      const vf target = load(row + targets[i], 1);
      const float at_target = target[0];
      nats[i] = std::log(z) + top - at_target;
      const vf scale = splat(1.0f / z);
      for_columns(a.width, [&](int c, int n) { store(row + c, exp(load(row + c, n) - splat(top)) * scale, n); });
      vf p{};
      p[0] = std::exp(-nats[i]) - 1.0f;
      store(row + targets[i], p, 1);
    }
  });
}

template <class T>
void decays_forward(const DecayArgs& a, float* g) {
  const RowArgs rows{a.tokens, a.heads * a.width, a.half};
  for_blocks(rows, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i)
      for (int h = 0; h < a.heads; ++h) {
        const int64_t at = i * rows.width + h * a.width;
        const T* raw = static_cast<const T*>(a.raw) + at;
        const vf rate = splat(a.rate[h]);
        for_columns(a.width, [&](int c, int n) {
          const vf x = load(raw + c, n) + load(a.bias + h * a.width + c, n);
          if (a.bound != 0) {
            store(g + at + c, splat(a.bound) * sigmoid(rate * x), n);
          } else {
            const vf size = select(x < vf{}, x, -x);  // -|x|
            store(g + at + c, -rate * (select(x > vf{}, x, vf{}) + log1p(exp(size))), n);
          }
        });
      }
  });
}
template <class T>
void decays_backward(const DecayArgs& a, const float* d_g, T* d_raw, float* d_rate, float* d_bias) {
  const RowArgs rows{a.tokens, a.heads * a.width, a.half};
  std::vector<float> totals((size_t)2 * rows.width);
  for_blocks_summed(rows, 2 * rows.width, totals.data(), [&](float* sums, int64_t from, int64_t to) {
    float *bias_sums = sums, *rate_sums = sums + rows.width;
    for (int64_t i = from; i < to; ++i)
      for (int h = 0; h < a.heads; ++h) {
        const int64_t at = i * rows.width + h * a.width;
        const T* raw = static_cast<const T*>(a.raw) + at;
        const vf rate = splat(a.rate[h]);
        for_columns(a.width, [&](int c, int n) {
          const int column = h * a.width + c;
          const vf x = load(raw + c, n) + load(a.bias + column, n), d = load(d_g + at + c, n);
          vf to_x, to_rate;
          if (a.bound != 0) {
            const vf s = sigmoid(rate * x), slope = d * splat(a.bound) * s * (splat(1.0f) - s);
            to_x = slope * rate;
            to_rate = slope * x;
          } else {
            const vf size = select(x < vf{}, x, -x);
            to_x = -rate * d * sigmoid(x);
            to_rate = -d * (select(x > vf{}, x, vf{}) + log1p(exp(size)));
          }
          store(d_raw + at + c, to_x, n);
          store(bias_sums + column, load(bias_sums + column, n) + to_x, n);
          store(rate_sums + column, load(rate_sums + column, n) + to_rate, n);
        });
      }
  });
  std::copy(totals.begin(), totals.begin() + rows.width, d_bias);
  for (int h = 0; h < a.heads; ++h) {
    d_rate[h] = 0;
    for (int c = 0; c < a.width; ++c) d_rate[h] += totals[rows.width + h * a.width + c];
  }
}

}  // namespace

void rms_norm_forward(const RowArgs& a, const void* x, const float* w, float eps, void* y, float* rstd) {
  HANOK_BY_TYPE(a, rms_forward(a, (const T*)x, w, eps, (T*)y, rstd))
}
void rms_norm_backward(const RowArgs& a, const void* d_y, const void* x, const float* w, const float* rstd, void* d_x,
                       float* d_w) {
  HANOK_BY_TYPE(a, rms_backward(a, (const T*)d_y, (const T*)x, w, rstd, (T*)d_x, d_w))
}
void gated_norm_forward(const RowArgs& a, const float* o, const void* gate, const float* w, float eps, void* y,
                        float* rstd) {
  HANOK_BY_TYPE(a, gated_forward(a, o, (const T*)gate, w, eps, (T*)y, rstd))
}
void gated_norm_backward(const RowArgs& a, const void* d_y, const float* o, const void* gate, const float* w,
                         const float* rstd, float* d_o, void* d_gate, float* d_w) {
  HANOK_BY_TYPE(a, gated_backward(a, (const T*)d_y, o, (const T*)gate, w, rstd, d_o, (T*)d_gate, d_w))
}
void swiglu_forward(const RowArgs& a, const void* x, void* y) { HANOK_BY_TYPE(a, glu_forward(a, (const T*)x, (T*)y)) }
void swiglu_backward(const RowArgs& a, const void* d_y, const void* x, void* d_x) {
  HANOK_BY_TYPE(a, glu_backward(a, (const T*)d_y, (const T*)x, (T*)d_x))
}
void cross_entropy(const RowArgs& a, void* logits, const int64_t* targets, float* nats) {
  HANOK_BY_TYPE(a, entropy(a, (T*)logits, targets, nats))
}
void decay_forward(const DecayArgs& a, float* g) { HANOK_BY_TYPE(a, decays_forward<T>(a, g)) }
void decay_backward(const DecayArgs& a, const float* d_g, void* d_raw, float* d_rate, float* d_bias) {
  HANOK_BY_TYPE(a, decays_backward<T>(a, d_g, (T*)d_raw, d_rate, d_bias))
}

void split_forward(const RowArgs& a, int heads, const float* qkv, float eps, float* q, float* k, float* v) {
  const int inner = heads * a.width;
  for_blocks({a.rows, 3 * inner, false}, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const float* row = qkv + 3 * i * inner;
      for (int part = 0; part < 2; ++part)
        for (int h = 0; h < heads; ++h) {
          const float* x = row + part * inner + h * a.width;
          float* y = (part ? k : q) + i * inner + h * a.width;
          const vf r = splat(1.0f / std::sqrt(sum_of_squares(x, a.width) + eps));
          for_columns(a.width, [&](int c, int n) { store(y + c, load(x + c, n) * r, n); });
        }
      std::memcpy(v + i * inner, row + 2 * inner, inner * sizeof(float));
    }
  });
}
void split_backward(const RowArgs& a, int heads, const float* qkv, float eps, const float* d_q, const float* d_k,
                    const float* d_v, float* d_qkv) {
  const int inner = heads * a.width;
  for_blocks({a.rows, 3 * inner, false}, [&](int, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const float* row = qkv + 3 * i * inner;
      float* out = d_qkv + 3 * i * inner;
      for (int part = 0; part < 2; ++part)
        for (int h = 0; h < heads; ++h) {
          const int at = part * inner + h * a.width;
          const float *x = row + at, *d = (part ? d_k : d_q) + i * inner + h * a.width;
          const float r = 1.0f / std::sqrt(sum_of_squares(x, a.width) + eps);
          vf dot{};
          for_columns(a.width, [&](int c, int n) { dot += load(x + c, n) * load(d + c, n); });
          const vf along = splat(sum(dot) * r * r);
          for_columns(a.width, [&](int c, int n) {
            store(out + at + c, (load(d + c, n) - load(x + c, n) * along) * splat(r), n);
          });
        }
      std::memcpy(out + 2 * inner, d_v + i * inner, inner * sizeof(float));
    }
  });
}

}  // namespace HANOK_ISA

// Operations on rows, each in one pass over memory. `half` says that the arrays marked T are bfloat16, else float32.
#pragma once
#include <cstdint>

struct RowArgs {
  int64_t rows;
  int width;
  bool half;
};
struct DecayArgs {
  const void* raw;            // T [N, H*K]
  const float *rate, *bias;   // [H], [H*K]
  float bound;                // 0: -rate softplus(raw + bias); else bound * sigmoid(rate (raw + bias))
  int64_t tokens;
  int heads, width;
  bool half;
};
struct ConvArgs {
  const void *x, *initial;  // T [N,D], T [B,taps-1,D] oldest first, or null
  const float* weight;      // [D,taps]
  const int32_t* bounds;
  int sequences, channels, taps;
  bool silu, half;
};

#define HANOK_DECLARE_ROWS(NS)                                                                                          \
  namespace NS {                                                                                                        \
  /* y = x / rms(x) * w; x, y, d_y, d_x are T; rstd [rows] is kept for the backward pass */                              \
  void rms_norm_forward(const RowArgs&, const void* x, const float* w, float eps, void* y, float* rstd);                \
  void rms_norm_backward(const RowArgs&, const void* d_y, const void* x, const float* w, const float* rstd, void* d_x,  \
                         float* d_w);                                                                                   \
  /* y = o / rms(o) * w * sigmoid(gate); o, d_o float32, the rest T */                                                  \
  void gated_norm_forward(const RowArgs&, const float* o, const void* gate, const float* w, float eps, void* y,         \
                          float* rstd);                                                                                 \
  void gated_norm_backward(const RowArgs&, const void* d_y, const float* o, const void* gate, const float* w,           \
                           const float* rstd, float* d_o, void* d_gate, float* d_w);                                    \
  /* y [rows, width] = silu(x[:, :width]) * x[:, width:] */                                                             \
  void swiglu_forward(const RowArgs&, const void* x, void* y);                                                          \
  void swiglu_backward(const RowArgs&, const void* d_y, const void* x, void* d_x);                                      \
  /* qkv float32 [rows, 3*heads*width] to q, k (each head by its 2-norm) and v */                                       \
  void split_forward(const RowArgs&, int heads, const float* qkv, float eps, float* q, float* k, float* v);             \
  void split_backward(const RowArgs&, int heads, const float* qkv, float eps, const float* d_q, const float* d_k,       \
                      const float* d_v, float* d_qkv);                                                                  \
  void decay_forward(const DecayArgs&, float* g);                                                                       \
  void decay_backward(const DecayArgs&, const float* d_g, void* d_raw, float* d_rate, float* d_bias);                   \
  /* logits become softmax - onehot(target) in place; nats [rows] */                                                    \
  void cross_entropy(const RowArgs&, void* logits, const int64_t* targets, float* nats);                                \
  void conv_forward(const ConvArgs&, float* y);                                                                         \
  void conv_backward(const ConvArgs&, const float* d_y, void* d_x, float* d_weight, float* d_initial);                  \
  }
HANOK_DECLARE_ROWS(isa_portable)
#if defined(__x86_64__)
HANOK_DECLARE_ROWS(isa_avx2)
HANOK_DECLARE_ROWS(isa_avx512)
#endif

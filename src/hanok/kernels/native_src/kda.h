// Kimi Delta Attention over a ragged batch. All arrays are contiguous float32: q, k, g [N,H,K], v, o [N,H,V], beta [N,H],
// states [B,H,K,V]; bounds are cu_seqlens [B+1]. Null pointers mean zero (states) or not wanted (outputs).
#pragma once
#include <cstdint>

struct KdaArgs {
  const float *q, *k, *v, *g, *beta, *initial;
  const int32_t* bounds;
  int sequences, heads, key, value;
  float scale;
  int spacing;           // tokens between two saved states, a multiple of 16
  const int64_t* saved;  // first saved state of each sequence [B+1]
  float* states;         // [saved[B], H, K, V]: the state before each `spacing` tokens
};
struct KdaForward {
  float *o, *final_state;
};
struct KdaBackward {
  const float *d_o, *d_final;
  float *d_q, *d_k, *d_v, *d_g, *d_beta, *d_initial;
};

#define HANOK_DECLARE(NS)                                                                              \
  namespace NS {                                                                                       \
  void kda_forward(const KdaArgs&, const KdaForward&);                                                 \
  void kda_backward(const KdaArgs&, const KdaBackward&);                                               \
  void kda_step(const KdaArgs&, const float* state_in, float* state_out, float* o);                    \
  double read_sum(const float* data, int64_t count);                                                   \
  }
HANOK_DECLARE(isa_portable)
#if defined(__x86_64__)
HANOK_DECLARE(isa_avx2)
HANOK_DECLARE(isa_avx512)
#endif

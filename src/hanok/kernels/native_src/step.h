// One step of a decoder in one call: rows of several sequences, each at its place, through all layers to logits.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "crew.h"

namespace hanok {

enum Kind : int { kBf16 = 0, kInt8 = 1, kInt4 = 2 };

// A matrix [rows, cols] packed for products: 16 rows side by side, so that one vector holds 16 outputs; rows are padded to a
// multiple of 16, columns to one of 32.
//   bf16  [rows/16][cols/2][16][2]
//   int8  [rows/16][cols/4][16][4] of w + 128, scales float16 [rows/16][cols/32][16]
//   int4  [rows/16][cols/8][16][4], low half: columns 0-3 of the eight, high half: 4-7, each w + 8; scales likewise
struct Matrix {
  Kind kind = kBf16;
  int rows = 0, cols = 0;  // padded
  const uint8_t* weights = nullptr;
  const uint16_t* scales = nullptr;
  const float* bias = nullptr;
};

// Grouped-query attention; latent attention without positions, absorbed; delta attention (models/gqa.py, mla.py, kda.py).
enum Mixer : int { kFull = 0, kLatent = 1, kDelta = 2 };

struct AttentionShape {
  int heads = 0, kv_heads = 0, key_dim = 0, value_dim = 0;
  float scale = 1;
};

struct LatentWeights {
  int nope = 0, shared = 0, value = 0;    // widths of a head's own key part, the part for all heads, a value
  const float *to_key = nullptr, *to_value = nullptr, *norm = nullptr;  // [head][nope][latent], [head][value][latent], [latent]
};

struct DeltaWeights {
  int heads = 0, width = 0, taps = 0;
  float lower_bound = 0;  // 0: -rate softplus(x + bias)
  const float *convolution = nullptr, *rate = nullptr, *bias = nullptr, *norm = nullptr;  // [3 heads width][taps], [head], ...
  Matrix decay, gate;  // from the low ranks to all channels
};

struct LayerWeights {
  const float *attention_norm = nullptr, *mlp_norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  // input: what the mixer takes from a row: [q | k | v], [q | latent | shared key], or [q | k | v | low decay | low gate | beta]
  Matrix input, output, gate_up, down;  // gate_up: 16 rows of the gate, 16 rows up, and so on
  Mixer mixer = kFull;
  AttentionShape attention;
  LatentWeights latent;
  DeltaWeights delta;
};

constexpr int kBlock = 64;  // tokens of a block of the cache
constexpr int kTile = 16;   // of them scored together

struct ModelWeights {
  int hidden, rotary, vocabulary;
  float eps, rope_factor;
  const float* frequencies;  // [rotary / 2]
  const float* final_norm;
  Matrix embedding, head;
  std::vector<LayerWeights> layers;
};

// Keys: [kv head][block][tile of 16 tokens][key_dim / 2][16][2]; values: [kv head][block][pair of tokens][value_dim][2]; bfloat16.
struct Cache {
  int blocks = 0;
  std::vector<uint16_t*> keys, values;  // a pool a layer
  std::vector<float*> states, tails;    // of delta attention: [slot][head][key][value], [slot][channel][taps - 1], oldest first
};

struct StepArgs {
  int rows = 0, wanted = 0, table_width = 0;
  std::vector<int32_t> ids, positions, sequences, wanted_rows;  // of one sequence: consecutive rows, rising positions
  std::vector<int32_t> tables;                                  // [sequence][table_width] block numbers
  std::vector<int32_t> slots;                                   // [sequence] of the states; a row at position 0 begins anew
  float* logits = nullptr;                                      // [wanted][vocabulary]; null: not wanted
  float* normed = nullptr;                                  // [wanted][hidden] behind the final norm; null: not wanted
};

struct Scratch {  // buffers between the loops
  virtual ~Scratch() = default;
};

}  // namespace hanok

#define HANOK_DECLARE_STEP(NS)                                                                                        \
  namespace NS {                                                                                                      \
  std::shared_ptr<hanok::Scratch> new_scratch();                                                                      \
  void run_step(const std::shared_ptr<const hanok::ModelWeights>&, const std::shared_ptr<hanok::Cache>&,              \
                const std::shared_ptr<hanok::Scratch>&, hanok::StepArgs, hanok::Crew&);                               \
  void product(const hanok::Matrix&, const float* x, int rows, float* y, hanok::Crew&);                               \
  void quantise_four(const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, hanok::Crew&);            \
  }
HANOK_DECLARE_STEP(isa_portable)
HANOK_DECLARE_STEP(isa_avx2)
HANOK_DECLARE_STEP(isa_vnni)

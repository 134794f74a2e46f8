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

struct LayerWeights {
  const float *attention_norm = nullptr, *mlp_norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  Matrix qkv, output, gate_up, down;  // gate_up: 16 rows of the gate, 16 rows up, and so on
};

constexpr int kBlock = 64;  // tokens of a block of the cache
constexpr int kTile = 16;   // of them scored together

struct ModelWeights {
  int hidden, heads, kv_heads, head_dim, inner, rotary, vocabulary;
  float eps, scale, rope_factor;
  const float* frequencies;  // [rotary / 2]
  const float* final_norm;
  Matrix embedding, head;
  std::vector<LayerWeights> layers;
};

// Keys: [kv head][block][tile of 16 tokens][head_dim / 2][16][2]; values: [kv head][block][pair of tokens][head_dim][2]; bfloat16.
struct Cache {
  int blocks = 0;
  std::vector<uint16_t*> keys, values;  // a pool a layer
};

struct StepArgs {
  int rows = 0, wanted = 0, table_width = 0;
  std::vector<int32_t> ids, positions, sequences, wanted_rows;  // of one sequence: consecutive rows, rising positions
  std::vector<int32_t> tables;                                  // [sequence][table_width] block numbers
  float* logits = nullptr;                                      // [wanted][vocabulary]
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

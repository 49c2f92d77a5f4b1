// Rows of two or three tables added and normalised, a token at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace cofi::token_embedding {

// A table of `count` rows, and which of them each token takes.
struct Table {
  const int64_t* numbers;
  const float* rows;
  int64_t count;

  const float* row_of(int64_t token, int64_t hidden) const { return rows + numbers[token] * hidden; }
};

struct Norm {
  const float *weight, *bias;
  float eps;
};

// The first table that has no row of some number, or -1.
int first_without_a_row(const std::vector<Table>& tables, int64_t tokens);

// out (tokens, hidden). Every number must have a row.
void embed(const std::vector<Table>& tables, const Norm& norm, float* out, int64_t tokens, int64_t hidden, int threads);

}  // namespace cofi::token_embedding

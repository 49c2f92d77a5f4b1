// The norm of all gradients and then the step of all tensors, in pieces of fixed size across them.
#include "common/bind.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/parallel.h"
#include "cpu/adamw/kernels.h"

namespace cofi::adamw {
namespace {

constexpr int64_t kPiece = 1 << 14;  // elements to a thread at a time; of the norm one fp32 partial sum

struct Piece {
  std::size_t tensor;
  int64_t begin, size;
};

std::vector<Piece> cut(const std::vector<int64_t>& sizes) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t begin = 0; begin < sizes[i]; begin += kPiece) {
      pieces.push_back({i, begin, std::min(kPiece, sizes[i] - begin)});
    }
  }
  return pieces;
}

double norm_of(const std::vector<uintptr_t>& gradients, const std::vector<Piece>& pieces, int threads) {
  std::vector<double> partial(pieces.size(), 0.0);
  parallel_for(static_cast<int64_t>(pieces.size()), 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = pieces[p];
      if (gradients[piece.tensor] == 0) continue;
      partial[p] = kernels().sum_of_squares(as<const float>(gradients[piece.tensor]) + piece.begin, piece.size);
    }
  });
  double total = 0.0;
  for (const double part : partial) total += part;
  return std::sqrt(total);
}

// Returns the norm of all gradients, of which an address of 0 stands for zeros. max_norm 0: no clipping.
double step(const std::vector<uintptr_t>& parameters, const std::vector<uintptr_t>& gradients,
            const std::vector<uintptr_t>& exp_avgs, const std::vector<uintptr_t>& exp_avg_sqs,
            const std::vector<int64_t>& sizes, const std::vector<double>& steps, const std::vector<double>& lrs,
            const std::vector<double>& weight_decays, double beta1, double beta2, double eps, double max_norm,
            int threads) {
  const std::vector<Piece> pieces = cut(sizes);
  const double norm = norm_of(gradients, pieces, threads);
  const double clip = max_norm > 0.0 ? std::fmin(max_norm / (norm + 1e-6), 1.0) : 1.0;
  std::vector<Factors> factors;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    factors.push_back({static_cast<float>(std::isnan(norm) && max_norm > 0.0 ? norm : clip),
                       static_cast<float>(1.0 - lrs[i] * weight_decays[i]),
                       static_cast<float>(lrs[i] / (1.0 - std::pow(beta1, steps[i]))),
                       static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, steps[i]))), static_cast<float>(beta1),
                       static_cast<float>(beta2), static_cast<float>(eps)});
  }
  parallel_for(static_cast<int64_t>(pieces.size()), 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = pieces[p];
      const float* gradient = as<const float>(gradients[piece.tensor]);
      kernels().update(as<float>(parameters[piece.tensor]) + piece.begin, gradient ? gradient + piece.begin : nullptr,
                       as<float>(exp_avgs[piece.tensor]) + piece.begin,
                       as<float>(exp_avg_sqs[piece.tensor]) + piece.begin, piece.size, factors[piece.tensor]);
    }
  });
  return norm;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("adamw", &step, arg("parameters"), arg("gradients"), arg("exp_avgs"), arg("exp_avg_sqs"), arg("sizes"),
        arg("steps"), arg("lrs"), arg("weight_decays"), arg("beta1"), arg("beta2"), arg("eps"), arg("max_norm"),
        arg("threads"), ReleaseGil());
}

}  // namespace cofi::adamw

// The planner as Python sees it: the same in _cuda and in the emulation that tests build.
#pragma once

#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/bind.h"
#include "cuda/compact_encoder/plan.h"
#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

template <class T>
pybind11::bytes bytes_of(const std::vector<T>& items) {
  return {reinterpret_cast<const char*>(items.data()), items.size() * sizeof(T)};
}

// Multiprocessors, bytes of shared memory, thread blocks of a cluster; then how many clusters of 1, 2, 4 and 8 thread
// blocks run at once. Without these, for GPUs made up by hand, as many as there are multiprocessors for.
inline Gpu gpu_of(const std::vector<int>& numbers) {
  if (numbers.size() != 3 && numbers.size() != 3 + kClusterSizes) {
    throw std::invalid_argument("gpu must hold 3 or " + std::to_string(3 + kClusterSizes) + " numbers, got " +
                                std::to_string(numbers.size()));
  }
  Gpu gpu{numbers[0], numbers[1], numbers[2], {}};
  for (int i = 0; i < kClusterSizes; ++i) gpu.resident[i] = numbers.size() == 3 ? numbers[0] >> i : numbers[3 + i];
  return gpu;
}

// gpu: as `gpu_of` takes it. batch: rows, sequences, longest. tile: 16-row groups, thread blocks, heads; the planner's
// choice where there is none.
inline Plan plan_encoder(int hidden, int head_dim, float eps, int activation, const std::vector<int>& heads,
                         const std::vector<int>& intermediate, const std::vector<bool>& mha,
                         const std::vector<bool>& ffn, const std::vector<int>& gpu, const std::array<int64_t, 3>& batch,
                         const std::optional<std::array<int, 3>>& tile) {
  Shape shape{hidden, head_dim, eps, static_cast<Activation>(activation), {}};
  for (std::size_t i = 0; i < heads.size(); ++i) shape.layers.push_back({heads[i], intermediate[i], mha[i], ffn[i]});
  const Gpu on = gpu_of(gpu);
  const Batch of{batch[0], batch[1], batch[2]};
  return tile ? make_plan_of(shape, on, of, (*tile)[0], (*tile)[1], (*tile)[2]) : make_plan(shape, on, of);
}

inline Arguments arguments_of(const Plan& plan, uintptr_t x, uintptr_t out, uintptr_t bounds, uintptr_t weights,
                              uintptr_t vectors, uintptr_t sublayers, uintptr_t stages, int rows, int sequences) {
  const bool by_four = plan.program.model.hidden % 4 == 0 && x % 8 == 0 && out % 8 == 0;
  return {as<const void>(x),
          as<void>(out),
          as<const int32_t>(bounds),
          as<const void>(weights),
          as<const float>(vectors),
          as<const Sublayer>(sublayers),
          as<const Stage>(stages),
          rows,
          sequences,
          plan.clusters,
          by_four ? 4 : 1,
          plan.program.model,
          plan.tile};
}

inline void define_plan(pybind11::module_& m) {
  using pybind11::arg;
  pybind11::class_<Plan>(m, "EncoderPlan", "How the persistent encoder runs a model on a batch.")
      .def_readonly("refusal", &Plan::refusal, "Why it cannot; empty where it can.")
      .def_readonly("clusters", &Plan::clusters)
      .def_readonly("predicted_us", &Plan::predicted_us)
      .def_property_readonly("rows", [](const Plan& p) { return p.tile.row_groups * kBlockWidth; })
      .def_property_readonly("cluster", [](const Plan& p) { return p.tile.cluster; })
      .def_property_readonly("is_wide", [](const Plan& p) { return is_wide(p.tile); })
      .def_property_readonly("heads", [](const Plan& p) { return p.tile.heads; })
      .def_property_readonly("stage_blocks", [](const Plan& p) { return p.tile.stage_blocks; })
      .def_property_readonly("shared_bytes", [](const Plan& p) { return p.tile.bytes; })
      .def_property_readonly("regions",
                             [](const Plan& p) {
                               const Tile& t = p.tile;
                               return std::vector<int>{t.states, t.work,     t.ring,  t.sums,
                                                       t.ranges, t.barriers, t.tiles, t.bytes};
                             })
      .def_property_readonly("blocks", [](const Plan& p) { return p.program.blocks; })
      .def_property_readonly("vectors", [](const Plan& p) { return p.program.vectors; })
      .def_property_readonly("sublayers", [](const Plan& p) { return bytes_of(p.program.sublayers); })
      .def_property_readonly("stages", [](const Plan& p) { return bytes_of(p.stages); });
  m.def("encoder_plan", &plan_encoder, arg("hidden"), arg("head_dim"), arg("eps"), arg("activation"), arg("heads"),
        arg("intermediate"), arg("mha"), arg("ffn"), arg("gpu"), arg("batch"), arg("tile") = std::nullopt);
}

}  // namespace cofi::compact_encoder

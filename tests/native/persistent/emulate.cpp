// The kernel's own code on the host, as a Python module with the functions of _cuda.
#include "cuda/compact_encoder/encoder.h"
#include "cuda/compact_encoder/plan_bind.h"
#include "machine.h"

namespace cofi::compact_encoder {
namespace {

template <class T, bool kBulk, class Cut>
void run_cluster(const Arguments& a, int number, unsigned seed) {
  emulated::Cluster cluster;
  cluster.number = number;
  cluster.random.seed(seed);
  cluster.blocks.resize(a.tile.cluster);
  for (emulated::Block& block : cluster.blocks) block.shared.assign(a.tile.bytes, 0xFF);  // NaN in every format
  cluster.fibers.run(
      kThreads * a.tile.cluster, seed,
      [&](int i) {
        emulated::Machine<T, kBulk> machine(cluster, i);
        encode<Cut>(machine, a);
      },
      [&] { return cluster.progress(); });
}

template <class T, bool kBulk>
void run(const Arguments& a, unsigned seed) {
  for (int i = 0; i < a.clusters; ++i) {
    if (a.tile.row_groups == 2) run_cluster<T, kBulk, Cut<2, false>>(a, i, seed);
    if (a.tile.row_groups == 4) run_cluster<T, kBulk, Cut<4, kBulk>>(a, i, seed);
  }
}

}  // namespace
}  // namespace cofi::compact_encoder

PYBIND11_MODULE(emulated_encoder, m) {
  using namespace cofi::compact_encoder;
  using pybind11::arg;
  define_plan(m);
  // is_bulk: with clusters and multicast, as on sm_90; seed: of the order in which threads run and copies arrive
  m.def(
      "encoder_run",
      [](const Plan& plan, uintptr_t x, uintptr_t out, uintptr_t bounds, uintptr_t weights, uintptr_t vectors,
         uintptr_t sublayers, uintptr_t stages, int rows, int sequences, bool is_fp16, bool is_bulk, unsigned seed) {
        const Arguments a = arguments_of(plan, x, out, bounds, weights, vectors, sublayers, stages, rows, sequences);
        if (a.tile.teams != teams_of(is_wide(a.tile.row_groups, is_bulk))) {
          throw std::invalid_argument(
              "the plan must be of a GPU with clusters where is_bulk is true, else of one without");
        }
        if (is_fp16) {
          is_bulk ? run<emulated::Fp16, true>(a, seed) : run<emulated::Fp16, false>(a, seed);
        } else {
          is_bulk ? run<emulated::Bf16, true>(a, seed) : run<emulated::Bf16, false>(a, seed);
        }
      },
      arg("plan"), arg("x"), arg("out"), arg("bounds"), arg("weights"), arg("vectors"), arg("sublayers"), arg("stages"),
      arg("rows"), arg("sequences"), arg("is_fp16"), arg("is_bulk"), arg("seed"));
}

// One pool of threads for every CPU kernel: the OpenMP runtime inside torch is not ours to link against.
#pragma once

#include <cstdint>
#include <functional>

namespace cofi {

// Call body(begin, end) for the pieces [0, grain), [grain, 2 grain), ... of [0, n), on up to `threads` threads, the
// caller's own among them. The pieces depend on n and grain alone, so a reduction that writes one partial result per
// piece (number begin / grain) gives the same bits for any number of threads. Which thread takes which piece is open.
// Returns when all are done. The first exception that body throws is rethrown here. Calls from several threads, and
// from inside a body, are allowed: where the pool is taken, the caller does its work alone.
void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace cofi

// The OpenMP runtime that the process has loaded already, found at run time: we link against none.
#pragma once

namespace cofi::openmp {

// Be told of forks from now on: whoever forks before is not known to have done so.
void watch_forks();

// Whether body can be run on `threads` threads of that runtime now: false where there is none, inside one of its
// parallel regions, and in a forked child, where the runtime's threads no longer exist.
bool available();

// Call body(data) on up to `threads` threads at once, the caller among them; returns when all are done.
void run(int threads, void (*body)(void*), void* data);

// Inside body: this thread's number and how many there are.
int rank();
int size();

}  // namespace cofi::openmp

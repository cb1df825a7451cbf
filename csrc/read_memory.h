// How fast memory can be read, for `octet bench` to measure products beside.
#pragma once

#include <stdint.h>

namespace octet {

// Reads the whole 64-byte lines among `bytes` bytes on torch's threads, and returns the sum of
// their 64-bit words: as fast as the machine reads, for each thread reads four streams, which the
// hardware runs ahead of further than of one.
uint64_t read_memory(const void* memory, int64_t bytes);

}  // namespace octet

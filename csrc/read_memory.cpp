#include "read_memory.h"

#include <ATen/Parallel.h>
#include <string.h>

#include <atomic>

namespace octet {
namespace {

constexpr int64_t kStreams = 4;
constexpr int64_t kLine = 64;
constexpr int64_t kWords = kLine / sizeof(uint64_t);

uint64_t read_lines(const uint8_t* memory, int64_t lines) {
  const int64_t stream = lines / kStreams;
  uint64_t sums[kStreams][kWords] = {};
  const auto add = [&](int64_t s, int64_t line) {
    uint64_t words[kWords];
    memcpy(words, memory + line * kLine, kLine);
    for (int64_t i = 0; i < kWords; ++i) sums[s][i] += words[i];
  };
  for (int64_t line = 0; line < stream; ++line) {
    for (int64_t s = 0; s < kStreams; ++s) add(s, s * stream + line);
  }
  for (int64_t line = stream * kStreams; line < lines; ++line) add(0, line);
  uint64_t total = 0;
  for (const auto& sum : sums) {
    for (const uint64_t word : sum) total += word;
  }
  return total;
}

}  // namespace

uint64_t read_memory(const void* memory, int64_t bytes) {
  const uint8_t* const first = static_cast<const uint8_t*>(memory);
  std::atomic<uint64_t> total{0};
  at::parallel_for(0, bytes / kLine, 1, [&](int64_t begin, int64_t end) {
    total += read_lines(first + begin * kLine, end - begin);
  });
  return total;
}

}  // namespace octet

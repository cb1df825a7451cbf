#include "cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cpu/fp8_linear_check.h"
#include "cpu/kernel_list.h"

#ifdef OCTET_X86_64
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace octet {
namespace {

enum Feature : uint32_t {
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kF16c = 1u << 2,
  kAvx512f = 1u << 3,
  kAvx512bw = 1u << 4,
  kAvx512dq = 1u << 5,
  kAvx512vl = 1u << 6,
  kAvx512vbmi = 1u << 7,
  kAvx512bf16 = 1u << 8,
  kAmxTile = 1u << 9,
  kAmxBf16 = 1u << 10,
};

#ifdef OCTET_X86_64
constexpr uint32_t kAvx2Features = kAvx2 | kFma | kF16c;
constexpr uint32_t kAvx512Features = kAvx2Features | kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl;
constexpr uint32_t kAvx512Bf16Features = kAvx512Features | kAvx512vbmi | kAvx512bf16;
#endif

// Ordered from the plainest to the fastest: the last entry that the machine supports is used.
constexpr Implementation kImplementations[] = {
    {"scalar",
     0,
     {.per_token_quant = per_token_quant_scalar,
      .per_channel_quant = per_channel_quant_scalar,
      .gemma_rms_norm = gemma_rms_norm_scalar,
      .rms_norm_quant = rms_norm_quant_scalar,
      .qk_norm_rope = qk_norm_rope_scalar,
      .gelu_tanh_and_mul_quant = gelu_tanh_and_mul_quant_scalar,
      .silu_and_mul_quant = silu_and_mul_quant_scalar,
      .fp8_linear = fp8_linear_scalar,
      .fp8_linear_limits = fp8_linear_limits_scalar,
      .bf16_linear = bf16_linear_scalar,
      .bf16_linear_limits = bf16_linear_limits_scalar}},
#ifdef OCTET_X86_64
    {"avx2",
     kAvx2Features,
     {.per_token_quant = per_token_quant_avx2,
      .per_channel_quant = per_channel_quant_avx2,
      .gemma_rms_norm = gemma_rms_norm_avx2,
      .rms_norm_quant = rms_norm_quant_avx2,
      .qk_norm_rope = qk_norm_rope_avx2,
      .gelu_tanh_and_mul_quant = gelu_tanh_and_mul_quant_avx2,
      .silu_and_mul_quant = silu_and_mul_quant_avx2,
      .fp8_linear = fp8_linear_avx2,
      .fp8_linear_limits = fp8_linear_limits_avx2,
      .bf16_linear = bf16_linear_avx2,
      .bf16_linear_limits = bf16_linear_limits_avx2}},
    {"avx512",
     kAvx512Features,
     {.per_token_quant = per_token_quant_avx512,
      .per_channel_quant = per_channel_quant_avx512,
      .gemma_rms_norm = gemma_rms_norm_avx512,
      .rms_norm_quant = rms_norm_quant_avx512,
      .qk_norm_rope = qk_norm_rope_avx512,
      .gelu_tanh_and_mul_quant = gelu_tanh_and_mul_quant_avx512,
      .silu_and_mul_quant = silu_and_mul_quant_avx512,
      .fp8_linear = fp8_linear_avx512,
      .fp8_linear_limits = fp8_linear_limits_avx512,
      .bf16_linear = bf16_linear_avx512,
      .bf16_linear_limits = bf16_linear_limits_avx512}},
    {"avx512_bf16",
     kAvx512Bf16Features,
     {.per_token_quant = per_token_quant_avx512_bf16,
      .per_channel_quant = per_channel_quant_avx512,
      .gemma_rms_norm = gemma_rms_norm_avx512,
      .rms_norm_quant = rms_norm_quant_avx512_bf16,
      .qk_norm_rope = qk_norm_rope_avx512,
      .gelu_tanh_and_mul_quant = gelu_tanh_and_mul_quant_avx512_bf16,
      .silu_and_mul_quant = silu_and_mul_quant_avx512_bf16,
      .fp8_linear = fp8_linear_avx512_bf16,
      .fp8_linear_limits = fp8_linear_limits_avx512_bf16,
      .bf16_linear = bf16_linear_avx512,
      .bf16_linear_limits = bf16_linear_limits_avx512}},
    {"amx_bf16",
     kAvx512Bf16Features | kAmxTile | kAmxBf16,
     {.per_token_quant = per_token_quant_avx512_bf16,
      .per_channel_quant = per_channel_quant_avx512,
      .gemma_rms_norm = gemma_rms_norm_avx512,
      .rms_norm_quant = rms_norm_quant_avx512_bf16,
      .qk_norm_rope = qk_norm_rope_avx512,
      .gelu_tanh_and_mul_quant = gelu_tanh_and_mul_quant_avx512_bf16,
      .silu_and_mul_quant = silu_and_mul_quant_avx512_bf16,
      .fp8_linear = fp8_linear_amx_bf16,
      .fp8_linear_limits = fp8_linear_limits_amx_bf16,
      .bf16_linear = bf16_linear_avx512,
      .bf16_linear_limits = bf16_linear_limits_avx512}},
#endif
};

#ifdef OCTET_X86_64
uint64_t enabled_register_state() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Features that the processor has and whose registers the operating system saves.
uint32_t machine_features() {
  constexpr uint32_t kOsxsave = 1u << 27;
  constexpr uint64_t kYmmState = 0x06;      // SSE and AVX
  constexpr uint64_t kZmmState = 0xE6;      // and opmask, upper halves, upper registers
  constexpr uint64_t kTileState = 0x60000;  // tiles, and their configuration

  uint32_t eax, ebx, ecx, edx;
  uint32_t features = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsxsave) == 0) return 0;
  const uint64_t state = enabled_register_state();
  if ((state & kYmmState) != kYmmState) return 0;
  if (ecx & (1u << 12)) features |= kFma;
  if (ecx & (1u << 29)) features |= kF16c;

  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return features;
  const uint32_t max_subleaf = eax;
  if (ebx & (1u << 5)) features |= kAvx2;
  if ((state & kZmmState) != kZmmState) return features;
  if (ebx & (1u << 16)) features |= kAvx512f;
  if (ebx & (1u << 17)) features |= kAvx512dq;
  if (ebx & (1u << 30)) features |= kAvx512bw;
  if (ebx & (1u << 31)) features |= kAvx512vl;
  if (ecx & (1u << 1)) features |= kAvx512vbmi;
  if ((state & kTileState) == kTileState) {
    if (edx & (1u << 22)) features |= kAmxBf16;
    if (edx & (1u << 24)) features |= kAmxTile;
  }
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
    if (eax & (1u << 5)) features |= kAvx512bf16;
  }
  return features;
}

// Linux gives tile registers to processes that ask for them: to all threads, and to children. It is
// refused where a thread's stack for signals is too small for their state.
bool may_use_tiles() {
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Why the kernels that use tiles are not used by a processor that has them; null if they are. No
// machine with tiles has been at hand when they were written: so they are tried, once a process.
const char* tiles_refusal(const Kernels& kernels) {
  if (!may_use_tiles()) return "the operating system does not let this process use tile registers";
  if (!fp8_linear_agrees(kernels.fp8_linear, kernels.fp8_linear_limits)) {
    return "its products differ from those of the portable kernels on this machine";
  }
  return nullptr;
}
#else
uint32_t machine_features() { return 0; }
#endif

bool has_instructions(const Implementation& implementation) {
  static const uint32_t features = machine_features();
  return (implementation.required_features & ~features) == 0;
}

// Null where nothing speaks against kernels that the processor has the instructions for.
const char* refusal([[maybe_unused]] const Implementation& implementation) {
#ifdef OCTET_X86_64
  if (implementation.required_features & kAmxTile) {
    static const char* const reason = tiles_refusal(implementation.kernels);
    return reason;
  }
#endif
  return nullptr;
}

bool is_available(const Implementation& implementation) {
  return has_instructions(implementation) && refusal(implementation) == nullptr;
}

const Implementation& find(const std::string& name, const std::string& asked_by) {
  for (const Implementation& implementation : kImplementations) {
    if (name == implementation.name && is_available(implementation)) return implementation;
  }
  std::string message = asked_by + ": this machine has no kernels named \"" + name + "\"; it has";
  const char* separator = " ";
  for (const std::string& available : available_isas()) {
    message += separator + available;
    separator = ", ";
  }
  const std::map<std::string, std::string> refused = refused_isas();
  if (const auto it = refused.find(name); it != refused.end()) message += "; " + it->second;
  throw std::invalid_argument(message);
}

const Implementation& choose() {
  const char* name = std::getenv("OCTET_ISA");
  if (name != nullptr && *name != 0) {
    return find(name, "OCTET_ISA");
  }
  const Implementation* best = nullptr;
  for (const Implementation& implementation : kImplementations) {
    if (is_available(implementation)) best = &implementation;
  }
  return *best;  // "scalar" at least
}

std::atomic<const Implementation*>& active() {
  static std::atomic<const Implementation*> implementation{&choose()};
  return implementation;
}

}  // namespace

const Implementation& active_implementation() { return *active().load(std::memory_order_relaxed); }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Implementation& implementation : kImplementations) {
    if (is_available(implementation)) names.emplace_back(implementation.name);
  }
  return names;
}

std::map<std::string, std::string> refused_isas() {
  std::map<std::string, std::string> reasons;
  for (const Implementation& implementation : kImplementations) {
    if (!has_instructions(implementation)) continue;
    if (const char* reason = refusal(implementation)) reasons[implementation.name] = reason;
  }
  return reasons;
}

void use_isa(const std::string& name) {
  const Implementation& implementation = find(name, "use_isa");
  active().store(&implementation, std::memory_order_relaxed);
}

}  // namespace octet

// Which CPU kernels run: one ordered table of implementations, chosen at run time.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels.h"

namespace octet {

struct Implementation {
  const char* name;  // what OCTET_ISA takes
  uint32_t required_features;
  Kernels kernels;
};

// The implementation in use: the one that the environment variable OCTET_ISA names, otherwise the
// best that this processor and its operating system support. Throws std::invalid_argument when
// OCTET_ISA names none of available_isas().
const Implementation& active_implementation();

// Names of the implementations that run here, from the plainest to the fastest.
std::vector<std::string> available_isas();

// Why implementations that this processor has the instructions for are not among them: name, and a
// reason for people.
std::map<std::string, std::string> refused_isas();

// Makes `name` the implementation in use for the whole process; calls that are running finish with
// the one they started with. Throws std::invalid_argument when it is none of available_isas().
void use_isa(const std::string& name);

}  // namespace octet

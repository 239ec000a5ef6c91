// The arguments of a Picard step; deqcert/kernels/picard.py says what it does.
#pragma once

#include "step.h"

namespace deqcert {

struct PicardConstants {
  double damping;
};

// out may be z or fz; nothing else may overlap.
template <typename T>
struct PicardStep : Step<T> {
  static constexpr int MAX_WINDOW = 1;
  PicardConstants constants;

  template <typename Reader>
  void read(Reader& in) {
    in.constant("damping", constants.damping);
  }
};

}  // namespace deqcert

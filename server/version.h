#pragma once

namespace quire::server {

// Of the release; QUIRE_VERSION is CMake's project version.
inline constexpr char kVersion[] = QUIRE_VERSION;

}  // namespace quire::server

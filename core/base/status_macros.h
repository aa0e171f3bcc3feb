#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the status of `expr` from the enclosing function unless it is OK.
#define QUIRE_RETURN_IF_ERROR(expr)                                                     \
  do {                                                                                  \
    if (absl::Status quire_status_ = (expr); !quire_status_.ok()) return quire_status_; \
  } while (false)

// QUIRE_ASSIGN_OR_RETURN(auto value, Function()): the value, or return its status.
#define QUIRE_ASSIGN_OR_RETURN(lhs, expr) \
  QUIRE_ASSIGN_OR_RETURN_IMPL_(QUIRE_CONCAT_(quire_statusor_, __LINE__), lhs, expr)
#define QUIRE_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr)  \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)
#define QUIRE_CONCAT_(a, b) QUIRE_CONCAT_INNER_(a, b)
#define QUIRE_CONCAT_INNER_(a, b) a##b

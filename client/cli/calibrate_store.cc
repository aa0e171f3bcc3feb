#include "client/cli/calibrate_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "client/cli/calibrate_documents.h"
#include "client/cli/document.h"
#include "client/cli/json.h"

namespace quire::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kStateName[] = "state.jsonl";

absl::Status CannotUse(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("cannot write \"", path, "\": ", why));
}

// All of it, or the system's reason.
absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return absl::UnknownError(
          absl::StrCat("cannot write \"", path, "\": ", std::strerror(errno)));
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

Json ToJson(const Measurement& m) {
  return {{"document", m.document},
          {"eps", m.eps},
          {"tokens", m.tokens},
          {"agreed", m.agreed},
          {"abs_delta", m.abs_delta},
          {"logprob", m.logprob},
          {"dense_logprob", m.dense_logprob},
          {"columns", m.columns},
          {"dense_columns", m.dense_columns},
          {"macs", m.macs},
          {"dense_macs", m.dense_macs},
          {"seconds", m.seconds},
          {"dense_seconds", m.dense_seconds},
          {"sparse", m.sparse},
          {"audited_tokens", m.audited_tokens},
          {"audited_error", m.audited_error},
          {"max_audited_error", m.max_audited_error}};
}

// Throws what the library throws.
Measurement FromJson(const Json& json) {
  Measurement m;
  json.at("document").get_to(m.document);
  json.at("eps").get_to(m.eps);
  json.at("tokens").get_to(m.tokens);
  json.at("agreed").get_to(m.agreed);
  json.at("abs_delta").get_to(m.abs_delta);
  json.at("logprob").get_to(m.logprob);
  json.at("dense_logprob").get_to(m.dense_logprob);
  json.at("columns").get_to(m.columns);
  json.at("dense_columns").get_to(m.dense_columns);
  json.at("macs").get_to(m.macs);
  json.at("dense_macs").get_to(m.dense_macs);
  json.at("seconds").get_to(m.seconds);
  json.at("dense_seconds").get_to(m.dense_seconds);
  json.at("sparse").get_to(m.sparse);
  json.at("audited_tokens").get_to(m.audited_tokens);
  json.at("audited_error").get_to(m.audited_error);
  json.at("max_audited_error").get_to(m.max_audited_error);
  return m;
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()),
                     values.size() * sizeof(T));
}

template <typename T>
std::vector<T> ValuesOf(std::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CalibrationStore>> CalibrationStore::Open(
    const std::string& folder, const CalibrationSetup& setup, bool fresh) {
  auto store = absl::WrapUnique(new CalibrationStore(folder, setup));
  std::error_code error;
  fs::create_directories(fs::path(folder) / "dense", error);
  if (error) return CannotUse(folder, error.message());
  if (absl::Status status = store->OpenState(fresh); !status.ok()) return status;
  if (absl::Status status = store->ReadState(); !status.ok()) return status;
  return store;
}

CalibrationStore::~CalibrationStore() {
  if (state_fd_ >= 0) close(state_fd_);
}

absl::Status CalibrationStore::OpenState(bool fresh) {
  const std::string path = absl::StrCat(folder_, "/", kStateName);
  state_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (state_fd_ < 0) return CannotUse(path, std::strerror(errno));
  // The system gives it back, however this process ends.
  if (flock(state_fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another calibration works in \"", folder_,
                     "\"; wait for it, or name another folder with --out"));
  }
  if (!fresh) return absl::OkStatus();
  if (ftruncate(state_fd_, 0) != 0) return CannotUse(path, std::strerror(errno));
  std::error_code error;
  const fs::path dense = fs::path(folder_) / "dense";
  fs::remove_all(dense, error);
  if (!error) fs::create_directory(dense, error);
  return error ? CannotUse(dense.string(), error.message()) : absl::OkStatus();
}

absl::Status CalibrationStore::ReadState() {
  const std::string path = absl::StrCat(folder_, "/", kStateName);
  const absl::StatusOr<std::string> text = ReadFileBytes(path);
  if (!text.ok()) return CannotUse(path, std::string(text.status().message()));
  std::string_view rest = *text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    ReadLine(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  // Half a line must not spoil the next one.
  if (text->empty() || text->back() == '\n') return absl::OkStatus();
  return WriteAll(state_fd_, "\n", path);
}

void CalibrationStore::ReadLine(std::string_view line) {
  if (line.empty()) return;
  try {
    const Json json = Json::parse(line);
    if (json.at("model") != setup_.model || json.at("reading") != setup_.reading) {
      ++of_other_setups_;
      return;
    }
    Measurement m = FromJson(json);
    const auto key = std::make_pair(m.document, m.eps);
    measurements_[key] = std::move(m);
  } catch (const Json::exception&) {
    ++damaged_lines_;
  }
}

const Measurement* CalibrationStore::Find(const std::string& document, double eps) const {
  const auto found = measurements_.find(std::make_pair(document, eps));
  return found == measurements_.end() ? nullptr : &found->second;
}

absl::Status CalibrationStore::Add(const Measurement& measurement) {
  Json json = {{"model", setup_.model}, {"reading", setup_.reading}};
  json.update(ToJson(measurement));
  const std::string path = absl::StrCat(folder_, "/", kStateName);
  if (absl::Status status = WriteAll(state_fd_, Dump(json), path); !status.ok()) {
    return status;
  }
  measurements_[std::make_pair(measurement.document, measurement.eps)] = measurement;
  return absl::OkStatus();
}

std::string CalibrationStore::DensePath(const std::string& document) const {
  return absl::StrCat("dense/", document, "-", TextKey(setup_.model).substr(0, 8),
                      ".bin");
}

// A line of JSON, then the logprobs and the tokens as this machine has them.
absl::Status CalibrationStore::AddDense(const std::string& document,
                                        const DenseRun& run) {
  const std::string payload = BytesOf(run.logprobs) + BytesOf(run.top);
  const Json head = {{"model", setup_.model},  {"tokens", run.logprobs.size()},
                     {"macs", run.macs},       {"columns", run.columns},
                     {"seconds", run.seconds}, {"payload", TextKey(payload)}};
  return WriteFile(DensePath(document), Dump(head) + payload);
}

std::optional<DenseRun> CalibrationStore::FindDense(const std::string& document) const {
  const auto bytes = ReadFileBytes(absl::StrCat(folder_, "/", DensePath(document)));
  if (!bytes.ok()) return std::nullopt;
  const size_t end = bytes->find('\n');
  if (end == std::string::npos) return std::nullopt;
  try {
    const Json head = Json::parse(bytes->substr(0, end));
    const std::string_view payload = std::string_view(*bytes).substr(end + 1);
    const auto tokens = head.at("tokens").get<size_t>();
    if (head.at("model") != setup_.model || head.at("payload") != TextKey(payload) ||
        payload.size() != tokens * (sizeof(float) + sizeof(int32_t))) {
      return std::nullopt;
    }
    const size_t half = tokens * sizeof(float);
    return DenseRun{.logprobs = ValuesOf<float>(payload.substr(0, half)),
                    .top = ValuesOf<int32_t>(payload.substr(half)),
                    .macs = head.at("macs").get<double>(),
                    .columns = head.at("columns").get<double>(),
                    .seconds = head.at("seconds").get<double>()};
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

absl::Status CalibrationStore::WriteFile(const std::string& name,
                                         std::string_view contents) const {
  const std::string path = absl::StrCat(folder_, "/", name);
  const std::string half = path + ".part";
  const int fd = open(half.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return CannotUse(path, std::strerror(errno));
  absl::Status status = WriteAll(fd, contents, half);
  if (close(fd) != 0 && status.ok()) status = CannotUse(path, std::strerror(errno));
  if (!status.ok()) return status;
  if (rename(half.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return CannotUse(path, std::strerror(errno));
}

}  // namespace quire::cli

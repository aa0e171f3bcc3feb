#include "core/schedule/trace.h"

#include <algorithm>
#include <charconv>
#include <concepts>
#include <limits>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/to_absl.h"

// Each kind of line is described once, by a function that visits its numbers in order: a
// Writer and a Reader are its visitors.
namespace quire {
namespace {

constexpr std::string_view kOptionsTag = "quire-schedule 1";
constexpr std::string_view kEntryTag = "step";
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
// Sums of two of these do not overflow.
constexpr int64_t kMaxNs = (int64_t{1} << 62) - 1;
constexpr int64_t kNeverSparseText = -1;  // how kNeverSparse is written

class Writer {
 public:
  explicit Writer(std::string_view tag) : line_(tag) {}

  template <typename Integer>
  void Number(const char*, const Integer& value, int64_t, int64_t) {
    absl::StrAppend(&line_, " ", value);
  }
  void Id(const RequestId& id) {
    absl::StrAppend(&line_, " ", static_cast<uint64_t>(id));
  }
  template <typename Element, typename Visit>
  void List(const char*, const std::vector<Element>& list, Visit visit) {
    absl::StrAppend(&line_, " ", list.size());
    for (const Element& element : list) visit(*this, element);
  }

  std::string Take() { return std::move(line_); }

 private:
  std::string line_;
};

// Reads what a Writer wrote and nothing else; the first error stays.
class Reader {
 public:
  Reader(std::string_view tag, std::string_view line) : rest_(line) {
    if (line.substr(0, tag.size()) != tag) {
      Fail(absl::StrCat("the line does not begin with \"", ToAbsl(tag), "\""));
    } else {
      rest_.remove_prefix(tag.size());
    }
  }

  template <typename Integer>
  void Number(const char* name, Integer& value, int64_t least, int64_t most) {
    const int64_t number = Next<int64_t>(name);
    if (!status_.ok()) return;
    if (number < least || number > most) {
      return Fail(absl::StrCat(name, " is ", number, "; it must be in [", least, ", ",
                               most, "]"));
    }
    value = static_cast<Integer>(number);
  }
  void Id(RequestId& id) { id = RequestId{Next<uint64_t>("id")}; }

  template <typename Element, typename Visit>
  void List(const char* name, std::vector<Element>& list, Visit visit) {
    int64_t count = 0;
    // An element takes two characters at least: memory is bounded by the line's length.
    Number(name, count, 0, static_cast<int64_t>(rest_.size()) / 2);
    for (int64_t i = 0; i < count && status_.ok(); ++i) visit(*this, list.emplace_back());
  }

  void Fail(absl::string_view message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(message);
  }
  absl::Status Finish() {
    if (!rest_.empty()) Fail(absl::StrCat(rest_.size(), " characters too many"));
    return status_;
  }

 private:
  // A space and an integer as StrCat would write it.
  template <std::integral Integer>
  Integer Next(const char* name) {
    Integer value = 0;
    if (!status_.ok()) return value;
    if (rest_.empty()) return Fail(absl::StrCat(name, " is missing")), value;
    const size_t end = std::min(rest_.find(' ', 1), rest_.size());
    const std::string_view digits = rest_.substr(1, end - 1);
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool padded =
        digits.substr(0, 2) == "-0" || (digits.size() > 1 && digits.substr(0, 1) == "0");
    if (rest_[0] != ' ' || error != std::errc() || padded ||
        stop != digits.data() + digits.size()) {
      Fail(absl::StrCat(name, " is not an integer"));
    }
    rest_.remove_prefix(end);
    return value;
  }

  std::string_view rest_;
  absl::Status status_;
};

template <typename Visitor, typename Options>
void VisitOptions(Visitor& v, Options& o) {
  v.Number("max_running", o.max_running, 1, kMaxInt32);
  v.Number("step_tokens", o.step_tokens, 1, kMaxInt32);
  v.Number("long_prompt_tokens", o.long_prompt_tokens, 1, kMaxInt32);
  v.Number("max_long_prefills", o.max_long_prefills, 1, kMaxInt32);
  v.Number("step_ns", o.step_ns, 0, kMaxInt64);
  v.Number("decode_stretch_percent", o.decode_stretch_percent, 1, kMaxInt32);
  v.Number("min_chunk_tokens", o.min_chunk_tokens, 1, kMaxInt32);
  v.Number("aging_ns", o.aging_ns, 1, kMaxInt64);
  v.Number("overdue_ns", o.overdue_ns, 1, kMaxInt64);
  v.Number("spare_blocks", o.spare_blocks, 0, kMaxInt32);
  v.Number("kv.num_blocks", o.kv.num_blocks, 1, kMaxInt32);
  v.Number("kv.tokens_per_block", o.kv.tokens_per_block, 1, kMaxInt32);
}

template <typename Visitor, typename Cost>
void VisitCost(Visitor& v, Cost& c) {
  v.Number("step_ps", c.step_ps, 0, kMaxInt64);
  v.Number("row_ps", c.row_ps, 0, kMaxInt64);
  v.Number("sequence_ps", c.sequence_ps, 0, kMaxInt64);
  v.Number("sample_ps", c.sample_ps, 0, kMaxInt64);
  v.Number("prefill_column_ps", c.prefill_column_ps, 0, kMaxInt64);
  v.Number("decode_column_ps", c.decode_column_ps, 0, kMaxInt64);
  v.Number("sparse_row_ps", c.sparse_row_ps, 0, kMaxInt64);
  v.Number("scanned_column_ps", c.scanned_column_ps, 0, kMaxInt64);
}

// The flags and sparse_from in the form in which they are written.
struct Packed {
  int64_t flags = 0;
  int64_t sparse_from = 0;
};

Packed Pack(const ScheduledRequest& r) {
  return {
      (r.running ? 1 : 0) | (r.samples ? 2 : 0) | (r.pinned ? 4 : 0) | (r.whole ? 8 : 0),
      r.sparse_from == kNeverSparse ? kNeverSparseText : r.sparse_from};
}

void Unpack(const Packed& packed, ScheduledRequest& r) {
  r.running = (packed.flags & 1) != 0;
  r.samples = (packed.flags & 2) != 0;
  r.pinned = (packed.flags & 4) != 0;
  r.whole = (packed.flags & 8) != 0;
  r.sparse_from =
      packed.sparse_from == kNeverSparseText ? kNeverSparse : packed.sparse_from;
}

template <typename Visitor, typename Request, typename PackedT>
void VisitRequest(Visitor& v, Request& r, PackedT& packed) {
  v.Id(r.id);
  v.Number("tenant", r.tenant, 0, kMaxInt32);
  v.Number("priority", r.priority, kBestPriority, kWorstPriority);
  v.Number("accepted_ns", r.accepted_ns, -kMaxNs, kMaxNs);
  v.Number("flags", packed.flags, 0, 15);
  v.Number("known_tokens", r.known_tokens, 0, kMaxInt32);
  v.Number("computed_tokens", r.computed_tokens, 0, kMaxInt32);
  v.Number("prompt_tokens", r.prompt_tokens, 0, kMaxInt32);
  v.Number("max_tokens", r.max_tokens, 0, kMaxInt32);
  v.Number("sparse_from", packed.sparse_from, kNeverSparseText, kNeverSparse - 1);
  v.Number("held_blocks", r.held_blocks, 0, kMaxInt32);
  v.Number("freed_blocks", r.freed_blocks, 0, kMaxInt32);
  v.Number("shared_blocks", r.shared_blocks, 0, kMaxInt32);
}

void Visit(Writer& writer, const ScheduledRequest& request) {
  const Packed packed = Pack(request);
  VisitRequest(writer, request, packed);
}

void Visit(Reader& reader, ScheduledRequest& request) {
  Packed packed;
  VisitRequest(reader, request, packed);
  Unpack(packed, request);
}

template <typename Visitor, typename Entry>
void VisitEntry(Visitor& v, Entry& e) {
  v.Number("now_ns", e.state.now_ns, -kMaxNs, kMaxNs);
  v.Number("free_blocks", e.state.free_blocks, 0, kMaxInt32);
  VisitCost(v, e.state.cost);
  v.List("tenants", e.state.served_tokens, [](auto& visitor, auto& served) {
    visitor.Number("served_tokens", served, 0, kMaxNs);
  });
  v.List("requests", e.state.requests,
         [](auto& visitor, auto& request) { Visit(visitor, request); });
  v.List("preempt", e.plan.preempt, [](auto& visitor, auto& id) { visitor.Id(id); });
  v.List("items", e.plan.items, [](auto& visitor, auto& item) {
    visitor.Id(item.id);
    visitor.Number("rows", item.rows, 1, kMaxInt32);
    visitor.Number("starts", item.starts, 0, 1);
    visitor.Number("blocks", item.blocks, 0, kMaxInt32);
  });
}

// What PlanStep relies on and a range does not say.
void CheckState(Reader& reader, const ScheduleState& state) {
  std::vector<RequestId> ids;
  for (const ScheduledRequest& request : state.requests) {
    ids.push_back(request.id);
    if (request.tenant >= state.served_tokens.size()) reader.Fail("tenant is unknown");
    if (request.computed_tokens > request.known_tokens ||
        request.prompt_tokens > request.known_tokens) {
      reader.Fail("computed_tokens and prompt_tokens must be at most known_tokens");
    }
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) {
    reader.Fail("two requests have the same id");
  }
}

}  // namespace

std::string FormatTraceOptions(const ScheduleOptions& options) {
  Writer writer(kOptionsTag);
  VisitOptions(writer, options);
  return writer.Take();
}

std::string FormatTraceEntry(const TraceEntry& entry) {
  Writer writer(kEntryTag);
  VisitEntry(writer, entry);
  return writer.Take();
}

absl::StatusOr<ScheduleOptions> ParseTraceOptions(std::string_view line) {
  Reader reader(kOptionsTag, line);
  ScheduleOptions options;
  VisitOptions(reader, options);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  if (absl::Status status = options.Validate(); !status.ok()) return status;
  return options;
}

absl::StatusOr<TraceEntry> ParseTraceEntry(std::string_view line) {
  Reader reader(kEntryTag, line);
  TraceEntry entry;
  VisitEntry(reader, entry);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  CheckState(reader, entry.state);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return entry;
}

}  // namespace quire

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/top_view.h"

namespace quire::cli {
namespace {

constexpr absl::Duration kMinInterval = absl::Milliseconds(100);
constexpr absl::Duration kMaxInterval = absl::Hours(1);
// A server that hangs is as good as gone.
constexpr absl::Duration kPatience = absl::Seconds(5);
// A window that was resized is drawn anew within this.
constexpr absl::Duration kLookAtSize = absl::Milliseconds(200);

// The alternate screen, so that the terminal is afterwards as it was; no cursor.
constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l";
constexpr std::string_view kLeave = "\x1b[?25h\x1b[?1049l";

// Drawn over the last frame, so that nothing flickers.
std::string Frame(const std::vector<std::string>& lines) {
  std::string frame = "\x1b[H";
  for (size_t i = 0; i < lines.size(); ++i) {
    absl::StrAppend(&frame, i == 0 ? "" : "\r\n", lines[i], "\x1b[K");
  }
  return absl::StrCat(frame, "\x1b[J");
}

// What may be over at the next look.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

class Top {
 public:
  Top(const Session& session, absl::Duration interval)
      : session_(session),
        environment_(session.environment()),
        out_(environment_.out),
        interval_(interval) {
    state_.server = session.flags().server;
  }

  // One look at every model. Errors: of the first call that failed.
  absl::Status Look() {
    absl::Status listed = known_ ? absl::OkStatus() : List();
    // A server that drains lists no more, but still tells its load.
    if (!listed.ok() && state_.models.empty()) return listed;
    known_ = listed.ok();
    for (TopModel& model : state_.models) {
      absl::StatusOr<v1::Load> load =
          session_.client().GetLoad(model.load.model(), NewCall());
      if (!load.ok()) {
        known_ = false;
        return load.status();
      }
      model.load = *std::move(load);
      model.rates.push_back(model.load.prompt_tokens_per_second() +
                            model.load.generated_tokens_per_second());
      if (model.rates.size() > kTopRates) model.rates.pop_front();
    }
    seen_ = environment_.now();
    return absl::OkStatus();
  }

  absl::Status Print() const {
    if (!session_.flags().json) {
      std::string text;
      const TopLook look = {.columns = out_.columns(), .unicode = environment_.unicode};
      for (const std::string& line : RenderTop(state_, look)) {
        absl::StrAppend(&text, line, "\n");
      }
      return session_.screen().Print(text);
    }
    Json models = Json::array();
    for (const TopModel& model : state_.models) models.push_back(ToJson(model.load));
    return session_.PrintJson({{"models", std::move(models)}}, "");
  }

  // Until it is interrupted, or what is wrong will not pass.
  absl::Status Watch() {
    if (absl::Status status = out_.Write(kEnter); !status.ok()) return status;
    const absl::Cleanup leave = [this] { out_.Write(kLeave).IgnoreError(); };
    while (!interrupted()) {
      const absl::Status status = Look();
      if (interrupted()) break;
      // A server that was restarted may have other models.
      const bool passing = MayPass(status) || seen_ != absl::InfinitePast();
      if (!status.ok() && !passing) return status;
      state_.trouble = std::string(status.message());
      if (absl::Status drawn = DrawUntilNextLook(); !drawn.ok()) return drawn;
    }
    return absl::OkStatus();
  }

 private:
  bool interrupted() const { return environment_.cancel->cancelled(); }

  client::CallOptions NewCall() const {
    client::CallOptions call = session_.NewCall();
    if (call.deadline == absl::ZeroDuration()) call.deadline = kPatience;
    return call;
  }

  absl::Status List() {
    std::vector<v1::Model> models;
    if (const std::string& name = session_.flags().model; !name.empty()) {
      absl::StatusOr<v1::Model> model = session_.client().GetModel(name, NewCall());
      if (!model.ok()) return model.status();
      models.push_back(*std::move(model));
    } else {
      auto list = session_.client().ListModels(NewCall());
      if (!list.ok()) return list.status();
      models.assign(list->models().begin(), list->models().end());
    }
    std::vector<TopModel> old = std::exchange(state_.models, {});
    for (v1::Model& model : models) {
      TopModel& entry = state_.models.emplace_back();
      for (TopModel& before : old) {
        if (before.model.name() == model.name()) entry = std::move(before);
      }
      entry.load.set_model(model.name());
      entry.model = std::move(model);
    }
    return absl::OkStatus();
  }

  absl::Status Draw() {
    state_.stale_seconds = seen_ == absl::InfinitePast()
                               ? 0
                               : absl::ToDoubleSeconds(environment_.now() - seen_);
    return out_.Write(Frame(RenderTop(state_, {.columns = out_.columns(),
                                               .rows = out_.rows(),
                                               .unicode = environment_.unicode,
                                               .colour = Coloured()})));
  }

  absl::Status DrawUntilNextLook() {
    if (absl::Status status = Draw(); !status.ok()) return status;
    std::pair<int, int> size = {out_.columns(), out_.rows()};
    for (absl::Duration left = interval_; left > absl::ZeroDuration() && !interrupted();
         left -= kLookAtSize) {
      environment_.hooks.sleep(std::min(left, kLookAtSize), *environment_.cancel);
      const std::pair<int, int> now = {out_.columns(), out_.rows()};
      if (std::exchange(size, now) == now) continue;
      if (absl::Status status = Draw(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // https://no-color.org
  static bool Coloured() {
    const char* no_color = std::getenv("NO_COLOR");
    return no_color == nullptr || *no_color == '\0';
  }

  const Session& session_;
  Environment& environment_;
  Output& out_;
  const absl::Duration interval_;
  TopState state_;
  bool known_ = false;  // what models there are
  absl::Time seen_ = absl::InfinitePast();
};

}  // namespace

absl::Status RunCommand(const Session& session, const TopFlags& flags) {
  const absl::StatusOr<absl::Duration> interval = ParseTime("--interval", flags.interval);
  if (!interval.ok()) return interval.status();
  if (*interval < kMinInterval || *interval > kMaxInterval) {
    return absl::InvalidArgumentError(absl::StrCat("--interval is \"", flags.interval,
                                                   "\"; it must be in [100ms, 1h]"));
  }
  Top top(session, *interval);
  const bool live =
      session.environment().out.is_terminal() && !flags.once && !session.flags().json;
  if (live) return top.Watch();
  if (absl::Status status = top.Look(); !status.ok()) return status;
  return top.Print();
}

}  // namespace quire::cli

#include "core/tokenizer/tokenizer.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/mapped_file.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/text_library.h"

namespace quire {
namespace {

struct FreeTokenizer {
  void operator()(QuireTokenizer* tokenizer) const { quire_tokenizer_free(tokenizer); }
};

// An encoding that the text library owns.
class OwnedEncoding {
 public:
  OwnedEncoding() = default;
  OwnedEncoding(const OwnedEncoding&) = delete;
  OwnedEncoding& operator=(const OwnedEncoding&) = delete;
  ~OwnedEncoding() { quire_encoding_free(raw); }

  std::vector<TokenId> Ids() const { return {raw.ids, raw.ids + raw.size}; }
  std::vector<ByteSpan> Spans() const {
    std::vector<ByteSpan> spans(raw.size);
    for (size_t i = 0; i < raw.size; ++i) {
      spans[i] = {static_cast<int64_t>(raw.spans[2 * i]),
                  static_cast<int64_t>(raw.spans[2 * i + 1])};
    }
    return spans;
  }

  QuireEncoding raw = {};
};

}  // namespace

struct Tokenizer::Rep {
  explicit Rep(QuireTokenizer* owned)
      : tokenizer(owned), vocabulary(quire_tokenizer_vocabulary(owned)) {}

  absl::Status Encode(std::string_view text, QuireEncodeOptions options,
                      OwnedEncoding& out) const {
    QuireTextBytes error;
    const int32_t code = quire_tokenizer_encode(tokenizer.get(), internal::ToSlice(text),
                                                options, &out.raw, &error);
    return code == QUIRE_TEXT_OK ? absl::OkStatus() : internal::TakeError(code, error);
  }

  bool Contains(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < vocabulary.size;
  }

  const std::unique_ptr<QuireTokenizer, FreeTokenizer> tokenizer;
  const QuireVocabulary vocabulary;  // points into *tokenizer
};

Tokenizer::Tokenizer(std::unique_ptr<const Rep> rep) : rep_(std::move(rep)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& tokenizer_json_path) {
  QUIRE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(tokenizer_json_path));
  const absl::Span<const std::byte> bytes = file.bytes();
  absl::StatusOr<Tokenizer> tokenizer =
      Parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!tokenizer.ok()) {
    return absl::Status(
        tokenizer.status().code(),
        absl::StrCat(tokenizer_json_path, ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<Tokenizer> Tokenizer::Parse(std::string_view json) {
  QuireTokenizer* tokenizer = nullptr;
  QuireTextBytes error;
  const int32_t code = quire_tokenizer_parse(internal::ToSlice(json), &tokenizer, &error);
  if (code != QUIRE_TEXT_OK) {
    // A file that makes the library panic is a bad file, whatever the library thinks of
    // it.
    return absl::InvalidArgumentError(absl::StrCat(
        "not a usable tokenizer: ", internal::TakeError(code, error).message()));
  }
  return Tokenizer(std::make_unique<const Rep>(tokenizer));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special,
                                                       bool parse_special) const {
  OwnedEncoding encoding;
  QUIRE_RETURN_IF_ERROR(rep_->Encode(
      text,
      {.add_special = add_special, .parse_special = parse_special, .with_spans = false},
      encoding));
  return encoding.Ids();
}

absl::StatusOr<Encoding> Tokenizer::EncodeWithSpans(std::string_view text,
                                                    bool add_special,
                                                    bool parse_special) const {
  OwnedEncoding encoding;
  QUIRE_RETURN_IF_ERROR(rep_->Encode(
      text,
      {.add_special = add_special, .parse_special = parse_special, .with_spans = true},
      encoding));
  return Encoding{.ids = encoding.Ids(), .spans = encoding.Spans()};
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const TokenId> ids,
                                              bool skip_special) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!rep_->Contains(ids[i])) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token_ids[", i, "] is ", ids[i], "; it must be in [0, ", vocab_size(), ")"));
    }
  }
  QuireTextBytes text;
  QuireTextBytes error;
  const int32_t code = quire_tokenizer_decode(
      rep_->tokenizer.get(), reinterpret_cast<const uint32_t*>(ids.data()), ids.size(),
      skip_special, &text, &error);
  if (code != QUIRE_TEXT_OK) return internal::TakeError(code, error);
  return internal::TakeText(text);
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  QUIRE_CHECK(rep_->Contains(id));
  const QuireVocabulary& vocabulary = rep_->vocabulary;
  const uint32_t begin = id == 0 ? 0 : vocabulary.ends[id - 1];
  return {vocabulary.bytes + begin, vocabulary.ends[id] - begin};
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return rep_->Contains(id) && rep_->vocabulary.special[id] != 0;
}

TokenId Tokenizer::TokenToId(std::string_view token) const {
  return static_cast<TokenId>(
      quire_tokenizer_token_to_id(rep_->tokenizer.get(), internal::ToSlice(token)));
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(rep_->vocabulary.size);
}

int64_t FirstInvalidUtf8(std::string_view text) {
  return quire_text_first_invalid_utf8(internal::ToSlice(text));
}

}  // namespace quire

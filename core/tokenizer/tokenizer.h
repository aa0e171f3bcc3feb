#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/types.h"

namespace quire {

struct Encoding {
  std::vector<TokenId> ids;
  // spans[i]: bytes of the text that ids[i] covers. In order, and nothing is left out;
  // they overlap only where a token does not stand for bytes of the text (a normalizer
  // changed them). Empty for tokens that the post-processor added.
  std::vector<ByteSpan> spans;
};

// A Hugging Face tokenizer.json (the `tokenizers` library behind a C ABI).
// Immutable after Load; every method is safe to call concurrently.
class Tokenizer {
 public:
  // kNotFound, or kInvalidArgument with the library's message. Truncation and padding of
  // the file are ignored. Decoders known: ByteLevel, ByteFallback, Fuse, Metaspace,
  // Replace (of a string), Strip, sequences of them, and none.
  static absl::StatusOr<Tokenizer> Load(const std::string& tokenizer_json_path);
  // Same, over the file's text.
  static absl::StatusOr<Tokenizer> Parse(std::string_view json);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // add_special: lets the file's post-processor add its tokens (BOS). Special tokens
  // written in the text ("<|im_start|>") are recognised as such when parse_special is
  // true; when it is false they are ordinary text, so that a document cannot forge a chat
  // turn. Takes time and, for byte-level tokenizers of known families, memory
  // proportional to the tokens; others (Llama 2) need some 130 bytes of memory for each
  // byte of text meanwhile. kInvalidArgument: text is not UTF-8 (names the first bad
  // byte's offset).
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool add_special,
                                              bool parse_special) const;
  absl::StatusOr<Encoding> EncodeWithSpans(std::string_view text, bool add_special,
                                           bool parse_special) const;

  // kInvalidArgument names an id outside [0, vocab_size()).
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids,
                                     bool skip_special) const;

  // The bytes that one token adds in the middle of a text; they may split a UTF-8
  // character. Empty for special tokens. REQUIRES: 0 <= id < vocab_size().
  std::string_view TokenBytes(TokenId id) const;
  bool IsSpecial(TokenId id) const;
  // The id of a token by its text, or -1.
  TokenId TokenToId(std::string_view token) const;
  int32_t vocab_size() const;

 private:
  struct Rep;
  explicit Tokenizer(std::unique_ptr<const Rep> rep);
  std::unique_ptr<const Rep> rep_;
};

// Offset of the first byte that is not valid UTF-8 (surrogates and overlong forms are
// not), or -1.
int64_t FirstInvalidUtf8(std::string_view text);

}  // namespace quire

#pragma once

// The C ABI of the Rust crate in this folder (tokenizers, minijinja). Only tokenizer.cc
// and chat_template.cc include it. Strings are (pointer, size) pairs, may hold NUL bytes,
// and are not copied unless said. No panic and no exception crosses it.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QuireTokenizer QuireTokenizer;  // immutable, safe to use concurrently
typedef struct QuireTemplate QuireTemplate;    // immutable, safe to use concurrently

// What the functions return. If it is not OK, *error holds a message to be freed and the
// other outputs are untouched.
enum {
  QUIRE_TEXT_OK = 0,
  QUIRE_TEXT_INVALID = 1,   // the input is wrong
  QUIRE_TEXT_INTERNAL = 2,  // a panic inside the library
};

// Borrowed bytes; data may be null if size is 0.
typedef struct QuireTextSlice {
  const char* data;
  size_t size;
} QuireTextSlice;

// Bytes owned by the crate.
typedef struct QuireTextBytes {
  char* data;
  size_t size;
} QuireTextBytes;
void quire_text_bytes_free(QuireTextBytes bytes);

// Offset of the first byte that is not valid UTF-8, or -1.
int64_t quire_text_first_invalid_utf8(QuireTextSlice text);

// ---- Tokenizer

int32_t quire_tokenizer_parse(QuireTextSlice json, QuireTokenizer** out,
                              QuireTextBytes* error);
void quire_tokenizer_free(QuireTokenizer* tokenizer);

typedef struct QuireEncoding {
  uint32_t* ids;    // [size]
  uint64_t* spans;  // [size, 2] byte offsets into the text, or null if not asked for
  size_t size;
} QuireEncoding;
void quire_encoding_free(QuireEncoding encoding);

typedef struct QuireEncodeOptions {
  bool add_special;
  bool parse_special;
  bool with_spans;
} QuireEncodeOptions;
int32_t quire_tokenizer_encode(const QuireTokenizer* tokenizer, QuireTextSlice text,
                               QuireEncodeOptions options, QuireEncoding* out,
                               QuireTextBytes* error);

int32_t quire_tokenizer_decode(const QuireTokenizer* tokenizer, const uint32_t* ids,
                               size_t size, bool skip_special, QuireTextBytes* out,
                               QuireTextBytes* error);

// The id of a token by its text, or -1.
int64_t quire_tokenizer_token_to_id(const QuireTokenizer* tokenizer,
                                    QuireTextSlice token);

// A view of tables that live as long as the tokenizer.
typedef struct QuireVocabulary {
  const char* bytes;       // of all tokens, one after another
  const uint32_t* ends;    // [size]: token i is bytes[i ? ends[i - 1] : 0, ends[i])
  const uint8_t* special;  // [size]: 1 if token i is special
  size_t size;             // highest id + 1
} QuireVocabulary;
QuireVocabulary quire_tokenizer_vocabulary(const QuireTokenizer* tokenizer);

// ---- Chat template

int32_t quire_template_parse(QuireTextSlice source, QuireTemplate** out,
                             QuireTextBytes* error);
void quire_template_free(QuireTemplate* chat_template);

typedef struct QuireChatMessage {
  QuireTextSlice role;
  QuireTextSlice content;
} QuireChatMessage;

typedef struct QuireTemplateInput {
  const QuireChatMessage* messages;
  size_t message_count;
  QuireTextSlice bos_token;
  QuireTextSlice eos_token;
  bool add_generation_prompt;
  int64_t now_unix_seconds;  // what strftime_now() formats, in local time
} QuireTemplateInput;
int32_t quire_template_render(const QuireTemplate* chat_template,
                              const QuireTemplateInput* input, QuireTextBytes* out,
                              QuireTextBytes* error);

#ifdef __cplusplus
}  // extern "C"
#endif

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace quire::cli {

// Bytes of the well-formed UTF-8 character (Unicode 15, table 3-7) that `text` begins
// with; 0: it does not begin with one, or is empty.
size_t Utf8CharacterSize(std::string_view text);

// Columns a terminal gives the well-formed character: 0, 1 or 2. An estimate: combining
// marks and East Asian wide blocks, without the tables that change with every Unicode
// version.
int Utf8Columns(std::string_view character);

// Offset of the first byte that is not part of a well-formed character.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

// The text with what could drive a terminal made visible: control characters except
// newline and tab become their pictures (U+2400 and on), C1 controls, overrides of the
// writing direction and bytes that are not UTF-8 become U+FFFD. A model's answer, or an
// error that quotes it, is not to be trusted with a terminal.
std::string Neutralise(std::string_view text);

}  // namespace quire::cli

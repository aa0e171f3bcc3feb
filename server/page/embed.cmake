# cmake -DOUT=FILE.cc "-DFILES=NAME=PATH|NAME=PATH..." -P embed.cmake
#
# Writes a source file that holds the files' bytes and lists them in EmbeddedAssets(), so that
# the server needs none of them when it runs.
string(REPLACE "|" ";" FILES "${FILES}")
set(arrays "")
set(table "")
set(number 0)
foreach(entry IN LISTS FILES)
  string(REGEX MATCH "^([^=]*)=(.*)$" matched "${entry}")
  set(name "${CMAKE_MATCH_1}")
  file(READ "${CMAKE_MATCH_2}" hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "constexpr unsigned char kFile${number}[] = {${bytes}0};\n")
  string(APPEND table
    "      {\"${name}\", {reinterpret_cast<const char*>(kFile${number}), ${size}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE "${OUT}" "#include \"server/page/assets.h\"

namespace quire::server {
namespace {
${arrays}}  // namespace

absl::Span<const Asset> EmbeddedAssets() {
  static const Asset assets[] = {
${table}  };
  return assets;
}

}  // namespace quire::server
")

#include "core/base/mapped_file.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "gtest/gtest.h"
#include "tests/support/temp_path.h"

namespace quire {
namespace {

// Mapped, then removed: the mapping keeps the bytes.
absl::StatusOr<MappedFile> OpenFileWith(std::string_view content) {
  const std::string path = TempPath("mapped_file");
  std::ofstream(path, std::ios::binary) << content;
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  std::remove(path.c_str());
  return file;
}

std::string_view Text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFileTest, ShowsTheBytesAlsoAfterMoveAndRelease) {
  absl::StatusOr<MappedFile> opened = OpenFileWith("hello");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const std::byte* const address = opened->bytes().data();
  MappedFile moved = *std::move(opened);
  moved.Release();
  EXPECT_EQ(Text(moved), "hello");
  EXPECT_EQ(moved.bytes().data(), address);
}

TEST(MappedFileTest, EmptyFileIsAnEmptySpan) {
  const absl::StatusOr<MappedFile> file = OpenFileWith("");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFileTest, RefusesWhatIsNoFileAndNamesThePath) {
  const absl::Status missing = MappedFile::Open("/nonexistent/quire").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("/nonexistent/quire"), std::string_view::npos);
  const absl::Status folder = MappedFile::Open(testing::TempDir()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire

#include "core/base/mapped_file.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "gtest/gtest.h"

namespace quire {
namespace {

std::string WriteFile(const std::string& name, std::string_view content) {
  const std::string path = testing::TempDir() + "/mapped_file_test_" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string_view Text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFileTest, ShowsTheBytesAlsoAfterMoveAndRelease) {
  absl::StatusOr<MappedFile> opened = MappedFile::Open(WriteFile("bytes", "hello"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  const std::byte* const address = opened->bytes().data();
  MappedFile moved = *std::move(opened);
  moved.Release();
  EXPECT_EQ(Text(moved), "hello");
  EXPECT_EQ(moved.bytes().data(), address);
}

TEST(MappedFileTest, EmptyFileIsAnEmptySpan) {
  const absl::StatusOr<MappedFile> file = MappedFile::Open(WriteFile("empty", ""));
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

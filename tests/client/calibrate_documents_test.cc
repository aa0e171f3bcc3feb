#include "client/cli/calibrate_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/temp_path.h"

namespace quire::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FindDocumentsTest : public ::testing::Test {
 protected:
  FindDocumentsTest() { fs::create_directories(folder_); }
  ~FindDocumentsTest() override { fs::remove_all(folder_); }

  void Write(const std::string& path, const std::string& text) {
    const fs::path whole = fs::path(folder_) / path;
    fs::create_directories(whole.parent_path());
    std::ofstream(whole, std::ios::binary) << text;
  }
  DocumentFolder Find(const DocumentLimits& limits = {}, uint64_t seed = 1) {
    auto found = FindDocuments(folder_, limits, seed);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *std::move(found) : DocumentFolder{};
  }
  static std::vector<std::string> Paths(const DocumentFolder& folder) {
    std::vector<std::string> paths;
    for (const DocumentFile& file : folder.documents) paths.push_back(file.path);
    return paths;
  }

  const std::string folder_ = TempPath("calibrate_documents");
};

TEST_F(FindDocumentsTest, TextAndMarkdownInAllFolders) {
  Write("b.txt", "two");
  Write("a.md", "one");
  Write("deep/er/c.MARKDOWN", "three");
  Write("d.text", "four");
  Write("e.pdf", "%PDF");
  Write("deep/README", "five");
  const DocumentFolder found = Find();
  EXPECT_THAT(Paths(found), ElementsAre("a.md", "b.txt", "d.text", "deep/er/c.MARKDOWN"));
  EXPECT_EQ(found.others, 2);
  EXPECT_TRUE(found.skipped.empty());
  EXPECT_EQ(found.documents[1].bytes, 3);
  EXPECT_EQ(found.documents[1].key, TextKey("two"));
}

TEST_F(FindDocumentsTest, WhatCannotBeSentIsNamedWithTheReason) {
  Write("binary.txt", std::string("ab\0c", 4));
  Write("blank.txt", " \n\t ");
  Write("empty.md", "");
  Write("latin1.txt", "caf\xe9");
  Write("long.txt", std::string(101, 'x'));
  Write("same1.txt", "same");
  Write("same2.txt", "same");
  const DocumentFolder found = Find({.max_bytes = 100});
  EXPECT_THAT(Paths(found), ElementsAre("same1.txt"));
  std::vector<std::string> lines;
  for (const SkippedFile& file : found.skipped) {
    lines.push_back(absl::StrCat(file.path, ": ", file.why));
  }
  EXPECT_THAT(lines, ElementsAre("binary.txt: binary: byte 2 is zero",
                                 "blank.txt: nothing but white space", "empty.md: empty",
                                 "latin1.txt: not UTF-8: byte 0xE9 at offset 3",
                                 "long.txt: 0.1 kB; a document has at most 0.1 kB",
                                 "same2.txt: the same text as same1.txt"));
}

TEST_F(FindDocumentsTest, AFileThatMayNotBeReadIsSkipped) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  Write("secret.txt", "x");
  fs::permissions(folder_ + "/secret.txt", fs::perms::none);
  const DocumentFolder found = Find();
  ASSERT_EQ(found.skipped.size(), 1u);
  EXPECT_EQ(found.skipped[0].why, "Permission denied");
}

TEST_F(FindDocumentsTest, LinksToFoldersAreNotEnteredSoNothingIsReadForEver) {
  Write("a.txt", "one");
  fs::create_directory_symlink(folder_, folder_ + "/loop");
  fs::create_symlink("nowhere", folder_ + "/dangling.txt");
  EXPECT_THAT(Paths(Find()), ElementsAre("a.txt"));
}

TEST_F(FindDocumentsTest, AnEmptyFolderHasNoDocuments) {
  EXPECT_TRUE(Find().documents.empty());
}

TEST_F(FindDocumentsTest, NoFolderIsAnError) {
  const auto missing = FindDocuments(folder_ + "/none", {}, 1);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/none\": "));
  Write("a.txt", "one");
  const auto file = FindDocuments(folder_ + "/a.txt", {}, 1);
  EXPECT_EQ(std::string(file.status().message()),
            "cannot read \"" + folder_ + "/a.txt\": it is not a folder");
}

TEST_F(FindDocumentsTest, OfManyASampleIsDrawnByTheSeed) {
  for (int i = 10; i < 40; ++i) Write(absl::StrCat(i, ".txt"), absl::StrCat("text ", i));
  const DocumentFolder first = Find({.max_documents = 5}, 1);
  EXPECT_EQ(first.documents.size(), 5u);
  EXPECT_EQ(first.not_drawn, 25);
  EXPECT_EQ(Paths(first), Paths(Find({.max_documents = 5}, 1)));
  EXPECT_NE(Paths(first), Paths(Find({.max_documents = 5}, 2)));
  EXPECT_TRUE(
      std::is_sorted(first.documents.begin(), first.documents.end(),
                     [](const auto& a, const auto& b) { return a.path < b.path; }));
}

TEST_F(FindDocumentsTest, ADocumentThatChangesMeanwhileIsNoticed) {
  Write("a.txt", "one");
  const DocumentFile file = Find().documents[0];
  EXPECT_EQ(*ReadAgain(folder_, file), "one");
  for (const char* text : {"two", "longer than before", ""}) {
    Write("a.txt", text);
    EXPECT_EQ(ReadAgain(folder_, file).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  fs::remove(folder_ + "/a.txt");
  EXPECT_EQ(ReadAgain(folder_, file).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(TextKeyTest, IsFixedAndTellsTextsApart) {
  EXPECT_EQ(TextKey(""), "cbf29ce4842223256c62272e07bb0142");
  EXPECT_EQ(TextKey("a").substr(0, 16), "af63dc4c8601ec8c");  // published for FNV-1a
  EXPECT_NE(TextKey("ab"), TextKey("ba"));
}

}  // namespace
}  // namespace quire::cli

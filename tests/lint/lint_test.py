"""The checks of this folder find what they are for: each case makes a small repository."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class CheckCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, path, text):
        path = os.path.join(self.folder.name, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def check(self, script, *arguments):
        """(exit code, lines of output)"""
        run = subprocess.run(
            [sys.executable, os.path.join(HERE, script), self.folder.name, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(run.stderr, "")
        return run.returncode, run.stdout.splitlines()


class IncludesTest(CheckCase):
    def assert_refused(self, path, header):
        self.write(path, f"#include <vector>\n#include {header}\n")
        name = header.strip('"<>')
        error = f'{path}:2: includes "{name}", which layers.txt does not allow it'
        self.assertEqual(self.check("check_includes.py"), (1, [error]))

    def assert_allowed(self, path, header):
        self.write(path, f"#include <sys/mman.h>\n#include {header}\n")
        self.assertEqual(
            self.check("check_includes.py"), (0, ["1 files: every include is in the table"])
        )

    def test_allowed_edges(self):
        for path, header in (
            ("core/engine/engine.cc", '"core/step/step.h"'),
            ("core/kernels/cpu/linear.cc", '"ATen/ops/linear.h"'),
            ("core/kernels/cpu/linear.cc", "<ATen/ops/linear.h>"),
            ("core/kernels/cuda/decode.cu", "<cuda_runtime.h>"),
            ("core/runner/cuda_runner.cc", "<cuda_runtime.h>"),
            ("server/rpc/calls.cc", '"core/summarize/summarizer.h"'),
            ("server/app.cc", '"core/runner/runner.h"'),
            ("client/client.cc", '"quire/v1/inference.grpc.pb.h"'),
        ):
            with self.subTest(path=path, header=header):
                self.assert_allowed(path, header)
                os.remove(os.path.join(self.folder.name, path))

    def test_refused_edges(self):
        for path, header in (
            ("core/base/clock.cc", '"core/engine/engine.h"'),
            ("core/step/step.h", '"core/engine/engine.h"'),
            ("core/engine/engine.cc", '"core/runner/runner.h"'),
            ("core/engine/engine.cc", '"ATen/core/Tensor.h"'),
            ("core/tokenizer/tokenizer.cc", "<torch/torch.h>"),
            ("core/engine/engine.cc", "<cuda_runtime.h>"),
            ("core/kernels/cuda/decode.cuh", '"ATen/core/Tensor.h"'),
            ("core/engine/engine.cc", "<grpcpp/grpcpp.h>"),
            ("core/engine/engine.cc", "<prometheus/counter.h>"),
            ("core/summarize/summarizer.cc", '"quire/v1/inference.pb.h"'),
            ("core/runner/runner.cc", '"core/engine/engine.h"'),
            ("core/kernels/dispatch.cc", '"core/model/model.h"'),
            ("server/rpc/calls.cc", '"core/runner/runner.h"'),
            ("server/app.cc", '"core/model/model.h"'),
            ("server/main.cc", '"core/kernels/kernels.h"'),
            ("client/client.cc", '"core/base/types.h"'),
            ("client/cli/main.cc", '"server/config.h"'),
            ("core/base/clock.cc", '"clock.h"'),
            ("core/base/clock.cc", "<gtest/gtest.h>"),
        ):
            with self.subTest(path=path, header=header):
                self.assert_refused(path, header)
                os.remove(os.path.join(self.folder.name, path))

    def test_folder_without_a_layer(self):
        self.write("core/novel/novel.h", "")
        error = "core/novel/novel.h:1: is in a folder that layers.txt does not have"
        self.assertEqual(self.check("check_includes.py"), (1, [error]))

    def test_no_sources_at_all_is_an_error(self):
        self.assertEqual(self.check("check_includes.py")[0], 1)

    def test_malformed_table(self):
        self.write("table.txt", "core/base: absl/\ncore/base: core/kv/\n")
        table = os.path.join(self.folder.name, "table.txt")
        self.assertEqual(self.check("check_includes.py", table)[0], 2)


class SourcesTest(CheckCase):
    def assert_finds(self, path, text, error):
        self.write(path, text)
        code, lines = self.check("check_sources.py")
        self.assertEqual((code, lines), (1, [f"{path}:{error}"]))

    def test_clean(self):
        self.write("a.cc", "int F(int a) {\n" + "  ++a;\n" * 68 + "}\n" + "\n" * 430)
        self.write("b.sh", "#!/usr/bin/env bash\necho todos\n")
        self.assertEqual(self.check("check_sources.py"), (0, ["2 files are clean"]))

    def test_long_file(self):
        self.assert_finds("a.py", "\n" * 501, "1: has 501 lines; at most 500 are allowed")

    def test_long_function(self):
        text = "int F(int a,\n      int b) {\n" + "  ++a;\n" * 68 + "}\n\nvoid G() {\n}\n"
        self.assert_finds("a.cc", text, "1: a function of 71 lines; at most 70")

    def test_long_line(self):
        self.assert_finds("a.h", "\n// " + "x" * 98, "2: 101 columns; at most 100 are allowed")

    def test_marks(self):
        mark = "TO" + "DO"
        self.assert_finds("a.rs", f"// {mark}: x", f"1: a mark of unfinished work: // {mark}: x")

    def test_paths_of_a_machine(self):
        path = "/ho" + "me/alice/"
        self.assert_finds("a.md", f"see {path}b", f"1: a path of one machine: see {path}b")

    def test_registry_addresses(self):
        host = "py" + "pi.org"
        self.assert_finds("a.yaml", host, f"1: the address of a package registry: {host}")

    def test_build_folders_are_not_read(self):
        self.write("build/a.cc", "\n" * 501)
        self.write("a.cc", "")
        self.assertEqual(self.check("check_sources.py"), (0, ["1 files are clean"]))


if __name__ == "__main__":
    unittest.main()

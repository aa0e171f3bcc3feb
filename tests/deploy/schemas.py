"""Builds and runs the Go program in schema_check/, from the module cache alone: tests download
nothing."""

import functools
import os
import shutil
import subprocess
import tempfile

import monitoring

FOLDER = os.path.join(monitoring.HERE, "schema_check")
FETCH = "run `go mod download` in tests/deploy/schema_check to get it"


def find_go():
    usual = "/usr/local/go/bin/go"
    return shutil.which("go") or (usual if os.path.exists(usual) else None)


@functools.lru_cache(maxsize=None)
def build():
    """(program, None) or (None, why there is none)"""
    go = find_go()
    if go is None:
        return None, "go is not installed"
    folder = tempfile.mkdtemp()
    program = os.path.join(folder, "schema_check")
    built = subprocess.run(
        [go, "build", "-mod=readonly", "-o", program, "."], cwd=FOLDER,
        env={**os.environ, "GOPROXY": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if built.returncode == 0:
        return program, None
    shutil.rmtree(folder)
    if "module lookup disabled by GOPROXY=off" in built.stderr:
        return None, f"a Go module is not in the cache; {FETCH}"
    if "go.mod requires go" in built.stderr:
        return None, "go is too old: " + built.stderr.strip().splitlines()[-1]
    raise AssertionError(built.stderr)


def run(test, *arguments):
    """(exit code, output); skips the test where the program cannot be built."""
    program, reason = build()
    if program is None:
        test.skipTest(reason)
    test.addClassCleanup(shutil.rmtree, os.path.dirname(program), ignore_errors=True)
    test.addClassCleanup(build.cache_clear)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr

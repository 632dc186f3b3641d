#!/usr/bin/env python3
"""Makes what a release is: an archive, a Debian package, an SBOM and their checksums. Standard library only.

    dist.py archive --binary FILE --nats FILE --target TRIPLE --out DIR
    dist.py deb     --binary FILE --nats FILE --target TRIPLE --out DIR     needs dpkg-deb
    dist.py sbom    --target TRIPLE [--nats FILE]                           CycloneDX 1.5, on standard output
                    all three: [--features otlp] where the program was built with it
    dist.py glibc   FILE                                                    the least glibc that a program needs

The same files give the same bytes: entries are sorted and belong to root, and all times are SOURCE_DATE_EPOCH, else that
of the last commit, else 0.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf", "riscv64gc": "riscv64"}
# Who makes a package for others is named as Debian's own tools have it.
MAINTAINER = f"{os.environ.get('DEBFULLNAME', 'The authors of Forebay')} <{os.environ.get('DEBEMAIL', 'forebay@localhost')}>"


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def fail(message):
    sys.exit(f"error: {message}")


def version():
    with open(ROOT / "Cargo.toml", "rb") as file:
        return tomllib.load(file)["workspace"]["package"]["version"]


def epoch():
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        return int(run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def least_glibc(program):
    """The newest version that a symbol of the program asks for; None where it needs no glibc."""
    try:
        symbols = run("objdump", "-T", str(program))
    except (OSError, subprocess.CalledProcessError):
        return None
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", symbols)}
    return ".".join(map(str, max(versions))) if versions else None


def machine(program):
    """What an ELF file is for: its class and its machine."""
    with open(program, "rb") as file:
        head = file.read(20)
    return head[4], head[18:20]


def stripped(program, scratch):
    """The program without what only a debugger reads, which is four fifths of it; the names for backtraces stay."""
    if not shutil.which("strip"):
        print("note: strip is missing, so that the program is packed with all that a debugger reads", file=sys.stderr)
        return program
    copy = Path(scratch) / "forebay"
    run("strip", "--strip-debug", "-o", str(copy), str(program))
    return copy


def metadata(target, features):
    wanted = [f"--features=forebay/{feature}" for feature in re.findall(r"[^\s,]+", features)]
    asked = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target, *wanted]
    return json.loads(run(*asked, cwd=ROOT))


def linked(metadata):
    """The packages that the program is linked from, by id, with what each uses: no tools of tests or of the build."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in packages.values() if package["name"] == "forebay")
    uses, waiting = {}, [root]
    while waiting:
        package = waiting.pop()
        if package in uses:
            continue
        deps = nodes[package]["deps"]
        uses[package] = sorted(dep["pkg"] for dep in deps if any(kind["kind"] is None for kind in dep["dep_kinds"]))
        waiting.extend(uses[package])
    return root, {package: packages[package] for package in sorted(uses)}, uses


def sbom(target, nats=None, features=""):
    root, packages, uses = linked(metadata(target, features))
    with open(ROOT / "Cargo.lock", "rb") as file:
        sums = {(it["name"], it["version"]): it.get("checksum") for it in tomllib.load(file)["package"]}

    def ref(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        found = {"type": "library", "bom-ref": ref(package), "name": package["name"], "version": package["version"],
                 "purl": ref(package)}
        if licence := package.get("license"):
            # An old way to write a choice.
            found["licenses"] = [{"expression": licence.replace("/", " OR ")}]
        if checksum := sums.get((package["name"], package["version"])):
            found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return found

    program = component(packages[root]) | {"type": "application"}
    components = [component(package) for id, package in packages.items() if id != root]
    dependencies = [{"ref": ref(packages[id]), "dependsOn": sorted({ref(packages[it]) for it in uses[id]})} for id in packages]
    if nats:
        release = re.search(r"v([0-9.]+)", run(str(nats), "--version")).group(1)
        purl = f"pkg:golang/github.com/nats-io/nats-server/v2@v{release}"
        components.append({"type": "application", "bom-ref": purl, "name": "nats-server", "version": release, "purl": purl,
                           "licenses": [{"expression": "Apache-2.0"}], "hashes": [{"alg": "SHA-256", "content": sha256(nats)}]})
        dependencies.append({"ref": purl, "dependsOn": []})
    when = datetime.fromtimestamp(epoch(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    components.sort(key=lambda it: it["bom-ref"])
    dependencies.sort(key=lambda it: it["ref"])
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([target, when, components]))}",
        "metadata": {"timestamp": when, "component": program, "properties": [{"name": "forebay:target", "value": target}]},
        "components": components, "dependencies": dependencies,
    }


def third_party(target, features):
    root, packages, _ = linked(metadata(target, features))
    ours = [package for id, package in packages.items() if package["source"]]
    lines = ["The libraries that are linked into forebay, with their licences.", ""]
    for package in sorted(ours, key=lambda it: (it["name"], it["version"])):
        lines.append(f"{package['name']} {package['version']}: {package['license'] or 'see its repository'}, "
                     f"{package['repository'] or package['homepage'] or 'crates.io'}")
    return "\n".join(lines) + "\n"


NATS_LICENCE = """nats-server is part of this archive unchanged, as its authors release it: https://github.com/nats-io/nats-server
Copyright The NATS Authors. Licensed under the Apache License, Version 2.0, whose text follows.

"""


def glibc_line(binary):
    needed = least_glibc(binary)
    return f"glibc {needed} or later" if needed else "no library of the system"


def files(arguments):
    """What is in the archive: name, content or path, mode."""
    apache = (ROOT / "LICENSE-APACHE").read_text()
    readme = f"""Forebay {version()} for {arguments.target}

The program is `forebay`, and needs {glibc_line(arguments.binary)}. It starts the `nats-server` beside it, so keep both in
one directory. `./forebay serve --help` says what can be set, README.md what it does.
"""
    listed = json.dumps(sbom(arguments.target, arguments.nats, arguments.features), indent=1, sort_keys=True) + "\n"
    return [
        ("INSTALL", readme.encode(), 0o644),
        ("LICENSE-APACHE", apache.encode(), 0o644),
        ("LICENSE-MIT", ROOT / "LICENSE-MIT", 0o644),
        ("LICENSE-nats-server", (NATS_LICENCE + apache).encode(), 0o644),
        ("README.md", ROOT / "README.md", 0o644),
        ("THIRD-PARTY.txt", third_party(arguments.target, arguments.features).encode(), 0o644),
        ("forebay", arguments.binary, 0o755),
        ("forebay.env", HERE / "forebay.env", 0o600),
        ("forebay.service", HERE / "systemd/forebay.service", 0o644),
        ("forebay.toml", HERE / "forebay.toml", 0o644),
        ("nats-server", arguments.nats, 0o755),
        ("sbom.cdx.json", listed.encode(), 0o644),
    ]


def archive(arguments):
    name = f"forebay-{version()}-{arguments.target}"
    path = arguments.out / f"{name}.tar.gz"
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 0 if arguments.compression == "none" else 9, raw, epoch()) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for file, content, mode in files(arguments):
                data = content if isinstance(content, bytes) else Path(content).read_bytes()
                entry = tarfile.TarInfo(f"{name}/{file}")
                entry.size, entry.mode, entry.mtime, entry.uname, entry.gname = len(data), mode, epoch(), "root", "root"
                tar.addfile(entry, io.BytesIO(data))
    # Beside the archive, too, for who looks before unpacking.
    listed = json.dumps(sbom(arguments.target, arguments.nats, arguments.features), indent=1, sort_keys=True) + "\n"
    (arguments.out / f"{name}.cdx.json").write_text(listed)
    print(f"{path}: needs {glibc_line(arguments.binary)}")


def deb(arguments):
    if not shutil.which("dpkg-deb"):
        fail("dpkg-deb is missing: a Debian package is made on Debian or Ubuntu (or: apt install dpkg)")
    architecture = ARCHITECTURES.get(arguments.target.split("-")[0]) or fail(f"no Debian architecture for {arguments.target}")
    path = arguments.out / f"forebay_{version()}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        doc = root / "usr/share/doc/forebay"

        def put(place, content, mode=0o644):
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            file = root / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            file.chmod(mode)

        put("usr/lib/forebay/forebay", arguments.binary, 0o755)
        put("usr/lib/forebay/nats-server", arguments.nats, 0o755)
        (root / "usr/bin").mkdir()
        (root / "usr/bin/forebay").symlink_to("../lib/forebay/forebay")
        put("lib/systemd/system/forebay.service", HERE / "systemd/forebay.service")
        put("etc/forebay/forebay.toml", HERE / "forebay.toml")
        # The script after the installation gives it to the service's group.
        put("etc/forebay/forebay.env", HERE / "forebay.env", 0o640)
        for name in ["LICENSE-MIT", "LICENSE-APACHE"]:
            put(doc / name, ROOT / name)
        put(doc / "copyright", HERE / "debian/copyright")
        put(doc / "THIRD-PARTY.txt", third_party(arguments.target, arguments.features).encode())
        readmes = {"README.md.gz": ROOT / "README.md"}
        for name, readme in readmes.items():
            put(doc / name, gzip.compress(readme.read_bytes(), 9, mtime=0))
        put("usr/share/man/man1/forebay.1.gz", gzip.compress((HERE / "debian/forebay.1").read_bytes(), 9, mtime=0))
        put("usr/share/lintian/overrides/forebay", HERE / "debian/lintian-overrides")
        when = datetime.fromtimestamp(epoch(), timezone.utc).strftime("%a, %d %b %Y %H:%M:%S +0000")
        changes = f"forebay ({version()}) stable; urgency=medium\n\n  * See README.md.\n\n -- {MAINTAINER}  {when}\n"
        put(doc / "changelog.gz", gzip.compress(changes.encode(), 9, mtime=0))
        size = sum(it.stat().st_size for it in root.rglob("*") if it.is_file() and not it.is_symlink()) // 1024
        glibc = least_glibc(arguments.binary)
        control = f"""Package: forebay
Version: {version()}
Architecture: {architecture}
Maintainer: {MAINTAINER}
Installed-Size: {size}
Depends: adduser{f', libc6 (>= {glibc})' if glibc else ''}
Recommends: ca-certificates
Section: admin
Priority: optional
Description: self-hosted record of background jobs
 Forebay listens to a Celery broker, or takes events over HTTP, keeps them in a
 durable log and answers what ran, when, where, how often, and how it ended: on
 a dashboard, over JSON and on the command line.
"""
        put("DEBIAN/control", control.encode())
        put("DEBIAN/conffiles", HERE / "debian/conffiles")
        for script in ["postinst", "prerm", "postrm"]:
            put(f"DEBIAN/{script}", HERE / "debian" / script, 0o755)
        entries = sorted(it for it in root.rglob("*") if it.is_file() and not it.is_symlink() and "DEBIAN" not in it.parts)
        sums = "".join(f"{hashlib.md5(it.read_bytes()).hexdigest()}  {it.relative_to(root)}\n" for it in entries)
        put("DEBIAN/md5sums", sums.encode())
        for directory in [root, *(it for it in root.rglob("*") if it.is_dir())]:
            directory.chmod(0o755)
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch())}
        run("dpkg-deb", "--root-owner-group", f"-Z{arguments.compression}", "--build", str(root), str(path), env=environment)
    print(f"{path}: needs {glibc_line(arguments.binary)}")


def sums(out):
    made = sorted(it for it in out.iterdir() if it.is_file() and it.name != "SHA256SUMS")
    (out / "SHA256SUMS").write_text("".join(f"{sha256(it)}  {it.name}\n" for it in made))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["archive", "deb", "sbom", "glibc"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--nats", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--features", default="", help="of the program: otlp")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compression", default="xz", help="of the Debian package: xz, gzip or none; none is none of the archive, too")
    arguments = parser.parse_args()
    if arguments.what == "glibc":
        print(glibc_line(arguments.file))
    elif arguments.what == "sbom":
        print(json.dumps(sbom(arguments.target, arguments.nats, arguments.features), indent=1, sort_keys=True))
    else:
        for file in [arguments.binary, arguments.nats]:
            if not file or not file.is_file():
                fail(f"{file} is missing: run `make dist`, which builds it")
        if machine(arguments.binary) != machine(arguments.nats):
            fail(f"{arguments.nats} is for another machine than {arguments.binary}: name one for {arguments.target} with --nats")
        arguments.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            arguments.binary = stripped(arguments.binary, scratch)
            {"archive": archive, "deb": deb}[arguments.what](arguments)
        sums(arguments.out)


main()

#!/usr/bin/env python3
"""Builds the image of the Dockerfile from an existing binary, without a container engine.

    python3 dev/image.py BINARY

Writes target/image/vaultmount.oci.tar, an OCI archive. The same binary, certificates and Dockerfile give the
same bytes. Labels, entrypoint and file paths come from the last stage of the Dockerfile.
"""

import gzip
import hashlib
import io
import json
import re
import struct
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "target/image/vaultmount.oci.tar"
# Mozilla's list, from Debian's package. The bundle in /etc may also contain authorities that only this machine trusts.
AUTHORITIES = Path("/usr/share/ca-certificates/mozilla")
OCI = "application/vnd.oci.image"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: image.py BINARY")
    binary = Path(sys.argv[1]).read_bytes()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    stage = (ROOT / "Dockerfile").read_text().replace("$VERSION", version).rpartition("\nFROM ")[2]

    name = f"localhost/vaultmount:{version}"
    labels = dict(re.findall(r'^LABEL (\S+)="(.*)"$', stage, re.M))
    image = archive(name, dict(files(stage, binary)), entrypoint(stage), labels, architecture(binary))
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    ARCHIVE.write_bytes(image)
    print(f"image: {ARCHIVE.relative_to(ROOT)}: {name}, {len(binary) / 1e6:.1f} MB, {len(image) / 1e6:.1f} MB packed")


def archive(name: str, contents: dict, entrypoint: list, labels: dict, architecture: str) -> bytes:
    """Returns an OCI archive of one image. containerd and Docker import it as `name`."""
    layer = tar(contents)
    packed = gzip.compress(layer, mtime=0)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor(f"{OCI}.config.v1+json", encoded(config)),
        "layers": [descriptor(f"{OCI}.layer.v1.tar+gzip", packed)],
    }
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    pointer = descriptor(manifest["mediaType"], encoded(manifest)) | {"annotations": names}
    blobs = [packed, encoded(config), encoded(manifest)]
    files = {"blobs/" + digest(blob).replace(":", "/"): blob for blob in blobs}
    files["index.json"] = encoded({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [pointer]})
    files["oci-layout"] = encoded({"imageLayoutVersion": "1.0.0"})
    return tar(files)


def files(stage: str, binary: bytes):
    """Yields the target path and the content of each COPY in the stage."""
    for source, place in re.findall(r"^COPY --from=build (\S+) (\S+)$", stage, re.M):
        match source:
            case "/vaultmount":
                yield place.lstrip("/"), binary
            case "/etc/ssl/certs/ca-certificates.crt":
                yield place.lstrip("/"), authorities()
            case _:
                sys.exit(f"image: unknown COPY source in the Dockerfile: {source}")


def authorities() -> bytes:
    certificates = sorted(AUTHORITIES.glob("*.crt"))
    if not certificates:
        sys.exit(f"image: no certificates found in {AUTHORITIES}; install Debian's ca-certificates")
    return b"".join(path.read_bytes() for path in certificates)


def entrypoint(stage: str) -> list:
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", stage, re.M)[1])


def architecture(binary: bytes) -> str:
    """Returns the architecture of an ELF program. Exits if the program needs libraries: the image contains none."""
    if not binary.startswith(b"\x7fELF\x02\x01"):
        sys.exit("image: the binary is not a 64-bit ELF program")
    (machine,) = struct.unpack_from("<H", binary, 18)
    (table,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    kinds = [struct.unpack_from("<I", binary, table + size * entry)[0] for entry in range(count)]
    if 3 in kinds:  # PT_INTERP, the dynamic loader
        sys.exit("image: the binary is dynamically linked; build it as `make image` does")
    return {62: "amd64", 183: "arm64"}[machine]


def tar(contents: dict) -> bytes:
    """Returns a tar of files and their folders, sorted, owned by root and dated 1970."""
    folders = {str(folder) for place in contents for folder in Path(place).parents} - {"."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for place in sorted(folders | contents.keys()):
            entry = tarfile.TarInfo(place)
            entry.mode = 0o755 if place in folders or place.startswith("bin/") else 0o644
            if place in folders:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(contents[place])
                archive.addfile(entry, io.BytesIO(contents[place]))
    return buffer.getvalue()


def descriptor(kind: str, content: bytes) -> dict:
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encoded(value: dict) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


if __name__ == "__main__":
    main()

"""Making the asset folder: download packages with the machine's own clients, keep what is used, rasterise once.

Needs `apt-get` and `dpkg-deb` (fonts, words), `npm` (art) and `pip` (word frequencies) on the machine, and the
`corpus` extra (resvg-py, msgpack). Takes a few minutes and about 300 MB of downloads. Each source's version and
licence go to `manifest.json`, and Debian copyright files to `licences/`. Packages come by name and nothing else
is fetched; nothing downloaded is executed.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import ImageFont

from nvila.data.corpus import sources
from nvila.data.corpus.rasterise import write_pictures
from nvila.utils.atomic import atomic_directory
from nvila.utils.packages import (
    debian_copyright,
    debian_version,
    download_debian,
    download_npm,
    download_wheel,
    licences_in,
    unpack,
)

MAX_WORDS = 40_000
MAX_FILES_PER_SUPERFAMILY = 5
PRINTABLE = tuple(chr(code) for code in range(33, 127))


def fetch_assets(dest: str | Path, *, downloads: str | Path | None = None) -> dict[str, Any]:
    """Make the asset folder `dest` and return its manifest. Replaces a folder that is already there.

    `downloads`: a folder to keep downloaded packages in, so that a second run needs no network.
    Raises DataError naming the command that failed, or the tool that is not installed.
    """
    with tempfile.TemporaryDirectory() as folder, atomic_directory(dest, overwrite=True) as made:
        work = Path(folder)
        cache = Path(downloads) if downloads else work / "downloads"
        archives = _download(cache)
        unpacked = {name: work / "unpacked" / name for name in archives}
        for name, archive in archives.items():
            unpack(archive, unpacked[name])
        counts = write_assets(unpacked, made)
        versions = {name: debian_version(path) for name, path in archives.items() if path.suffix == ".deb"}
        manifest = {**counts, "sources": _describe_sources(unpacked, versions, made)}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def write_assets(unpacked: Mapping[str, Path], dest: Path) -> dict[str, int]:
    """Fill the new folder `dest` with what `Assets` reads; returns how many fonts, words, pictures, and concepts.

    `unpacked`: the folder of each package of `nvila.data.corpus.sources`.
    """
    npm = {name: unpacked[name] for name in sources.NPM_PACKAGES}
    num_fonts = _write_fonts(unpacked, dest)
    num_words = _write_words(
        unpacked[sources.WORD_PACKAGE],
        unpacked[sources.WORD_WHEEL],
        dest,
        rude=json.loads((unpacked[sources.RUDE_WORD_PACKAGE] / "en.json").read_text(encoding="utf-8")),
    )
    num_pictures, num_concepts = write_pictures(npm, unpacked[sources.EMOJI_FONT_PACKAGE], dest)
    return {"fonts": num_fonts, "words": num_words, "pictures": num_pictures, "concepts": num_concepts}


def _download(cache: Path) -> dict[str, Path]:
    """The archive of every package, by name."""
    archives = download_debian(
        (*sources.FONT_PACKAGES, sources.EMOJI_FONT_PACKAGE, sources.WORD_PACKAGE), cache / "deb"
    )
    for name, (version, _) in sources.NPM_PACKAGES.items():
        archives[name] = download_npm(name, version, cache / "npm")
    archives[sources.WORD_WHEEL] = download_wheel(sources.WORD_WHEEL, sources.WORD_WHEEL_VERSION, cache / "pip")
    return archives


def _usable_fonts(debian: Mapping[str, Path]) -> Iterator[tuple[str, Path, str, str, bool]]:
    for package in sources.FONT_PACKAGES:
        seen: set[str] = set()
        paths = [path for path in debian[package].rglob("*") if path.suffix.lower() in (".ttf", ".otf")]
        for path in sorted(paths, key=lambda path: (path.suffix.lower() != ".ttf", str(path))):
            if path.is_symlink() or path.stem in seen or not re.match(r"[\w. \[\]()-]+$", path.name):
                continue
            if package == "fonts-noto-core" and not re.match(r"Noto(Sans|Serif)-", path.name):
                continue
            seen.add(path.stem)
            face = ImageFont.truetype(str(path), 24)
            family, style = (part or "" for part in face.getname())
            if not any(word in f"{family} {style} {path.stem}" for word in sources.SKIPPED_FONT_WORDS) and _readable(
                face
            ):
                mono = abs(face.getlength("i") - face.getlength("W")) < 0.1
                yield sources.superfamily_of(family, package), path, family, style, mono


def _readable(face: ImageFont.FreeTypeFont) -> bool:
    """Whether every printable ASCII character has ink of its own, and capitals differ from small letters."""
    ink = {character: face.getmask(character) for character in PRINTABLE}
    shapes = {character: (mask.size, bytes(mask)) for character, mask in ink.items()}
    missing = face.getmask("\uffff")
    blank = (missing.size, bytes(missing))
    if any(shape == blank or mask.getbbox() is None for shape, mask in zip(shapes.values(), ink.values(), strict=True)):
        return False
    small, capital = ink["x"].size[1], ink["X"].size[1]
    return small < 0.9 * capital and all(shapes[letter] != shapes[letter.upper()] for letter in "abdegq")


def _write_fonts(debian: Mapping[str, Path], dest: Path) -> int:
    groups: dict[str, list[tuple[Path, str, str, bool]]] = {}
    for superfamily, path, family, style, mono in _usable_fonts(debian):
        groups.setdefault(superfamily, []).append((path, family, style, mono))
    records = []
    for superfamily, members in sorted(groups.items()):
        folder = dest / "fonts" / superfamily
        folder.mkdir(parents=True)
        step = max(1.0, len(members) / MAX_FILES_PER_SUPERFAMILY)
        for index in sorted({int(i * step) for i in range(min(len(members), MAX_FILES_PER_SUPERFAMILY))}):
            path, family, style, mono = members[index]
            shutil.copyfile(path, folder / path.name)
            record = {"path": f"fonts/{superfamily}/{path.name}", "family": family, "style": style}
            records.append({**record, "superfamily": superfamily, "mono": mono})
    (dest / "fonts.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    return len(records)


def _write_words(dictionary: Path, wheel: Path, dest: Path, *, rude: Collection[str]) -> int:
    """Frequent words that a dictionary knows in lower case, 1 to 12 ASCII letters, most frequent first, none `rude`.

    A word counts as rude with the usual endings too.
    """
    import msgpack  # type: ignore[import-not-found,import-untyped,unused-ignore]

    listing = (dictionary / "usr/share/dict/american-english").read_text(encoding="utf-8")
    known = {line for line in listing.splitlines() if re.fullmatch(r"[a-z]{2,12}", line)} | {"a"}
    known -= {f"{word}{ending}" for word in rude for ending in ("", "s", "es", "ed", "er", "ers", "ing", "y")}
    bins = msgpack.unpackb(gzip.decompress((wheel / "wordfreq/data/large_en.msgpack.gz").read_bytes()))
    ranked = [word for group in bins[1:] for word in group if word in known][:MAX_WORDS]
    (dest / "words.txt").write_text("\n".join(ranked) + "\n", encoding="utf-8")
    return len(ranked)


def _describe_sources(unpacked: Mapping[str, Path], versions: Mapping[str, str], dest: Path) -> list[dict[str, str]]:
    """One record per package, with Debian's copyright files copied to `licences/`."""
    records = []
    (dest / "licences").mkdir()
    for package, version in versions.items():
        text = debian_copyright(unpacked[package], package)
        (dest / "licences" / f"{package}.txt").write_text(text, encoding="utf-8")
        licence = "; ".join(licences_in(text)) or f"see licences/{package}.txt"
        records.append({"name": package, "from": "debian", "version": version, "licence": licence})
    for name, (version, licence) in sources.NPM_PACKAGES.items():
        records.append({"name": name, "from": "npm", "version": version, "licence": licence})
    wheel = {"name": sources.WORD_WHEEL, "from": "pypi", "version": sources.WORD_WHEEL_VERSION}
    records.append({**wheel, "licence": "Apache-2.0 (code), CC-BY-SA-4.0 (word frequencies)"})
    return records

"""The text of the corpus's pages as one file: what the decoder of pipeline.toml learns before it sees.

    nvila data fetch full
    python recipes/mini/texts.py corpus-full/texts.txt

Documents that are held out in pictures are left out here too. Pages are parted by blank lines, lines are as printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from nvila.data.build.documents import FAMILY
from nvila.data.build.fetch import BuildFolder
from nvila.utils.atomic import atomic_write_text


def pages(file: Path) -> Iterator[str]:
    """The lines of each page that is not held out."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            page = json.loads(line)
            if FAMILY.side(page["unit"]) == "train":
                yield "\n".join(" ".join(word[0] for word in words) for _, _, words in page["lines"])


def main(out: Path, material: Path | None = None) -> None:
    """Writes `out` from what `nvila data fetch` made."""
    folder = material or BuildFolder.default().material(FAMILY.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out, "\n\n".join(pages(folder / "pages.jsonl")) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

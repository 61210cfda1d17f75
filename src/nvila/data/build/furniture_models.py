"""Reading the furniture catalogues: zip archives of OBJ models and a list of their names, sizes and categories.

`write_models` turns each model into one flat file that loads in a few milliseconds: triangles in metres, standing on
the floor at the origin, a colour or a small texture for each. `Models` opens them on demand. Only plain arrays are
stored. Leaves out models of more than `MAX_FACES` faces, and lights and shininess.

V vertices, F faces, M materials, P texture pixels.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.family import Package
from nvila.data.build.furniture_names import concept_of, name_of
from nvila.errors import DataError

FURNITURE_PACKAGE = Package(
    name="sweethome3d-furniture", origin="debian", licence="CC-BY-3.0 and CC0-1.0, by model", megabytes=119.8
)
FURNITURE_FOLDER = "usr/share/sweethome3d/furniture"
INDEX = "models.json"
CATALOGUE = "PluginFurnitureCatalog.properties"
MAX_FACES = 30_000
TEXTURE_SIDE = 128
NUM_CACHED = 48
LICENCES = {"BlendSwap-CC-0": "CC0-1.0"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the catalogue."""

    file: str
    name: str
    concept: str
    category: str
    extent: tuple[float, float, float]
    """Width, height and depth in metres."""
    creator: str
    licence: str


@dataclass(frozen=True)
class Mesh:
    """Triangles of one model, in metres; y is up, the floor is y = 0, x and z are centred."""

    vertices_V3: NDArray[np.float32]
    faces_F3: NDArray[np.int32]
    uv_F32: NDArray[np.float32]
    """Texture coordinates of the three corners of each face, (F, 3, 2)."""
    material_F: NDArray[np.int32]
    colours_M3: NDArray[np.uint8]
    textures_M4: NDArray[np.int32]
    """Offset into `pixels_P3`, width and height of each material's texture, and 1; all 0 where it has none."""
    pixels_P3: NDArray[np.uint8]


def write_models(unpacked: Path, dest: Path) -> int:
    """Write all usable models and the index to `dest`; return their number.

    `unpacked`: the root of the unpacked package. Raises DataError when it holds no catalogue (*.sh3f).
    """
    archives = sorted((unpacked / FURNITURE_FOLDER).glob("*.sh3f"))
    if not archives:
        raise DataError(
            f"{unpacked / FURNITURE_FOLDER}: no catalogue (*.sh3f) found; unpack {FURNITURE_PACKAGE.name} there"
        )
    (dest / "models").mkdir(parents=True)
    models: list[Model] = []
    for archive in archives:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)
            for record in catalogue(Path(folder) / CATALOGUE):
                file = f"models/{len(models):04d}.npz"
                model = _convert(Path(folder), record, dest, file, archive.stem)
                if model is not None:
                    models.append(model)
    (dest / INDEX).write_text(json.dumps([asdict(model) for model in models], indent=0), encoding="utf-8")
    return len(models)


def catalogue(path: Path) -> Iterator[dict[str, str]]:
    """The entries of a catalogue's list (`key#number=value` lines), in order of their numbers."""
    entries: dict[int, dict[str, str]] = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        match = re.match(r"(\w+)#(\d+)=(.*)", line.strip())
        if match:
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    for number in sorted(entries):
        if {"name", "model", "category", "width", "depth", "height"} <= set(entries[number]):
            yield entries[number]


def _convert(folder: Path, record: dict[str, str], dest: Path, file: str, library: str) -> Model | None:
    """Write one model; None when it has no usable name, is too big, or cannot be read."""
    name = name_of(record["name"])
    path = (folder / record["model"].lstrip("/")).resolve()
    if name is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    width, height, depth = (float(record[key]) / 100 for key in ("width", "height", "depth"))
    mesh = read_mesh(path, (width, height, depth), _rotation(record))
    if mesh is None:
        return None
    np.savez(dest / file, **vars(mesh))
    return Model(
        file=file,
        name=name,
        concept=concept_of(name),
        category=record["category"],
        extent=(width, height, depth),
        creator=record.get("creator", "unknown"),
        licence=LICENCES.get(library, "CC-BY-3.0"),
    )


def _rotation(record: dict[str, str]) -> NDArray[np.float64]:
    values = [float(value) for value in record.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()]
    return np.asarray(values).reshape(3, 3)


def read_mesh(path: Path, extent: tuple[float, float, float], rotation: NDArray[np.float64]) -> Mesh | None:
    """The OBJ file at `path`, turned by `rotation` and scaled to `extent` (metres); None when unusable or too big."""
    try:
        loaded = trimesh.load(path, process=False)
    except (ValueError, IndexError, KeyError, OSError) as error:
        logger.warning("%s: cannot be read as a model (%s)", path, error)
        return None
    parts = list(loaded.geometry.values()) if isinstance(loaded, trimesh.Scene) else [loaded]
    parts = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts or sum(len(part.faces) for part in parts) > MAX_FACES:
        return None
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    vertices = np.concatenate([part.vertices for part in parts]) @ rotation.T
    low, high = vertices.min(0), vertices.max(0)
    span = np.where(high - low > 1e-9, high - low, 1.0)
    vertices = (vertices - (low + high) / 2) / span * np.asarray(extent)
    vertices[:, 1] += extent[1] / 2
    paints = [_paint(part, _lost_texture(path.parent) if len(parts) == 1 else None) for part in parts]
    pixels = [picture.reshape(-1, 3) for _, picture in paints if picture is not None]
    return Mesh(
        vertices.astype(np.float32),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate([_corners(part) for part in parts]).astype(np.float32),
        np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts]).astype(np.int32),
        np.asarray([colour for colour, _ in paints], np.uint8),
        _offsets([picture for _, picture in paints]),
        np.concatenate(pixels) if pixels else np.zeros((0, 3), np.uint8),
    )


def _lost_texture(folder: Path) -> Image.Image | None:
    """The only picture beside a model whose material names a texture (perhaps by a path on its maker's machine)."""
    pictures = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    named = any("map_kd" in path.read_text("utf-8", "replace").lower() for path in folder.glob("*.mtl"))
    return Image.open(pictures[0]) if named and len(pictures) == 1 else None


def _paint(part: Any, lost: Image.Image | None) -> tuple[tuple[int, int, int], NDArray[np.uint8] | None]:
    """The diffuse colour of a part, and its texture (height, width, 3) when it has one, or else the `lost` one."""
    material = getattr(part.visual, "material", None)
    image = getattr(material, "image", None) or lost
    red, green, blue = (int(value) for value in np.asarray(getattr(material, "diffuse", (160, 160, 160)))[:3])
    if image is None:
        return (red, green, blue), None
    small = image.convert("RGB")
    small.thumbnail((TEXTURE_SIDE, TEXTURE_SIDE))
    return (red, green, blue), np.asarray(small)


def _corners(part: Any) -> NDArray[np.float64]:
    uv = getattr(part.visual, "uv", None)
    if uv is None or len(uv) != len(part.vertices):
        return np.zeros((len(part.faces), 3, 2))
    corners: NDArray[np.float64] = np.nan_to_num(np.asarray(uv)[part.faces])
    return corners


def _offsets(pictures: list[NDArray[np.uint8] | None]) -> NDArray[np.int32]:
    rows, offset = [], 0
    for picture in pictures:
        if picture is None:
            rows.append((0, 0, 0, 0))
        else:
            height, width = picture.shape[:2]
            rows.append((offset, width, height, 1))
            offset += width * height
    return np.asarray(rows, np.int32)


class Models:
    """The models of an opened material folder; meshes are read on demand and some are kept."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError naming the index that is missing and the command that makes it."""
        index = folder / INDEX
        if not index.is_file():
            raise DataError(f"{index} is missing; make it with `nvila data fetch full`")
        self.folder = folder
        self.models = [
            Model(**{**record, "extent": tuple(record["extent"])}) for record in json.loads(index.read_text("utf-8"))
        ]
        self.by_concept: dict[str, list[Model]] = {}
        for model in self.models:
            self.by_concept.setdefault(model.concept, []).append(model)
        self._loaded: OrderedDict[str, Mesh] = OrderedDict()

    def mesh(self, model: Model) -> Mesh:
        """The triangles of `model`. Raises DataError when its file is gone or broken."""
        if model.file not in self._loaded:
            path = self.folder / model.file
            try:
                with np.load(path, allow_pickle=False) as stored:
                    self._loaded[model.file] = Mesh(*(stored[key] for key in Mesh.__dataclass_fields__))
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"{path}: cannot be read as a model ({error}); make the material again") from error
            if len(self._loaded) > NUM_CACHED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(model.file)
        return self._loaded[model.file]

"""Seeing models on a floor: rays through every pixel against the triangles, flat shading, one light with hard shadows.

Embree finds the hits; everything else is numpy. Edges get three more rays a pixel, which is most of what full
supersampling would give at a fifth of its cost. Coordinates are metres, y is up, the floor is y = 0, the back wall is
z = `wall`; the camera looks towards -z. Leaves out smooth normals, shine and glass.

N rays, H rows, W columns, K things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from nvila.data.build.furniture_models import Mesh
from nvila.data.corpus.canvas import Colour, Size

F32 = NDArray[np.float32]
COARSE = 4
AMBIENT = 0.5
SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (0.0, 0.25))


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A mesh, turned by `yaw` (radians about y) and moved to (x, z) on the floor."""

    mesh: Mesh
    x: float
    z: float
    yaw: float

    def vertices_V3(self) -> F32:
        """Its vertices in the world, (V, 3)."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.asarray([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32)
        moved: F32 = self.mesh.vertices_V3 @ turn.T + np.asarray([self.x, 0, self.z], np.float32)
        return np.ascontiguousarray(moved, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera at `place`, tilted down by `pitch` (radians), `focal` in widths of the picture."""

    place: tuple[float, float, float]
    pitch: float
    focal: float
    size: Size

    def axes(self) -> F32:
        """Right, up and backward as rows, (3, 3)."""
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        return np.asarray([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], np.float32)

    def directions(self, x_N: NDArray[Any], y_N: NDArray[Any]) -> F32:
        """Directions of rays through the pixel positions (x, y), unnormalised, (N, 3)."""
        width, height = self.size
        right, up, backward = self.axes()
        across = (x_N.astype(np.float32) - np.float32(width / 2)) / np.float32(self.focal * width)
        above = (np.float32(height / 2) - y_N.astype(np.float32)) / np.float32(self.focal * width)
        rays: F32 = across[:, None] * right + above[:, None] * up - backward
        return rays

    def project(self, points_N3: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel positions (N, 2) and distances along the view (N,) of points in the world."""
        width, height = self.size
        local = (np.asarray(points_N3, np.float64) - self.place) @ self.axes().T
        depth = -local[:, 2]
        scale = self.focal * width / np.maximum(depth, 1e-6)
        return np.stack([width / 2 + local[:, 0] * scale, height / 2 - local[:, 1] * scale], 1), depth


@dataclass(frozen=True, kw_only=True)
class Room:
    """Floor, wall and light. `tile`: side of the floor's pattern in metres; `style`: plain, checks or planks."""

    floor: Colour
    other: Colour
    style: str
    tile: float
    wall: float
    wall_colour: Colour
    light: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """A rendered picture and what is seen where."""

    pixels_HW3: NDArray[np.uint8]
    owner_HW: NDArray[np.int16]
    """The thing seen at each pixel, or -1."""
    paint_HW3: NDArray[np.uint8]
    """Colours before light."""


class Stage:
    """Things in their places, made ready for rays."""

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = things
        self.world = [thing.vertices_V3() for thing in things]
        self.rays = _scene(list(zip(self.world, (thing.mesh.faces_F3 for thing in things), strict=True)))


def outline(vertices_V3: F32, camera: Camera) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) in pixels of all points, cut to the picture."""
    pixels, _ = camera.project(vertices_V3)
    low, high = np.floor(pixels.min(0)), np.ceil(pixels.max(0))
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    return left, top, min(camera.size[0], int(high[0])), min(camera.size[1], int(high[1]))


def visible_shares(stage: Stage, camera: Camera) -> list[float]:
    """For each thing, how much of what would be seen of it alone is seen, from every fourth row and column."""
    boxes = [outline(vertices, camera) for vertices in stage.world]
    shares = []
    for index, (vertices, box) in enumerate(zip(stage.world, boxes, strict=True)):
        if not any(_overlap(box, other) for k, other in enumerate(boxes) if k != index):
            shares.append(1.0)
            continue
        y_HW, x_HW = np.mgrid[box[1] : box[3] : COARSE, box[0] : box[2] : COARSE]
        directions = camera.directions(x_HW.ravel() + 0.5, y_HW.ravel() + 0.5)
        origins = _origins(camera, len(directions))
        alone = _scene([(vertices, stage.things[index].mesh.faces_F3)])
        hits = alone.run(origins, directions, output=1)["geomID"] >= 0
        seen = stage.rays.run(origins, directions, output=1)["geomID"]
        shares.append(float((seen[hits] == index).mean()) if hits.any() else 1.0)
    return shares


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def render(stage: Stage, camera: Camera, room: Room) -> View:
    """The picture that `camera` takes of the stage in `room`."""
    width, height = camera.size
    y_HW, x_HW = np.mgrid[:height, :width]
    x_N, y_N = (index_HW.ravel().astype(np.float32) + np.float32(0.5) for index_HW in (x_HW, y_HW))
    colour, paint, owner = _trace(stage, camera, room, x_N, y_N)
    edges = _edges(owner.reshape(height, width), colour.reshape(height, width, 3))
    if len(edges):
        extra = [_trace(stage, camera, room, x_N[edges] + dx, y_N[edges] + dy)[0] for dx, dy in SUBPIXELS]
        colour[edges] = (colour[edges] + sum(extra)) / (1 + len(SUBPIXELS))
    return View(
        np.clip(colour, 0, 255).astype(np.uint8).reshape(height, width, 3),
        owner.reshape(height, width).astype(np.int16),
        np.clip(paint, 0, 255).astype(np.uint8).reshape(height, width, 3),
    )


def _scene(meshes: Sequence[tuple[F32, NDArray[np.int32]]]) -> Any:
    scene = EmbreeScene()
    for vertices, faces in meshes:
        TriangleMesh(scene, vertices, faces)
    return scene


def _origins(camera: Camera, count: int) -> F32:
    return np.tile(np.asarray(camera.place, np.float32), (count, 1))


def _trace(stage: Stage, camera: Camera, room: Room, x_N: NDArray[Any], y_N: NDArray[Any]) -> tuple[F32, F32, Any]:
    """Lit colours (N, 3), colours before light (N, 3) and owners (N,) of rays through (x, y)."""
    rays = camera.directions(x_N, y_N)
    hits = stage.rays.run(_origins(camera, len(rays)), rays, output=1)
    owner = hits["geomID"]
    distance, paint, normal = _surroundings(camera, room, rays)
    for index, thing in enumerate(stage.things):
        mine = np.flatnonzero(owner == index)
        paint[mine] = _paint(thing, hits["primID"][mine], hits["u"][mine], hits["v"][mine])
        normal[mine] = hits["Ng"][mine]
        distance[mine] = hits["tfar"][mine]
    normal /= np.maximum(_lengths(normal), np.float32(1e-9))[:, None]
    facing = np.einsum("ij,ij->i", normal, rays)
    normal *= np.where(facing > 0, np.float32(-1), np.float32(1))[:, None]
    light = np.asarray(room.light, np.float32)
    light /= np.linalg.norm(light)
    lit = np.maximum(np.float32(0), normal @ light)
    points = np.asarray(camera.place, np.float32) + rays * distance[:, None] + normal * np.float32(2e-3)
    dark = stage.rays.run(np.ascontiguousarray(points), np.tile(light, (len(rays), 1)), query="OCCLUDED")
    lit[dark >= 0] = 0.0
    ambient = AMBIENT * (0.6 + 0.4 * np.abs(facing) / _lengths(rays))
    strength = (1.1 * (ambient + (1 - AMBIENT) * lit)).astype(np.float32)
    return paint * strength[:, None], paint, owner


def _lengths(vectors_N3: F32) -> F32:
    lengths: F32 = np.sqrt(np.einsum("ij,ij->i", vectors_N3, vectors_N3))
    return lengths


def _surroundings(camera: Camera, room: Room, rays_N3: F32) -> tuple[F32, F32, F32]:
    """Distances, colours and normals of the floor and the wall behind each ray."""
    down, back = (np.minimum(rays_N3[:, axis], np.float32(-1e-6)) for axis in (1, 2))
    to_floor = np.where(rays_N3[:, 1] < -1e-6, np.float32(-camera.place[1]) / down, np.float32(1e9))
    to_wall = np.where(rays_N3[:, 2] < -1e-6, np.float32(room.wall - camera.place[2]) / back, np.float32(1e9))
    on_floor = to_floor < to_wall
    distance = np.minimum(np.minimum(to_floor, to_wall), np.float32(1e3))
    column = np.floor((np.float32(camera.place[0]) + rays_N3[:, 0] * distance) / np.float32(room.tile))
    row = np.floor((np.float32(camera.place[2]) + rays_N3[:, 2] * distance) / np.float32(room.tile))
    shade = {"checks": (column + row) % 2, "planks": column % 2, "plain": np.zeros_like(column)}[room.style]
    palette = np.asarray([room.floor, room.other, room.wall_colour], np.float32)
    paint = palette[np.where(on_floor, shade, 2).astype(np.intp)]
    normal = np.asarray([[0, 0, 1], [0, 1, 0]], np.float32)[on_floor.astype(np.intp)]
    return distance, paint, normal


def _paint(thing: Thing, faces_N: NDArray[np.int32], u_N: F32, v_N: F32) -> F32:
    """Colours of points on faces, from the texture or the material; a little lifted, so that black has shades."""
    mesh = thing.mesh
    material = mesh.material_F[faces_N]
    paint = mesh.colours_M3[material].astype(np.float32)
    offset, width, height, textured = mesh.textures_M4[material].T
    has = np.flatnonzero(textured)
    if len(has):
        u, v = u_N[has, None], v_N[has, None]
        corners = mesh.uv_F32[faces_N[has]]
        uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        column = ((uv[:, 0] % 1.0) * width[has]).astype(np.int64) % width[has]
        row = (((1 - uv[:, 1]) % 1.0) * height[has]).astype(np.int64) % height[has]
        paint[has] = mesh.pixels_P3[offset[has] + row * width[has] + column]
    return paint * np.float32(0.92) + np.float32(12)


def _edges(owner_HW: NDArray[np.int32], colour_HW3: F32) -> NDArray[np.int64]:
    """Indices of pixels beside another owner or a jump in colour."""
    gray = colour_HW3.mean(2)
    marked = np.zeros(owner_HW.shape, bool)
    for axis in (0, 1):
        jump = (np.diff(owner_HW, axis=axis) != 0) | (np.abs(np.diff(gray, axis=axis)) > 18)
        front = [slice(None)] * 2
        behind = [slice(None)] * 2
        front[axis], behind[axis] = slice(1, None), slice(None, -1)
        marked[tuple(front)] |= jump
        marked[tuple(behind)] |= jump
    return np.flatnonzero(marked.ravel())

"""Images of the phantom: simulated short-axis cine MRI of computer-generated hearts.

Every structure is described by its signed distance function [mm], which is negative inside. An image is painted from these
distances, one structure after another. `acquire` then simulates the scanner: it limits k-space, which blurs the image, adds
noise, and takes the magnitude. A contour is a level set of the same distance, so it follows the visible edge.

There are three coordinate systems. Pixels are given by row and column. The scene (x, y) [mm] has its origin at the
centre of the left ventricle, with the chest wall at the upper left and the liver below. The system of the heart (u, v)
[mm] is the scene rotated so that the right ventricle is at negative u.
"""

import math
from typing import Any, cast

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.floating[Any]]

FIELD_MM = 179.2  # long side of the field of view [mm]: 0.70 mm per pixel at 256
SHORT_SIDE = 27 / 32  # short side / long side of the image
RESOLUTION_MM = 1.1  # the scanner's resolution [mm]; finer pixels are interpolated, as on a real scanner
LABELLED = (15, 14, 16, 15, 17, 13, 16, 15, 14, 16, 15, 17, 14, 15, 16, 15)  # frames per patient, 243 in 16
LANDSCAPE_DEG = 78.0  # a landscape patient's scene is turned by this angle [degrees]
WAVES = ((110.0, 2.2), (70.0, 1.2), (40.0, 0.8), (24.0, 0.4), (14.0, 0.2))  # the warp: wavelength, amplitude [mm]
BREATH_MM = 1.3  # standard deviation of a slice's position
BODY_MM = 150.0  # radius of the chest
RV_ALONG = (-0.4, 0, 0.15, 1, 1.4)  # positions from base to apex of the next two profiles
RV_WIDTH = (0.7, 1, 1, 0.64, 0.1)  # relative to the base
RV_HEIGHT = (0.75, 1, 1, 0.6, 0.1)


class Patient:
    """The anatomy and the scan parameters of one patient.

    Lengths are in mm, and angles are in radians. Signals are relative to the signal of blood. `gain` is in grey levels.

    Only shape and pixel_mm depend on size, so the same hearts exist at every resolution.
    """

    def __init__(self, seed: int, number: int, size: int) -> None:
        self.seed, self.number = seed, number
        rng = np.random.default_rng([seed, number])
        between = rng.uniform
        short, landscape = round(size * SHORT_SIDE), number % 2 == 0
        self.shape = (short, size) if landscape else (size, short)
        self.pixel_mm = FIELD_MM / size
        labelled = LABELLED[(number - 1) % len(LABELLED)]
        self.n_ed = labelled // 2 + 1  # labelled slices at end-diastole
        self.n_es = labelled - self.n_ed
        k = 2 * np.pi / np.array([wavelength for wavelength, _ in WAVES])
        direction = between(0, 2 * np.pi, (2, len(WAVES)))
        phase = between(0, 2 * np.pi, direction.shape)
        # wave vectors and phases of the displacement, in x and in y, that makes every outline irregular
        self.warp = np.stack([k * np.cos(direction), k * np.sin(direction), phase], axis=-1).astype(np.float32)
        scale = between(0.92, 1.14)
        self.es_phase = int(rng.integers(6, 11))  # end-diastole is phase 0
        self.turn = math.radians(LANDSCAPE_DEG * landscape + between(-18, 18))  # of the scene in the image
        self.centre = between(2, 20), between(-14, 8)  # of the left ventricle, off the image's middle
        self.heart_turn = math.radians(between(-8, 42))  # of the heart in the scene
        self.lv_radius = scale * between(19, 26)
        self.lv_wall = between(6.5, 11)
        self.lv_outer = self.lv_radius + self.lv_wall
        self.rv_width = scale * between(14, 22)
        self.rv_height = scale * between(50, 60)
        self.rv_wall = between(3.1, 4.5)
        self.ejection = between(0.75, 1.2)  # of the usual contraction
        lung_gap = between(-1, 9)
        self.chest_turn = math.radians(between(204, 228))  # direction of the nearest skin
        self.chest_fat = between(4, 14)
        self.chest_muscle = between(7, 11)
        self.chest_wall = self.chest_fat + self.chest_muscle + 3
        self.skin_depth = self.lv_outer + self.rv_width + self.rv_wall + lung_gap + self.chest_wall
        self.liver_gap = between(-3, 4)  # heart to liver
        self.aorta = math.radians(between(22, 55)), between(9, 12)  # direction, radius
        self.gain = between(90, 220)
        self.noise = between(0.015, 0.065)
        self.coil = between(45, 100)  # depth at which the surface coil's share has fallen to 1/e
        self.rv_blood = between(0.74, 1.06)
        self.swirl = between(0.03, 0.1)  # unevenness of the blood's signal
        self.muscle = between(0.3, 0.56)
        self.fat = between(0.6, 1.15)
        self.liver = between(0.3, 0.6)
        self.lung = between(0.04, 0.1)
        self.stomach = between(0.1, 1.0)
        self.trabeculae = between(0.3, 0.85)
        self.papillary = [  # direction, distance from the middle as a share of lv_radius, radius
            (math.radians(rng.normal(at, 12)), between(0.68, 0.88), between(3.5, 6)) for at in (-60, 50)
        ]


class Plane:
    """One slice at one phase: the scene coordinates of its pixels, the contraction of the heart, and textures."""

    def __init__(self, p: Patient, rng: np.random.Generator, index: int, phase: int) -> None:
        self.index = index
        contraction = math.sin(math.pi / 2 * min(phase / p.es_phase, 1))  # 0 at end-diastole, 1 at end-systole
        self.squeeze = contraction * p.ejection
        first = 1 + contraction  # the base descends by a slice until end-systole
        last = p.n_ed + contraction * (first + p.n_es - 1 - p.n_ed)
        self.along = (index - first) / (last - first)  # 0 at the base, 1 at the apex of the right ventricle
        self.edge_mm = p.pixel_mm + 0.4 + 1.2 * max(self.along, 0) ** 2  # at the apex, walls run obliquely
        breath = rng.normal(0, BREATH_MM, 2)  # each slice is taken in a breath-hold of its own
        offsets = zip(p.shape, breath.tolist(), strict=True)
        down, right = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * p.pixel_mm - offset for n, offset in offsets)
        x, y = _turned(right[None, :], down[:, None], p.turn)
        x, y = x - p.centre[0], y - p.centre[1]
        dx, dy = (
            sum(size * np.sin(kx * x + ky * y + shift) for (_, size), (kx, ky, shift) in zip(WAVES, waves, strict=True))
            for waves in p.warp
        )
        self.x: Array = x + dx  # scene coordinates (H, W) [mm]
        self.y: Array = y + dy
        self.fine, self.medium, self.coarse = (_texture(rng, p.shape, grain_mm) for grain_mm in (1.0, 2.2, 8.0))


# Geometry: distances in mm, negative inside


def _ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Return the approximate distance to an axis-parallel ellipse around the origin. It is exact on the outline."""
    radius = np.hypot(x / a, y / b)
    distance: Array = radius * (radius - 1) / (np.hypot(x / a**2, y / b**2) + 1e-6)
    return distance


def _union(a: Array, b: Array, blend_mm: float) -> Array:
    """Return the distance to the union of two regions. They are blended smoothly over the length `blend_mm`."""
    return np.minimum(a, b) - np.maximum(blend_mm - np.abs(a - b), 0) ** 2 / (4 * blend_mm)


def _turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return coordinates in a system that is rotated by `angle` [radians]."""
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def _ventricles(p: Patient, plane: Plane) -> tuple[Array, Array, Array]:
    """Return the distances to three outlines.

    The outlines are the endocardium of the right ventricle, the endocardium of the left ventricle, and the epicardium
    of the left ventricle.
    """
    u, v = _turned(plane.x, plane.y, p.heart_turn)
    rest = float(np.clip(1 - plane.along / 1.28, 0.02, 1))  # way to the left ventricle's apex, which lies deeper
    radius = p.lv_radius * min(1, 1.12 * rest**0.45) * (1 - 0.33 * plane.squeeze)
    outer = radius + p.lv_wall * min(1, 0.75 + 0.4 * rest) * (1 + 0.38 * plane.squeeze)
    left, left_outer = _ellipse(u, v, radius, radius * 1.05), _ellipse(u, v, outer, outer * 1.04)
    narrow, short = (np.interp(plane.along, RV_ALONG, profile) for profile in (RV_WIDTH, RV_HEIGHT))
    width = p.rv_width * float(narrow) * (1 - 0.36 * plane.squeeze)
    half = p.rv_height / 2 * float(short) * (1 - 0.14 * plane.squeeze)
    bulge = _ellipse(u + (outer + width - 0.85 * half), v + (3.5 - 7 * plane.along), 0.85 * half, half)
    return -_union(-bulge, left_outer, 5.0), left, left_outer


def contour(distance: Array, level_mm: float) -> NDArray[np.float64]:
    """Return the longest line on which distance = level_mm, as points (N, 2) with x and y [pixels].

    The line has 2 points per pixel of its length, but at least 200 points.
    """
    lines = cast(list[NDArray[np.float64]], contourpy.contour_generator(z=distance).lines(level_mm))
    line = max(lines, key=len)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, length[-1], max(200, int(2 * length[-1])))
    return np.stack([np.interp(at, length, column) for column in line.T], axis=1)


# Signals: blood of the left ventricle = 1


def _bumps(n: int, centres: NDArray[np.float64], sigma: NDArray[np.float64] | float) -> Array:
    """Evaluate one-dimensional Gaussian functions at pixels 0 to n - 1.

    Args: centres, sigma: centre and width of each function [pixels].
    Returns: (n, len(centres)).
    """
    bumps: Array = np.exp(-0.5 * ((np.arange(n)[:, None] - centres) / sigma) ** 2).astype(np.float32)
    return bumps


def _texture(rng: np.random.Generator, shape: tuple[int, int], grain_mm: float) -> Array:
    """Return smooth noise (H, W), mean 0, standard deviation 1: a grid of Gaussian grains of random height."""
    grain = grain_mm * max(shape) / FIELD_MM
    down, across = (_bumps(n, np.arange(-1, n / grain + 2) * grain, grain) for n in shape)
    down, across = (bumps / np.linalg.norm(bumps, axis=1, keepdims=True) for bumps in (down, across))
    texture: Array = down @ rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32) @ across.T
    return texture


def _vessels(rng: np.random.Generator, shape: tuple[int, int], n: int) -> Array:
    """Draw n round cross-sections of vessels, and a few vessels in the slice plane. Returns: (H, W), 0 to about 1."""
    sigma = 0.7 * np.exp(rng.uniform(0, 1.2, n)) * max(shape) / FIELD_MM
    down, across = (_bumps(side, rng.uniform(0, side, n), sigma) for side in shape)
    lines, gaps = _texture(rng, shape, 7.0), _texture(rng, shape, 9.0)
    along = np.clip(1 - 5 * np.abs(lines), 0, 1) * np.clip(gaps - 0.7, 0, 1)
    vessels: Array = (down * rng.uniform(0.2, 1, n)) @ across.T + 0.6 * along
    return vessels


def _over(image: Array, distance: Array, signal: Array | float, soft_mm: float) -> None:
    """Paint `signal` into the image, in place, at all pixels where distance < 0. The edge is soft_mm wide."""
    image += np.clip(0.5 - distance / soft_mm, 0, 1) * (signal - image)


def _ink(image: Array, distance: Array) -> None:
    """Darken the image, in place, along the line distance = 0.

    This simulates the dark edge between fat and water in MRI.
    """
    image *= 1 - 0.8 * np.clip(1.4 - np.abs(distance), 0, 1)


def paint(p: Patient, index: int, phase: int) -> tuple[Array, Array]:
    """Paint slice `index` at `phase`.

    Returns: the signal (H, W), and the distance (H, W) [mm] to the endocardium of the right ventricle.
    """
    rng = np.random.default_rng([p.seed, p.number, 1, index])  # the same at all phases: only the heart moves
    plane = Plane(p, rng, index, phase)
    right, left, left_outer = _ventricles(p, plane)
    heart = _union(left_outer, right - p.rv_wall, 16.0)
    away = p.skin_depth - BODY_MM
    depth = BODY_MM - np.hypot(plane.x - away * math.cos(p.chest_turn), plane.y - away * math.sin(p.chest_turn))
    depth += 1.2 * plane.coarse
    image = p.lung * (1 + 0.25 * plane.medium + 0.3 * plane.coarse)
    vessels = _vessels(rng, p.shape, 70)
    image += 0.45 * vessels
    _paint_fat(p, plane, image, heart, depth)
    _paint_abdomen(p, plane, image, vessels, _texture(rng, p.shape, 11.0))
    _paint_chest_wall(p, plane, image, depth)
    _paint_heart(p, plane, image, right, left, left_outer)
    near, here = (0.35 + 1.3 * np.exp(-np.maximum(d, 0) / p.coil) for d in (depth, p.skin_depth))
    return image * near / float(here), right


def _fat(p: Patient, plane: Plane) -> Array:
    shade: Array = 0.8 + 0.07 * plane.medium + 0.12 * plane.coarse + 0.05 * plane.fine
    return p.fat * shade


def _paint_fat(p: Patient, plane: Plane, image: Array, heart: Array, depth: Array) -> None:
    """Paint fat around the heart, and between heart and chest wall. Args: heart: distance to the heart's surface."""
    layer = heart - np.maximum(2.2 + 2.4 * plane.coarse, 0.4)
    _over(image, _union(layer, depth - p.chest_wall, 28.0), _fat(p, plane), 1.5)


def _paint_abdomen(p: Patient, plane: Plane, image: Array, vessels: Array, folds: Array) -> None:
    """Paint the organs below and behind the heart: liver, stomach, gut, spine and aorta, with fat around them."""
    x, y, edge, fat = plane.x, plane.y, plane.edge_mm, _fat(p, plane)
    top = p.lv_outer + p.liver_gap
    liver = _ellipse(x + 20, y - (top + 90), 110, 90)
    _over(image, liver - 2 - 1.2 * plane.coarse, fat, 1.5)
    _over(image, liver, p.liver * (1 + 0.06 * plane.fine + 0.06 * plane.medium) + 0.3 * vessels, edge)
    _ink(image, liver - 0.5)
    cavity = _ellipse(x - 46, y - (top + 34 - 2 * plane.index), 34, 27)
    gut = np.maximum(cavity + 2, 5 * (0.3 - np.abs(folds)))
    _over(image, cavity, fat, 2.0)
    _over(image, gut, p.muscle, edge)
    _over(image, gut + 2.5, p.stomach * (1 + 0.1 * plane.coarse + 0.1 * plane.medium), edge)
    _ink(image, gut)
    angle, radius = p.aorta
    ax, ay = ((p.lv_outer + radius + 7) * part for part in (math.cos(angle), math.sin(angle)))
    spine = _ellipse(x - (ax + 15), y - (ay + 24), 19, 17)
    _over(image, spine - 4, 0.6 * fat, 2.0)
    _over(image, spine, 0.12, edge)
    _over(image, spine + 1.6, 0.45 + 0.08 * plane.medium + 0.04 * plane.fine, edge)
    aorta = _ellipse(x - ax, y - ay, radius, radius)
    _over(image, aorta - 1.8, p.muscle, edge)
    _over(image, aorta, 0.9 + 0.04 * plane.medium, edge)


def _paint_chest_wall(p: Patient, plane: Plane, image: Array, depth: Array) -> None:
    """Paint the chest wall: muscles streaked with fat, ribs, subcutaneous fat and skin, and the air in front of it."""
    edge, fat = plane.edge_mm, _fat(p, plane)
    middle = p.chest_fat + p.chest_muscle / 2 + 2.5
    streaks = np.clip(0.8 * plane.coarse + 0.5 * plane.medium - 0.6, 0, 0.7)
    _over(image, depth - p.chest_wall, p.muscle * (0.75 + 0.1 * plane.medium + 0.06 * plane.fine) + fat * streaks, edge)
    _over(image, np.abs(depth - middle + 0.8 - 0.6 * plane.coarse) - 0.5, 0.8 * fat, 1.5)
    arc = (BODY_MM * np.arctan2(plane.y, plane.x) + 7 * plane.index) % 62 - 31
    rib = _ellipse(depth - middle, arc, p.chest_muscle * 0.4, 10) + 1.2 * plane.coarse
    _over(image, rib, 0.1, edge)
    _over(image, rib + 1.3, 0.45 * fat, edge)
    _over(image, depth - p.chest_fat - 2, 1.1 * fat, edge)
    _ink(image, depth - p.chest_fat - 2)
    _over(image, depth - 1.8, 0.45, edge)
    _over(image, depth, 0.0, edge)


def _paint_heart(p: Patient, plane: Plane, image: Array, right: Array, left: Array, left_outer: Array) -> None:
    """Paint myocardium, blood, papillary muscles and trabeculae. At the base, also paint atria and aortic root."""
    u, v = _turned(plane.x, plane.y, p.heart_turn)
    edge, apical = plane.edge_mm, max(plane.along, 0)
    muscle = p.muscle * (1 + 0.07 * plane.fine + 0.06 * plane.medium)
    blood = 1 + 0.03 * plane.medium + p.swirl * plane.coarse
    walls = np.minimum(left_outer, right - p.rv_wall)
    atrium = _ellipse(u + (p.lv_radius + 10), v - (p.rv_height / 2 + 6), 20, 18) + 60 * apical
    _over(image, atrium - 2, p.muscle, edge)
    _over(image, walls, muscle, edge)
    _ink(image, np.minimum(walls, atrium - 2) - 0.5)
    _over(image, np.maximum(atrium, -left_outer), p.rv_blood * blood, edge)  # through the tricuspid valve: no wall
    if plane.along >= 0:
        _over(image, left + 3.2 * p.trabeculae * np.maximum(plane.medium - 0.2, 0), blood, edge)
        for angle, offset, size in p.papillary if 0.15 < plane.along < 0.95 else ():
            at = offset * p.lv_radius * (1 - 0.36 * plane.squeeze)
            head = _ellipse(u - at * math.cos(angle), v - at * math.sin(angle), size, 0.85 * size)
            _over(image, np.maximum(head + 0.9 * plane.medium, left), muscle, edge + 0.6)
    else:  # above the base
        _over(image, _ellipse(u - 12, v - 10, 27, 22), 0.95 * blood, edge)
        root = _ellipse(u + 8, v + 9, 13, 13)
        _over(image, root - 2, p.muscle, edge)
        _over(image, root, blood, edge)
    netted = np.clip(p.trabeculae + 0.9 * plane.medium + 0.13 * right + 0.5 * apical, 0, 1)  # most at wall and apex
    rough = 0.8 * netted * np.clip((left_outer - 3) / 8, 0, 1)  # but not at the septum
    _over(image, right, p.rv_blood * blood + rough * (muscle - p.rv_blood), edge)
    leaflet = np.maximum(np.abs(right - 0.5) - 0.7, atrium)
    _over(image, leaflet, 0.6 * p.rv_blood, 1.5)


def acquire(p: Patient, signal: Array, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Simulate a scan: truncate k-space with a Hamming window, add complex noise, and return the magnitude (H, W)."""
    reach = [np.minimum(np.abs(fft.fftfreq(n, p.pixel_mm)) * 2 * RESOLUTION_MM, 1) for n in p.shape]
    down, across = (0.54 + 0.46 * np.cos(np.pi * r) - 0.08 * (r >= 1) for r in reach)
    window = (down[:, None] * across[None, :]).astype(np.float32)
    noise = rng.standard_normal((2, *p.shape), dtype=np.float32) * p.noise / np.sqrt(np.mean(window**2))
    echo = fft.ifft2(fft.fft2(signal + noise[0] + 1j * noise[1]) * window)
    grey: NDArray[np.uint16] = np.round(np.abs(echo) * p.gain).astype(np.uint16)
    return grey

"""Pictures of synthetic lesions: what a lesion looks like (traits), what photographs it (camera), and the pixels.

A lesion is a function of the plane: its border is a closed curve of random Fourier modes, its colours are regions of
smooth random fields (sums of cosine waves), its pigment network is the set of cell walls of a jittered honeycomb. All
of them are evaluated at the lesion's own coordinates, so that a second photograph, turned and zoomed, shows the same
lesion. Lengths are shares of half the picture's width unless stated otherwise.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Camera", "LesionTraits", "render_lesion"]

Field = NDArray[np.floating[Any]]  # float32 all along: only Python numbers are mixed in

_COARSE = 44  # side of the grid on which smooth fields are evaluated before they are enlarged
_WAVES = 9  # cosine waves a smooth field
_TABLE = 64  # the honeycomb's random numbers repeat after so many cells, far outside the picture
_NORMAL = NormalDist()

_PALE_SKIN = np.array([0.93, 0.745, 0.655], np.float32)
_DARK_SKIN = np.array([0.47, 0.315, 0.235], np.float32)
_LIGHT_BROWN = np.array([0.69, 0.465, 0.315], np.float32)
_DARK_BROWN = np.array([0.385, 0.225, 0.145], np.float32)
_BLACK = np.array([0.135, 0.095, 0.085], np.float32)
_RED = np.array([0.74, 0.37, 0.345], np.float32)
_BLUE_GREY = np.array([0.46, 0.465, 0.515], np.float32)
_WHITE = np.array([0.88, 0.765, 0.71], np.float32)
_INK = np.array([0.11, 0.08, 0.07], np.float32)


@dataclass(frozen=True, slots=True)
class LesionTraits:
    """What one lesion looks like, whichever camera sees it.

    Shares and strengths lie between 0 and 1.
    """

    structure: int  # seed of the lesion's own random curve, regions and cells
    melanin: float  # of the surrounding skin
    hairiness: float  # of the surrounding skin
    radius: float  # mean radius
    elongation: float
    asymmetry: float  # of the outline and of how the colours lie in it
    raggedness: float  # of the border
    edge: float  # width of the border's transition, as a share of the radius
    pigment: float  # how far the brown covers the skin
    dark_brown: float  # the colours: share of the lesion's area
    black: float
    red: float
    blue_grey: float  # the veil
    white: float  # regression
    network: float  # strength of the reticular pattern
    network_irregularity: float
    globules: float  # share of the places that hold a globule or dot
    globule_irregularity: float


@dataclass(frozen=True, slots=True)
class Camera:
    """A clinic's dermoscope: what it does to every picture, whatever the lesion."""

    name: str
    cast: tuple[float, float, float]  # gains of red, green and blue
    exposure: float  # gain of all three
    contrast: float  # exponent of the tone curve, 1 for none
    blur: float  # Gaussian sigma in thousandths of the picture's width
    grain: float  # standard deviation of the sensor's noise, in grey levels
    zoom: float
    vignette: float  # share of light lost in the corners
    field: float  # radius of the lit circle; above 1.42 no corner is dark
    ruler_rate: float  # share of pictures with a ruler in them
    gel_rate: float  # share of pictures with bubbles in the immersion gel


@dataclass(frozen=True, slots=True)
class _View:
    """How one photograph is taken: where every pixel lies in the lesion's coordinates."""

    angle: float
    scale: float
    shift: tuple[float, float]

    def coordinates(self, size: int) -> tuple[Field, Field]:
        """Lesion coordinates of the centres of size × size pixels, two arrays (size, size)."""
        x, y = _grid(size)
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        x, y = x - self.shift[0], y - self.shift[1]
        return cos * x - sin * y, sin * x + cos * y


def render_lesion(traits: LesionTraits, camera: Camera, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photograph a lesion: RGB pixels (size, size, 3).

    The lesion comes from `traits` alone; `rng` decides the photograph: rotation, distance, light, hair that lies over
    the lesion, ruler, bubbles and grain. Equal arguments, and a generator in an equal state, give equal bytes.
    """
    view = _View(
        angle=rng.uniform(0, 2 * np.pi),
        scale=camera.zoom * rng.uniform(0.86, 1.16),
        shift=(rng.normal(0, 0.07), rng.normal(0, 0.07)),
    )
    colours = _lesion_on_skin(traits, view, size)
    colours = _under_hair_and_ruler(colours, traits, camera, view, rng)
    if rng.random() < camera.gel_rate:
        colours = _under_bubbles(colours, rng)
    return _expose(colours, camera, rng)


def _grid(size: int) -> tuple[Field, Field]:
    """Pixel centres of the unit picture, x and y from -1 to 1."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return np.broadcast_to(line[None, :], (size, size)), np.broadcast_to(line[:, None], (size, size))


def _ramp(values: Field, low: float | Field, high: float | Field) -> Field:
    """0 below low, 1 above high, smooth between."""
    t: Field = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(below: Field, above: Field, cover: Field) -> Field:
    """Lay a colour over another, (size, size, 3), by a cover (size, size)."""
    return below + cover[..., None] * (above - below)


def _enlarge(field: Field, size: int) -> Field:
    image = Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def _smooth_fields(rng: np.random.Generator, wavelengths: tuple[float, ...], view: _View, size: int) -> list[Field]:
    """One smooth random field a wavelength, of mean 0 and variance 1, each (size, size)."""
    u, v = view.coordinates(min(_COARSE, size))
    shape = (len(wavelengths), _WAVES)
    number = 2 * np.pi / np.array(wavelengths)[:, None] * rng.uniform(0.55, 1.45, shape)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, *shape))
    along, across, phase = (
        a.astype(np.float32)[..., None, None] for a in (number * np.cos(direction), number * np.sin(direction), phase)
    )
    waves = np.cos(along * u + across * v + phase)
    fields = waves.sum(axis=1) * math.sqrt(2 / _WAVES)
    return [_enlarge(field, size) for field in fields]


def _outline(traits: LesionTraits, rng: np.random.Generator) -> tuple[Field, Field]:
    """The border as radius over angle, two arrays (256,): a circle plus Fourier modes, odd ones for asymmetry."""
    theta = np.linspace(-np.pi, np.pi, 256)
    phase = rng.uniform(0, 2 * np.pi, 24)
    draw = rng.normal(0, 1, 24)
    wave = traits.elongation * 0.28 * np.cos(2 * theta + phase[2])
    for mode in (1, 3, 4, 5):
        wave += (0.015 + 0.14 * traits.asymmetry) / mode**0.6 * draw[mode] * np.cos(mode * theta + phase[mode])
    for mode in range(6, 24):
        wave += (0.003 + 0.15 * traits.raggedness) / mode * draw[mode] * np.cos(mode * theta + phase[mode])
    return theta.astype(np.float32), (traits.radius * np.exp(np.clip(wave, -0.7, 0.45))).astype(np.float32)


def _cell(column: Field, row: Field) -> NDArray[np.int32]:
    """Where a cell's random numbers stand in a flattened table."""
    last = _TABLE - 1
    return (row.astype(np.int32) & last) * _TABLE + (column.astype(np.int32) & last)


def _honeycomb(u: Field, v: Field, jitter: float, table: Field) -> Field:
    """Distance to the nearest wall of a jittered honeycomb with cells of width 1; table is (2, 64, 64)."""
    column, row = np.floor(u), np.floor(v)
    first = np.full(u.shape, 9, np.float32)
    second = first.copy()
    for down in (-1, 0, 1):
        j = row + down
        shifted = 0.5 + 0.5 * (j % 2) - u  # every second row by half a cell
        for right in (-1, 0, 1):
            i = column + right
            cell = _cell(i, j)
            dx = i + shifted + jitter * table[0].take(cell)
            dy = j - v + 0.5 + jitter * table[1].take(cell)
            distance = dx * dx + dy * dy
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return np.sqrt(second) - np.sqrt(first)


def _dots(u: Field, v: Field, share: float, irregularity: float, table: Field) -> Field:
    """Round dots, one at most in each cell of width 1: 1 inside, 0 outside; table is (4, 64, 64)."""
    column, row = np.floor(u), np.floor(v)
    cell = _cell(column, row)
    place_x, place_y, rate, chance = (table[k].take(cell) for k in range(4))
    radius = 0.20 + 0.07 * chance + irregularity * (0.04 + 0.16 * (2 * chance) ** 3)
    dx = u - column - 0.5 - place_x * (0.76 - 2 * radius)
    dy = v - row - 0.5 - place_y * (0.76 - 2 * radius)
    dots = _ramp(-np.sqrt(dx * dx + dy * dy), -radius - 0.12, -radius + 0.12)
    return np.where(rate + 0.5 < share, dots, np.float32(0))


class _Smooth(NamedTuple):
    """A lesion's smooth random fields, of mean 0 and variance 1, each (size, size)."""

    warp_u: Field
    warp_v: Field
    dark: Field
    black: Field
    red: Field
    blue: Field
    white: Field
    netting: Field
    border: Field
    blotch: Field
    tint: Field


class _Scene(NamedTuple):
    """A lesion's random functions at every pixel, and its random numbers."""

    u: Field  # lesion coordinates, each (size, size)
    v: Field
    inside: Field  # (size, size): 1 in the lesion's centre, 0 at its border, negative outside
    smooth: _Smooth
    table: Field  # (6, 64, 64)
    lean: list[float]  # the directions in which the colours lie


def _scene(traits: LesionTraits, view: _View, size: int) -> _Scene:
    rng = np.random.default_rng(traits.structure)
    u, v = view.coordinates(size)
    scaled = (2 * traits.radius * wavelength for wavelength in (0.75, 0.6, 0.8, 0.9, 0.9, 0.7, 0.4))
    smooth = _Smooth(*_smooth_fields(rng, (0.30, 0.30, *scaled, 1.3, 0.5), view, size))
    theta, curve = _outline(traits, rng)
    bend = 0.006 + 0.026 * traits.raggedness
    x, y = u + bend * smooth.warp_u, v + bend * smooth.warp_v
    radius = np.interp(np.arctan2(y, x), theta, curve).astype(np.float32)
    inside = 1 - np.sqrt(x * x + y * y) / radius
    table = rng.uniform(-0.5, 0.5, (6, _TABLE, _TABLE)).astype(np.float32)
    return _Scene(u, v, inside, smooth, table, rng.uniform(0, 2 * np.pi, 5).tolist())


def _lesion_on_skin(traits: LesionTraits, view: _View, size: int) -> Field:
    """The lesion and the skin around it in even light, (size, size, 3), 0 to 1."""
    scene = _scene(traits, view, size)
    skin = _PALE_SKIN + traits.melanin * (_DARK_SKIN - _PALE_SKIN)
    lines = _network_lines(traits, scene)
    pigment = _pigment(traits, scene, skin, lines) * (skin / _PALE_SKIN) ** 0.6

    width = traits.edge * np.exp(0.45 * scene.smooth.border)
    depth = (0.55 + 0.45 * traits.pigment) * (0.80 + 0.20 * _ramp(scene.inside, 0.0, 0.45))
    opacity = _ramp(scene.inside, -width, width) * np.clip(depth + 0.10 * scene.smooth.tint, 0, 1)

    ground = skin * (1 + 0.022 * scene.smooth.blotch[..., None] * np.array([0.6, 1.0, 1.1], np.float32))
    ground = ground * (1 - 0.028 * lines)[..., None]
    flush = 0.05 * _ramp(scene.inside, -0.45, 0.0)
    ground = ground - flush[..., None] * np.array([0.1, 1.0, 0.9], np.float32)
    return _mix(ground, pigment, opacity)


def _network_lines(traits: LesionTraits, scene: _Scene) -> Field:
    """The reticular pattern: 1 on its lines, 0 in its holes; on bare skin it serves as skin markings."""
    width, height = 0.088, 0.077
    u, v = (scene.u + 0.02 * scene.smooth.warp_u) / width, (scene.v + 0.02 * scene.smooth.warp_v) / height
    walls = _honeycomb(u, v, 0.5 + 0.4 * traits.network_irregularity, scene.table[:2])
    thickness = 0.20 + 0.09 * traits.network_irregularity * scene.smooth.border
    return 1 - _ramp(walls, thickness, thickness + 0.24)


def _pigment(traits: LesionTraits, scene: _Scene, skin: Field, lines: Field) -> Field:
    """The lesion's colours on pale skin, (size, size, 3)."""

    def region(field: Field, share: float, centre: float, side: int, soft: float) -> Field:
        """Where a colour lies: central in an orderly lesion, to one side in an asymmetric one."""
        if share < 0.001:
            return np.zeros_like(field)
        towards = math.cos(scene.lean[side]) * scene.u + math.sin(scene.lean[side]) * scene.v
        aside = 1.3 * traits.asymmetry / traits.radius * towards
        order = (1 - traits.asymmetry) * centre * (scene.inside - 0.35)
        threshold = _NORMAL.inv_cdf(1 - share)
        return _ramp(field + order + aside, threshold - soft, threshold + soft)

    veil = region(scene.smooth.blue, traits.blue_grey, 1.0, 0, 1.1)
    scar = region(scene.smooth.white, traits.white, 0.2, 1, 1.0)
    colours = _LIGHT_BROWN * (1 + 0.07 * scene.smooth.tint[..., None])
    colours = _mix(colours, _DARK_BROWN, region(scene.smooth.dark, traits.dark_brown, 2.4, 2, 0.9))
    colours = _mix(colours, _RED, 0.7 * region(scene.smooth.red, traits.red, -0.3, 3, 1.0))
    colours = _mix(colours, _BLACK, 0.88 * region(scene.smooth.black, traits.black, 1.4, 4, 0.6))

    # Veil and regression are structureless: neither network nor globules show through them.
    plain = 1 - np.maximum(veil, scar)
    gaps = 2 * traits.network_irregularity - 1.6
    network = traits.network * plain * _ramp(scene.smooth.netting, gaps, gaps + 1.2)
    dots = _dots(scene.u / 0.105, scene.v / 0.105, traits.globules, traits.globule_irregularity, scene.table[2:])
    colours = _mix(colours, 0.65 * colours + 0.35 * skin, 0.30 * network * (1 - lines))
    colours = colours * (1 - 0.45 * network * lines - 0.42 * dots * plain)[..., None]
    colours = _mix(colours, _WHITE, 0.6 * scar)
    return _mix(colours, _BLUE_GREY, 0.72 * veil)


def _under_hair_and_ruler(
    colours: Field, traits: LesionTraits, camera: Camera, view: _View, rng: np.random.Generator
) -> Field:
    """Draw hair strands, and sometimes a ruler's marks, at twice the size; they cover the lesion."""
    strands = int(rng.poisson(9 * traits.hairiness**2))
    ruler = rng.random() < camera.ruler_rate
    if not strands and not ruler:
        return colours
    size = colours.shape[0]
    canvas = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(canvas)
    grown = rng.uniform(0, np.pi)
    for _ in range(strands):
        _draw_strand(pen, 2 * size, grown + rng.normal(0, 0.35), rng)
    if ruler:
        _draw_ruler(pen, 2 * size, view.scale, rng)
    cover = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    return _mix(colours, _INK + 0.10 * (1 - traits.melanin), cover)


def _draw_strand(pen: ImageDraw.ImageDraw, side: int, direction: float, rng: np.random.Generator) -> None:
    """One hair: a bent line (quadratic Bézier curve) of a length between a third and twice the picture's half width."""
    middle = rng.uniform(-0.9, 0.9, 2)
    half = rng.uniform(0.35, 1.1) * np.array([np.cos(direction), np.sin(direction)])
    bow = rng.normal(0, 0.35) * np.array([-half[1], half[0]])
    t = np.linspace(0, 1, 14)[:, None]
    points = (1 - t) ** 2 * (middle - half) + 2 * t * (1 - t) * (middle + 2 * bow) + t**2 * (middle + half)
    width = max(1, round(side * rng.uniform(0.006, 0.012)))
    pen.line([(float(x), float(y)) for x, y in (points + 1) * (side / 2)], int(rng.integers(130, 235)), width, "curve")


def _draw_ruler(pen: ImageDraw.ImageDraw, side: int, scale: float, rng: np.random.Generator) -> None:
    """Marks along one edge, every fifth longer: a millimetre is a tenth of the picture's width at scale 1."""
    step = 0.1 * scale * side
    offset = rng.uniform(0, step)
    edge = int(rng.integers(4))
    rim = side * rng.uniform(0.0, 0.05)
    for mark in range(int(side / step) + 1):
        place = offset + mark * step
        length = side * (0.055 if mark % 5 == 0 else 0.03)
        ends = [(place, rim), (place, rim + length)]
        if edge in (1, 3):
            ends = [(y, x) for x, y in ends]
        if edge >= 2:
            ends = [(side - x, side - y) for x, y in ends]
        pen.line(ends, 210, max(1, side // 130))


def _under_bubbles(colours: Field, rng: np.random.Generator) -> Field:
    """Bubbles in the immersion gel: a bright rim, a darker inside, a spot of light."""
    x, y = _grid(colours.shape[0])
    for _ in range(int(rng.integers(1, 4))):
        middle_x, middle_y = rng.uniform(-1, 1), rng.uniform(-1, 1)
        radius = rng.uniform(0.03, 0.11)
        distance = np.sqrt((x - middle_x) ** 2 + (y - middle_y) ** 2) / radius
        rim = np.exp(-(((distance - 1) / 0.16) ** 2))
        spot = np.exp(-((x - middle_x + 0.4 * radius) ** 2 + (y - middle_y + 0.4 * radius) ** 2) / (0.28 * radius) ** 2)
        light = 0.16 * rim - 0.05 * _ramp(-distance, -1.0, -0.6) + 0.6 * spot
        colours = colours + light[..., None]
    return colours


def _expose(colours: Field, camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What light, lens and sensor make of the colours: uint8 pixels (size, size, 3)."""
    size = colours.shape[0]
    x, y = _grid(size)
    tilt, towards = rng.uniform(0, 0.10), rng.uniform(0, 2 * np.pi)
    light = 1 + tilt * (math.cos(towards) * x + math.sin(towards) * y)
    light = light * (1 - camera.vignette / 2 * (x * x + y * y))
    light = light * (camera.exposure * rng.uniform(0.88, 1.12))
    field = camera.field * rng.uniform(0.97, 1.03)
    off_x, off_y = rng.normal(0, 0.02), rng.normal(0, 0.02)
    rim = np.sqrt((x - off_x) ** 2 + (y - off_y) ** 2)
    light = light * (0.03 + 0.97 * _ramp(-rim, -field - 0.05, -field))
    cast = np.array(camera.cast, np.float32) * rng.uniform(0.98, 1.02, 3).astype(np.float32)
    seen = np.clip(colours * light[..., None] * cast, 0, 1) ** camera.contrast
    picture = Image.fromarray((seen * 255).astype(np.uint8))
    blur = camera.blur / 1000 * size * rng.uniform(0.8, 1.3)
    picture = picture.filter(ImageFilter.GaussianBlur(blur))
    grain = rng.standard_normal((size, size, 1), np.float32) * camera.grain
    return np.clip(np.asarray(picture, np.float32) + grain + 0.5, 0, 255).astype(np.uint8)

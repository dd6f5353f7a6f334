// A photograph as the network was trained to see it: upright, sRGB, its centre square brought to a side by Lanczos.

export const LEAST_SIDE = 16;
export const MOST_PIXELS = 80e6;
const LOBES = 3;
const GAP = 3; // a picture more than three times too large is averaged by whole blocks first
const FIXED = 1 << 22;

export class PictureError extends Error {}

// Pixels of an image file, {width, height, data: RGBA}. The browser turns it by its EXIF orientation and converts its
// colour profile to sRGB; Adobe RGB, which cameras state by EXIF alone, is converted here.
export async function read(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {imageOrientation: "from-image", premultiplyAlpha: "none"});
  } catch {
    throw new PictureError("unreadable");
  }
  const {width, height} = bitmap;
  if (Math.min(width, height) < LEAST_SIDE) throw new PictureError("small");
  if (width * height > MOST_PIXELS) throw new PictureError("large");
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", {colorSpace: "srgb", willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const {data} = context.getImageData(0, 0, width, height);
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) throw new PictureError("transparent");
  const head = new Uint8Array(await file.slice(0, 1 << 17).arrayBuffer());
  const picture = {width, height, data, jpeg: head[0] === 0xff && head[1] === 0xd8};
  if (picture.jpeg && saysAdobeRgb(head)) adobeToSrgb(data);
  return picture;
}

// Whether a JPEG without a colour profile says by EXIF that it is in Adobe RGB: interoperability index R03 (DCF 2.0).
export function saysAdobeRgb(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let adobe = false;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; at += 2 + view.getUint16(at + 2)) {
    const text = String.fromCharCode(...bytes.subarray(at + 4, at + 16));
    if (bytes[at + 1] === 0xe2 && text.startsWith("ICC_PROFILE")) return false;
    if (bytes[at + 1] === 0xe1 && text.startsWith("Exif\0\0")) adobe = interoperability(bytes.subarray(at + 10)) === "R03";
  }
  return adobe;
}

function interoperability(tiff) {
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const little = tiff[0] === 0x49;
  const entry = (folder, tag) => {
    const count = folder === null ? 0 : view.getUint16(folder, little);
    for (let n = 0; n < count; n++) {
      const at = folder + 2 + 12 * n;
      if (view.getUint16(at, little) === tag) return at + 8;
    }
    return null;
  };
  const follow = (at) => (at === null ? null : view.getUint32(at, little));
  try {
    const index = entry(follow(entry(follow(entry(view.getUint32(4, little), 0x8769)), 0xa005)), 1);
    return index === null ? "" : String.fromCharCode(...tiff.subarray(index, index + 3));
  } catch (error) {
    if (error instanceof RangeError) return ""; // damaged metadata does not make a picture unusable
    throw error;
  }
}

// Adobe RGB (1998), annex C: a gamma of 563/256, then a linear map to sRGB's primaries, then sRGB's curve.
export function adobeToSrgb(data) {
  const linear = Float64Array.from({length: 256}, (_, level) => (level / 255) ** (563 / 256));
  const curve = (v) => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);
  const level = (v) => Math.round(255 * curve(Math.min(1, Math.max(0, v))));
  for (let i = 0; i < data.length; i += 4) {
    const r = linear[data[i]], g = linear[data[i + 1]], b = linear[data[i + 2]];
    data[i] = level(1.3983557 * r - 0.3983557 * g);
    data[i + 1] = level(g);
    data[i + 2] = level(-0.042929 * g + 1.042929 * b);
  }
}

// The centre square of a picture, RGB (side × side × 3), by the steps of the training's decoder.
export function square(picture, side) {
  let {width, height, data} = picture;
  let planes = rgb(data, width * height);
  // A JPEG was decoded for training at the smallest eighth, quarter or half that leaves twice the side.
  if (picture.jpeg) {
    let scale = 8;
    while (scale > 1 && Math.min(Math.ceil(width / scale), Math.ceil(height / scale)) < 2 * side) scale /= 2;
    if (scale > 1) [planes, width, height] = averaged(planes, width, height, scale);
  }
  const edge = Math.min(width, height);
  let left = (width - edge) / 2, top = (height - edge) / 2, length = edge;
  const factor = Math.floor(edge / side / GAP);
  if (factor > 1) {
    const support = (LOBES - 0.5) * (edge / side);
    const from = [Math.max(0, Math.trunc(left - support)), Math.max(0, Math.trunc(top - support))];
    const to = [Math.min(width, Math.ceil(left + edge + support)), Math.min(height, Math.ceil(top + edge + support))];
    const part = cut(planes, width, from, to);
    [planes, width, height] = averaged(part, to[0] - from[0], to[1] - from[1], factor);
    left = (left - from[0]) / factor;
    top = (top - from[1]) / factor;
    length = edge / factor;
  }
  const across = weights(width, left, length, side), down = weights(height, top, length, side);
  const rows = pass(planes, side, height, (x, y, n) => (y * width + across[x].start + n) * 3, (x) => across[x].values);
  return pass(rows, side, side, (x, y, n) => ((down[y].start + n) * side + x) * 3, (_, y) => down[y].values);
}

function rgb(rgba, pixels) {
  const planes = new Uint8ClampedArray(3 * pixels);
  for (let i = 0, j = 0; i < 3 * pixels; i += 3, j += 4) {
    planes[i] = rgba[j];
    planes[i + 1] = rgba[j + 1];
    planes[i + 2] = rgba[j + 2];
  }
  return planes;
}

function cut(planes, width, [left, top], [right, bottom]) {
  const part = new Uint8ClampedArray((right - left) * (bottom - top) * 3);
  for (let y = top; y < bottom; y++) {
    part.set(planes.subarray((y * width + left) * 3, (y * width + right) * 3), (y - top) * (right - left) * 3);
  }
  return part;
}

// Means of blocks of scale × scale pixels; those at the right and lower edge may have fewer.
function averaged(planes, width, height, scale) {
  const w = Math.ceil(width / scale), h = Math.ceil(height / scale);
  const means = new Uint8ClampedArray(w * h * 3);
  for (let y = 0; y < h; y++) {
    const bottom = Math.min(height, (y + 1) * scale);
    for (let x = 0; x < w; x++) {
      const right = Math.min(width, (x + 1) * scale);
      let r = 0, g = 0, b = 0;
      for (let row = y * scale; row < bottom; row++) {
        for (let i = (row * width + x * scale) * 3, end = (row * width + right) * 3; i < end; i += 3) {
          r += planes[i];
          g += planes[i + 1];
          b += planes[i + 2];
        }
      }
      const n = (bottom - y * scale) * (right - x * scale), half = n >> 1, to = (y * w + x) * 3;
      means[to] = Math.floor((r + half) / n);
      means[to + 1] = Math.floor((g + half) / n);
      means[to + 2] = Math.floor((b + half) / n);
    }
  }
  return [means, w, h];
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const lanczos = (x) => (Math.abs(x) < LOBES ? sinc(x) * sinc(x / LOBES) : 0);

// Where each of `side` outputs begins to look along `size` inputs, and the weights of what it sees, in fixed point.
function weights(size, offset, length, side) {
  const scale = length / side, stretch = Math.max(1, scale), support = LOBES * stretch;
  return Array.from({length: side}, (_, place) => {
    const centre = offset + (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(size, Math.trunc(centre + support + 0.5));
    const raw = Array.from({length: end - start}, (_, n) => lanczos((n + start - centre + 0.5) / stretch));
    const sum = raw.reduce((total, value) => total + value, 0);
    const values = raw.map((value) => Math.trunc((value / sum) * FIXED + Math.sign(value) * 0.5));
    return {start, values};
  });
}

function pass(planes, width, height, place, of) {
  const out = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const values = of(x, y);
      let r = FIXED / 2, g = FIXED / 2, b = FIXED / 2;
      for (let n = 0; n < values.length; n++) {
        const i = place(x, y, n), value = values[n];
        r += planes[i] * value;
        g += planes[i + 1] * value;
        b += planes[i + 2] * value;
      }
      const to = (y * width + x) * 3;
      out[to] = Math.floor(r / FIXED);
      out[to + 1] = Math.floor(g / FIXED);
      out[to + 2] = Math.floor(b / FIXED);
    }
  }
  return out;
}

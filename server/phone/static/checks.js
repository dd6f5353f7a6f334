// Whether a picture can be judged at all: in focus, well exposed, and with a lesion that fills enough of the frame.
// All are of the centre square at SIDE pixels, RGB.

export const SIDE = 128;
export const LIMITS = {focus: 8, dark: 45, bright: 232, clipped: 0.25, contrast: 10, lesion: 0.02};
const DISC = 0.48; // of the side: beyond it a dermoscope's field may end

export function checks(pixels) {
  const luma = grey(pixels);
  const {mean, clipped} = exposure(luma);
  const {share, contrast} = lesion(luma);
  const focus = laplacianVariance(luma);
  return {
    focus: {value: focus, good: focus >= LIMITS.focus},
    exposure: {value: mean, good: mean >= LIMITS.dark && mean <= LIMITS.bright && clipped <= LIMITS.clipped},
    lesion: {value: share, good: contrast >= LIMITS.contrast && share >= LIMITS.lesion},
  };
}

// Luma of Rec. 601.
export function grey(pixels) {
  const luma = new Float32Array(pixels.length / 3);
  for (let i = 0; i < luma.length; i++) {
    luma[i] = 0.299 * pixels[3 * i] + 0.587 * pixels[3 * i + 1] + 0.114 * pixels[3 * i + 2];
  }
  return luma;
}

// Variance of the Laplacian (Pech-Pacheco et al. 2000): little of it where nothing has an edge.
export function laplacianVariance(luma, side = SIDE) {
  let sum = 0, squares = 0, n = 0;
  for (let y = 1; y < side - 1; y++) {
    for (let x = 1; x < side - 1; x++) {
      const i = y * side + x;
      const value = luma[i - 1] + luma[i + 1] + luma[i - side] + luma[i + side] - 4 * luma[i];
      sum += value;
      squares += value * value;
      n++;
    }
  }
  return squares / n - (sum / n) ** 2;
}

function disc(luma, side) {
  const inside = [];
  for (let i = 0; i < luma.length; i++) {
    const x = (i % side) + 0.5 - side / 2, y = Math.floor(i / side) + 0.5 - side / 2;
    if (x * x + y * y <= (DISC * side) ** 2) inside.push(i);
  }
  return inside;
}

function exposure(luma, side = SIDE) {
  const inside = disc(luma, side);
  let sum = 0, clipped = 0;
  for (const i of inside) {
    sum += luma[i];
    clipped += luma[i] > 250 || luma[i] < 5;
  }
  return {mean: sum / inside.length, clipped: clipped / inside.length};
}

// What is darker than Otsu's threshold: the share of the largest piece of it, and how much darker than the rest it is.
export function lesion(luma, side = SIDE) {
  const inside = disc(luma, side);
  const counts = new Float64Array(256);
  for (const i of inside) counts[Math.min(255, Math.max(0, Math.round(luma[i])))]++;
  const threshold = otsu(counts);
  const dark = new Uint8Array(luma.length);
  const sums = [0, 0], sizes = [0, 0];
  for (const i of inside) {
    const is = Math.round(luma[i]) <= threshold ? 1 : 0;
    dark[i] = is;
    sums[is] += luma[i];
    sizes[is]++;
  }
  if (!sizes[0] || !sizes[1]) return {share: 0, contrast: 0};
  return {share: largest(dark, side) / inside.length, contrast: sums[0] / sizes[0] - sums[1] / sizes[1]};
}

// The level that divides a histogram into two classes of the largest variance between them (Otsu 1979).
export function otsu(counts) {
  let all = 0, moment = 0;
  counts.forEach((count, level) => {
    all += count;
    moment += count * level;
  });
  let below = 0, part = 0, best = -1, threshold = 0;
  for (let level = 0; level < counts.length; level++) {
    below += counts[level];
    part += counts[level] * level;
    if (!below || below === all) continue;
    const between = below * (all - below) * (part / below - (moment - part) / (all - below)) ** 2;
    if (between > best) [best, threshold] = [between, level];
  }
  return threshold;
}

// Pixels of the largest piece that hangs together by its sides.
export function largest(mask, side) {
  const left = Uint8Array.from(mask);
  let most = 0;
  for (let first = 0; first < left.length; first++) {
    if (!left[first]) continue;
    let size = 0;
    const open = [first];
    left[first] = 0;
    while (open.length) {
      const i = open.pop(), x = i % side;
      size++;
      for (const [next, there] of [[i - 1, x > 0], [i + 1, x < side - 1], [i - side, true], [i + side, true]]) {
        if (there && left[next]) {
          left[next] = 0;
          open.push(next);
        }
      }
    }
    most = Math.max(most, size);
  }
  return most;
}

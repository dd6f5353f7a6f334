// The exported graph in ONNX Runtime's WebAssembly, one thread: what it says of a square, and where it looks.

const CELLS = 8; // a window of two by two of them is covered at a time, at every place

export class ModelError extends Error {}

export class Model {
  static async load(facts) {
    // A browser that forbids or lacks WebAssembly is told of before anything is fetched.
    if (typeof WebAssembly !== "object") throw new ModelError("wasm");
    try {
      const ort = await import("./ort/ort.wasm.min.mjs");
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
      ort.env.logLevel = "error";
      const session = await ort.InferenceSession.create("model.onnx", {executionProviders: ["wasm"]});
      return new Model(ort, session, facts);
    } catch (error) {
      console.error(error);
      throw new ModelError(navigator.onLine === false ? "offline" : "model");
    }
  }

  constructor(ort, session, facts) {
    Object.assign(this, {ort, session, facts, side: facts.image_size});
  }

  // What the graph says of RGB pixels (side × side × 3): {probability, logit, unlike}; unlike is null where it cannot tell.
  async score(pixels) {
    const image = new this.ort.Tensor("uint8", Uint8Array.from(pixels), [this.side, this.side, 3]);
    const found = await this.session.run({image});
    const value = (name) => (found[name] ? Number(found[name].data[0]) : null);
    return {probability: value("probability"), logit: value("logit"), unlike: value("unlike")};
  }

  // How far the logit falls where a window is covered by the picture's mean colour (Zeiler and Fergus 2014), as
  // {width, drops}; rises count as none. `told` hears of the share that is done.
  async occlusion(pixels, logit, told) {
    const {side} = this, width = CELLS - 1;
    const mean = [0, 1, 2].map((c) => {
      let sum = 0;
      for (let i = c; i < pixels.length; i += 3) sum += pixels[i];
      return Math.round((3 * sum) / pixels.length);
    });
    const edge = (cell) => Math.round((cell * side) / CELLS);
    const drops = new Float32Array(width * width);
    for (let place = 0; place < drops.length; place++) {
      const row = Math.floor(place / width), column = place % width;
      const covered = Uint8Array.from(pixels);
      for (let y = edge(row); y < edge(row + 2); y++) {
        for (let x = edge(column); x < edge(column + 2); x++) covered.set(mean, 3 * (y * side + x));
      }
      drops[place] = Math.max(0, logit - (await this.score(covered)).logit);
      told((place + 1) / drops.length);
      await new Promise((next) => setTimeout(next)); // so that the page stays alive
    }
    return {width, drops};
  }
}

// The 95 % limits of a probability, from the covariance of a calibration map's intercept, slope and bends; else null.
export function interval(calibration, {probability, logit}) {
  const covariance = calibration?.covariance;
  if (!covariance?.length) return null;
  const basis = [1, logit, ...(calibration.knots ?? []).map((knot) => Math.max(0, logit - knot))];
  if (basis.length !== covariance.length) return null;
  const variance = covariance.reduce((sum, row, i) => sum + basis[i] * row.reduce((s, v, j) => s + v * basis[j], 0), 0);
  const centre = Math.log(probability / (1 - probability)), half = 1.959963984540054 * Math.sqrt(Math.max(0, variance));
  return [centre - half, centre + half].map((x) => 1 / (1 + Math.exp(-x)));
}

// The page: from a chosen picture to an answer, or to one line on why there is none.

import {SIDE, checks} from "./checks.js";
import {Model, ModelError, interval} from "./model.js";
import {PictureError, read, square} from "./picture.js";
import {TEXTS} from "./texts.js";

const $ = (id) => document.getElementById(id);
const LEAST_DROP = 0.02; // of the logit: less than that is nothing

let language = (navigator.language ?? "en").startsWith("de") ? "de" : "en";
let facts = null;
let loading = null;
let shown = null; // the last answer: pixels and what was said of them
let turn = 0; // of the picture that is looked at: a newer one ends what an older one does

const text = () => TEXTS[language];
const percent = (p) => new Intl.NumberFormat(language, {style: "percent", maximumFractionDigits: 1}).format(p);
const number = (v, digits = 2) => new Intl.NumberFormat(language, {maximumFractionDigits: digits}).format(v);

function say() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text()[element.dataset.text];
  $("language").textContent = text().other;
  $("language").lang = language === "en" ? "de" : "en";
  $("picture").setAttribute("aria-label", text().picture);
  if ($("problem").dataset.key) problem($("problem").dataset.key);
  if (facts) tellFacts();
  if (shown) tell();
}

function tellFacts() {
  const {facts: names, epsilon, noprivacy, noseen, rendered} = text();
  $("name").textContent = document.title = facts.name;
  const values = {
    name: facts.name,
    study: facts.study,
    backbone: `${facts.backbone}, ${facts.image_size} × ${facts.image_size}`,
    privacy: facts.privacy ? epsilon(facts.privacy) : noprivacy,
    seen: facts.seen ? facts.seen_in_words : noseen,
    intended_use: facts.intended_use,
    ...(facts.synthetic ? {synthetic: rendered} : {}),
  };
  $("facts").replaceChildren(...Object.entries(values).flatMap(([key, value]) => [line("dt", names[key]), line("dd", value)]));
}

function line(kind, words, style = "") {
  const element = document.createElement(kind);
  element.textContent = words;
  element.className = style;
  return element;
}

function problem(key) {
  $("problem").dataset.key = key;
  $("problem").textContent = key ? text()[key] : "";
  $("problem").hidden = !key;
}

const model = () => (loading ??= Model.load(facts));

async function look(file) {
  const mine = ++turn;
  problem("");
  shown = null;
  for (const id of ["answer", "result", "unlike", "heat", "legend"]) $(id).hidden = true;
  $("checks").replaceChildren();
  document.body.dataset.state = "busy";
  try {
    const picture = await read(file);
    const pixels = square(picture, facts.image_size);
    if (mine !== turn) return;
    paint(pixels);
    $("answer").hidden = false;
    $("answer").scrollIntoView();
    const found = {pixels, checked: checks(square(picture, SIDE)), score: null};
    shown = found;
    tell();
    if (Object.values(found.checked).every(({good}) => good)) {
      $("state").textContent = text().loading;
      const ready = await model();
      $("state").textContent = text().looking;
      const score = await ready.score(pixels);
      if (mine !== turn) return;
      found.score = score;
      tell();
    }
    document.body.dataset.state = "done";
  } catch (error) {
    if (!(error instanceof PictureError || error instanceof ModelError)) throw error;
    if (mine !== turn) return;
    if (error instanceof ModelError) loading = null;
    $("state").textContent = "";
    problem(error.message);
    document.body.dataset.state = "refused";
  }
}

function tell() {
  const {checked, score} = shown;
  $("checks").replaceChildren(
    ...Object.entries(checked).map(([name, {good}]) => line("li", `${good ? "✓" : "✗"} ${text()[name][good ? 0 : 1]}`, good ? "" : "bad")),
  );
  const refused = Object.values(checked).some(({good}) => !good);
  $("state").textContent = refused ? text().again : "";
  $("result").hidden = !score;
  if (!score) return;
  $("unlike").hidden = !(score.unlike > 1);
  $("unlike").textContent = text().unlike(number(score.unlike));
  $("of").textContent = text().of(facts.positive.map((code) => text().diagnoses[code] ?? code).join(", "));
  $("probability").textContent = percent(score.probability);
  $("probability").dataset.value = score.probability;
  document.body.dataset.unlike = score.unlike ?? "";
  document.body.dataset.logit = score.logit;
  const limits = interval(facts.calibration, score);
  $("interval").textContent = limits ? text().interval(...limits.map(percent)) : text().nointerval;
  $("calibration").textContent = facts.calibration ? text().calibrated : text().uncalibrated;
  const points = (facts.operating_points ?? []).map(({name, threshold}) =>
    line("li", text()[score.probability >= threshold ? "above" : "below"](name, percent(threshold))),
  );
  if (!points.length) points.push(line("li", text().nopoints, "soft"));
  if (score.unlike === null) points.push(line("li", text().blind, "soft"));
  $("points").replaceChildren(...points);
}

function paint(pixels) {
  const side = facts.image_size, image = new ImageData(side, side);
  for (let i = 0, j = 0; i < pixels.length; i += 3, j += 4) image.data.set([pixels[i], pixels[i + 1], pixels[i + 2], 255], j);
  for (const id of ["picture", "heat"]) Object.assign($(id), {width: side, height: side});
  $("picture").getContext("2d").putImageData(image, 0, 0);
}

async function explain() {
  const mine = turn, found = shown;
  $("explain").disabled = true;
  try {
    const ready = await model();
    const {width, drops} = await ready.occlusion(found.pixels, found.score.logit, (share) => {
      $("state").textContent = text().covering(Math.round(100 * share));
    });
    if (mine !== turn) return;
    const most = Math.max(...drops);
    $("state").textContent = most < LEAST_DROP ? text().nothing : "";
    if (most >= LEAST_DROP) overlay(width, drops, most);
    document.body.dataset.explained = most;
  } finally {
    $("explain").disabled = false;
  }
}

function overlay(width, drops, most) {
  const small = new OffscreenCanvas(width, width), image = new ImageData(width, width);
  drops.forEach((drop, i) => image.data.set([220, 20, 20, Math.round((190 * drop) / most)], 4 * i));
  small.getContext("2d").putImageData(image, 0, 0);
  const context = $("heat").getContext("2d"), {width: side} = $("heat");
  context.clearRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  const margin = side / 16; // windows' centres begin one cell inside
  context.drawImage(small, margin, margin, side - 2 * margin, side - 2 * margin);
  $("heat").hidden = $("legend").hidden = false;
}

for (const id of ["camera", "file"]) {
  $(id).addEventListener("change", ({target}) => {
    const [file] = target.files;
    target.value = ""; // so that the same picture can be taken again
    if (file) look(file);
  });
}
$("explain").addEventListener("click", explain);
$("language").addEventListener("click", () => {
  language = language === "en" ? "de" : "en";
  say();
});

say();
facts = await (await fetch("facts.json")).json();
say();
if (typeof WebAssembly !== "object") problem("wasm");
if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js");
document.body.dataset.state = "ready";

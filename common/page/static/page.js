"use strict";
// What both live pages are made of. Whatever comes from elsewhere becomes text (textContent), never markup.

const page = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  /** Make an element: its class, and its children, elements or texts. */
  function make(tag, style, ...children) {
    const element = document.createElement(tag);
    if (style) element.className = style;
    for (const child of children) if (child !== null && child !== undefined) element.append(child);
    return element;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const by = (id) => document.getElementById(id);
  const fill = (id, ...children) => by(id).replaceChildren(...children.filter((child) => child !== null));

  function number(value, digits = 3) {
    return value === null || value === undefined ? "–" : Number(value).toFixed(digits);
  }

  /** Four digits of an ε or another positive number, without zeros at the end. */
  const short = (value) => (value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(4))));

  /** A value with its 95 % interval. */
  function interval(found) {
    if (!found) return "–";
    return found[1] === null ? number(found[0]) : `${number(found[0])} (${number(found[1])}–${number(found[2])})`;
  }

  function ago(time) {
    const seconds = (Date.now() - Date.parse(time)) / 1000;
    if (!time || Number.isNaN(seconds)) return "never";
    for (const [unit, length] of [["days", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit} ago`;
    }
    return `${Math.max(0, Math.round(seconds))} s ago`;
  }

  /** A time of day of this machine's zone, with the date where it is not today's; the whole time on hovering. */
  function moment(time) {
    const at = new Date(time);
    if (Number.isNaN(at.getTime())) return make("span", "", String(time));
    const today = at.toDateString() === new Date().toDateString();
    const element = make("time", "", today ? at.toLocaleTimeString() : at.toLocaleString());
    element.dateTime = at.toISOString();
    element.title = at.toISOString();
    return element;
  }

  /** A word with a mark of shape and colour: good, bad, or neither. */
  const state = (word, kind) => make("span", `state ${kind || ""}`.trim(), word);

  /** A table's row: the first cell is its heading; a cell is text, an element, or {content, style}. */
  function row(names, cells) {
    const line = make("tr");
    cells.forEach((cell, place) => {
      const plain = cell === null || cell === undefined || typeof cell !== "object" || cell instanceof Node;
      const { content, style } = plain ? { content: cell, style: "" } : cell;
      const blank = content === "" || content === null || content === undefined || content === "–";
      const element = make(place ? "td" : "th", style, blank ? "–" : content);
      if (place) element.dataset.name = names[place]; else element.scope = "row";
      if (!place && typeof content === "number") element.dataset.name = names[0]; // a number alone says nothing
      if (blank && place) element.classList.add("blank");
      line.append(element);
    });
    return line;
  }

  /** Put a table into an element, or what to say where it has no rows; where its reader has scrolled to stays. */
  function table(id, caption, names, rows, empty) {
    if (!rows.length) return fill(id, make("p", "empty", empty));
    const scroll = make("div", "scroll", tableOf(caption, names, [make("tbody", "", ...rows.map((r) => row(names, r)))]));
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", caption);
    const before = by(id).querySelector(".scroll");
    const focused = before && before === document.activeElement;
    const at = before ? before.scrollTop : 0;
    fill(id, scroll);
    scroll.scrollTop = at;
    if (focused) scroll.focus({ preventScroll: true });
  }

  function tableOf(caption, names, bodies) {
    const heads = names.map((name) => { const cell = make("th", "", name); cell.scope = "col"; return cell; });
    return make("table", "", make("caption", "", caption), make("thead", "", make("tr", "", ...heads)), ...bodies);
  }

  const counted = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  const card = (title, big, small) => make("div", "card", make("h3", "", title), make("p", "big", big), small ? make("p", "small", small) : null);

  /** Names with reasons, one a line. */
  function reasons(found) {
    const lines = Object.entries(found || {}).map(([name, why]) => make("div", "", make("b", "", name), `: ${why}`));
    return lines.length ? make("div", "", ...lines) : "";
  }

  /** Audit records: what the server's page and the clinic's show of them. */
  function records(id, rows, caption) {
    const names = ["Time", "Event", "What", "Who"];
    table(id, caption, names, rows.map((r) => {
      const fields = Object.entries(r.fields).map(([name, value]) => `${name} ${value}`).join(" · ");
      const event = make("span", r.severity === "error" ? "error" : r.severity === "warning" ? "warn" : "", r.name);
      const words = make("div", "", fields || r.meaning);
      if (fields && r.meaning) words.title = r.meaning;
      return [moment(r.time), event, { content: words, style: "reason" }, { content: [...new Set([r.log, r.who])].filter(Boolean).join(" "), style: "reason" }];
    }), "Nothing has happened yet.");
  }

  /** Series of [x, value, low, high] as lines with bands, values from 0 to 1. */
  function chart(series, description) {
    const xs = Object.values(series).flat().map((point) => point[0]);
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    const across = (x) => (last === first ? 500 : ((x - first) / (last - first)) * 1000);
    const svg = draw("svg", { viewBox: "0 0 1000 200", preserveAspectRatio: "none", role: "img", "aria-label": description });
    for (const y of [0, 0.25, 0.5, 0.75, 1]) svg.append(draw("line", { class: "rule", x1: 0, x2: 1000, y1: 200 - 200 * y, y2: 200 - 200 * y }));
    for (const [name, points] of Object.entries(series)) {
      for (const part of pieces(points)) {
        const upper = part.map(([x, , , high]) => `${across(x)} ${200 - 200 * high}`);
        const lower = part.map(([x, , low]) => `${across(x)} ${200 - 200 * low}`).reverse();
        const middle = part.map(([x, value]) => `${across(x)} ${200 - 200 * value}`);
        if (part.length === 1) middle.push(`${across(part[0][0]) + 0.01} ${200 - 200 * part[0][1]}`);
        svg.append(draw("polygon", { class: `band ${name}`, points: [...upper, ...lower].join(" ") }));
        svg.append(draw("polyline", { class: `line ${name}`, points: middle.join(" "), "stroke-linecap": "round" }));
      }
    }
    const ticks = [1, 0.75, 0.5, 0.25, 0].map((y, place) => {
      const tick = make("span", "", String(y));
      tick.style.top = `${25 * place}%`;
      return tick;
    });
    return make("div", "plot", svg, ...ticks);
  }

  /** Runs of points whose value is defined. */
  function pieces(points) {
    const found = [[]];
    for (const point of points) {
      if (point[1] === null) found.push([]);
      else found.at(-1).push([point[0], point[1], point[2] ?? point[1], point[3] ?? point[1]]);
    }
    return found.filter((part) => part.length);
  }

  /** Listen: `parts[name](content, name)` is called with each part that is new; "rounds/3" is asked of `rounds`. */
  function listen(parts, address) {
    const source = new EventSource(address);
    source.addEventListener("part", (message) => {
      const [name, content] = JSON.parse(message.data);
      if (name === "error") return problem(content);
      parts[name.split("/")[0]]?.(content, name);
    });
    source.addEventListener("looked", () => {
      document.documentElement.dataset.looked = String(Number(document.documentElement.dataset.looked || 0) + 1);
      by("lost").hidden = true;
    });
    source.addEventListener("error", () => { by("lost").hidden = false; });
  }

  function problem(text) {
    by("error").hidden = !text;
    by("error").textContent = text;
  }

  return { make, by, fill, number, short, interval, ago, moment, state, row, table, tableOf, card, counted, reasons, records, chart, listen };
})();

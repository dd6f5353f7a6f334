"use strict";
// The coordinator's page: clinics, the rounds of one run, all runs, events.

const { make, by, fill, number, short, interval, ago, state } = page;
const ROUND = ["Round", "AUROC", "AUPRC", "Answered", "Loss", "Seconds", "Declined, and why", "Did not answer, and why"];
const rounds = new Map(); // by part
const bodies = new Map();
let run = null;
let due = false;

function server(found) {
  by("title").textContent = found.name;
  document.title = `${found.name}: melfed coordinator`;
  const ended = found.running ? [] : ["The server is not running."];
  const sick = found.children.filter((child) => child.status !== "ready").map((child) => `${child.name}: ${child.status} ${child.reason}`);
  fill("problems", ...[...ended, ...found.problems, ...sick].map((text) => make("p", "notice warning", text)));
  by("made").textContent = `melfed ${found.melfed}. Research software, no medical device. This page shows, and changes nothing.`;
}

function ofRun(found) {
  run = found;
  if (!found) {
    by("doing").textContent = "No run yet.";
    return fill("run");
  }
  const epsilon = found.private ? [short(found.epsilon), `by ${found.unit}, δ ${found.delta}`] : ["none", "this study adds no noise"];
  by("doing").textContent = `${found.name}: ${found.status}${found.reason ? `; ${found.reason}` : ""}`;
  fill("run",
    page.card("Run", found.name, `study ${found.study} ${found.digest.slice(0, 12)}`),
    page.card("Status", found.status, found.updated ? `since ${ago(found.updated)}` : ""),
    page.card("Rounds", `${found.round} of ${found.rounds}`, `${page.counted(found.asks.length, "clinic is", "clinics are")} asked`),
    page.card("ε of the study", ...epsilon));
}

const CLINIC = ["Clinic", "Online", "Version", "Approves this study", "Declined, and why", "Did not answer, and why", "ε it tells", "ε left", "Rounds answered", "AUROC, its validation part", "Certificate ends"];

function clinics(found) {
  page.table("clinics", `${page.counted(found.length, "clinic", "clinics")}, ${found.filter((clinic) => clinic.online).length} online`, CLINIC, found.map((clinic) => {
    const [online, kind] = clinic.revoked ? ["revoked", "bad"] : clinic.online ? ["online", "good"] : ["offline", ""];
    const told = clinic.rounds || { answered: 0, declined: null, failed: null, validation: null };
    const seen = clinic.online ? `for ${ago(clinic.since).replace(/ ago$/, "")}` : `last seen ${ago(clinic.since)}`;
    const approves = clinic.approves === null ? "not told" : clinic.approves ? "yes" : `no (${page.counted(clinic.approved, "other", "others")})`;
    const declined = told.declined ? `round ${told.declined[0]}: ${told.declined[1]}` : clinic.reason;
    return [
      clinic.name, make("div", "", state(online, kind), make("small", "", ` ${seen}`)), clinic.version || "", approves,
      { content: declined, style: "reason" },
      { content: told.failed ? `round ${told.failed[0]}: ${told.failed[1]}` : "", style: "reason" },
      { content: clinic.account ? (clinic.account.epsilon === null ? "unbounded" : short(clinic.account.epsilon)) : "", style: "number" },
      { content: short(clinic.budget), style: "number" }, { content: told.answered || "", style: "number" },
      { content: interval(told.validation), style: "number" }, clinic.certificate_ends.slice(0, 10),
    ];
  }), "No clinic is known; see melfed-server approve.");
}

function someRounds(found, part) {
  if (found === null) {
    rounds.delete(part);
    bodies.get(part)?.remove();
    bodies.delete(part);
  } else {
    rounds.set(part, found);
    const rows = [...found].reverse().map((r) => page.row(ROUND, [
      r.round, { content: interval(r.auroc), style: "number" }, { content: interval(r.auprc), style: "number" }, r.asked ? `${r.answered} of ${r.asked}` : "", number(r.loss, 4),
      number(r.seconds, 1), { content: page.reasons(r.declined), style: "reason" }, { content: page.reasons(r.failed), style: "reason" }]));
    const body = make("tbody", "", ...rows);
    const number_of = (name) => Number(name.split("/")[1]);
    const before = [...bodies.keys()].sort((a, b) => number_of(b) - number_of(a)).find((name) => number_of(name) < number_of(part));
    if (bodies.has(part)) bodies.get(part).replaceWith(body);
    else roundsTable().insertBefore(body, before ? bodies.get(before) : null);
    bodies.set(part, body);
  }
  if (!due) {
    due = true;
    requestAnimationFrame(drawRounds);
  }
}

function roundsTable() {
  const there = by("rounds").querySelector("table");
  if (there) return there;
  const scroll = make("div", "scroll", page.tableOf("Rounds, the newest first; values of the pooled validation parts with 95 % intervals", ROUND, []));
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Rounds");
  fill("rounds", scroll);
  return scroll.querySelector("table");
}

function drawRounds() {
  due = false;
  const every = [...rounds.values()].flat().sort((a, b) => a.round - b.round).filter((r) => r.auroc !== undefined);
  const series = (name) => every.map((r) => [r.round, ...(r[name] || [null, null, null])]);
  if (!every.some((r) => r.auroc)) return;
  const last = every.findLast((r) => r.auroc);
  const words = `Round ${last.round}: AUROC ${interval(last.auroc)}, AUPRC ${interval(last.auprc)}`;
  fill("chart", page.chart({ auprc: series("auprc"), auroc: series("auroc") }, words), make("p", "soft", words));
}

function runs(found) {
  page.table("runs", "Runs, the newest first", ["Run", "Status", "Round", "Study", "Why"], found.map((row) => {
    const link = make("a", "", row.name);
    link.href = `?run=${encodeURIComponent(row.name)}`;
    if (run && run.name === row.name) link.setAttribute("aria-current", "true");
    const kind = row.status === "running" ? "good" : ["failed", "damaged"].includes(row.status) ? "bad" : "";
    return [link, state(row.status, kind), `${row.round} of ${row.rounds}`, `${row.study} ${row.digest.slice(0, 12)}`, row.reason];
  }), "No run yet; see melfed-server run.");
}

const reading = (found) => { by("reading").hidden = !found; };
const events = (found) => page.records("events", found, `The last ${page.counted(found.length, "record", "records")} of the audit log, the newest first`);

page.listen({ server, run: ofRun, clinics, runs, rounds: someRounds, reading, events }, `/events${location.search}`);

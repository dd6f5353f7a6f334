"use strict";
// A clinic's page: how it is, what was asked of it and what it answered, its ledger, its models.

const { make, by, fill, short, moment, state } = page;
const MARK = { ready: "good", "not running": "bad", "not ready": "bad" };

function status(found) {
  by("title").textContent = found.clinic;
  document.title = `${found.clinic}: melfed clinic`;
  by("made").textContent = `melfed ${found.melfed}. Research software, no medical device. This page shows, and changes nothing.`;
  if (!found.examined) {
    by("doing").textContent = "Examining…";
    return;
  }
  by("doing").textContent = found.ready ? `Ready: this clinic would take part. Coordinator: ${found.coordinator}` : `Not ready. Coordinator: ${found.coordinator}`;
  const failed = found.checks.filter((check) => ["failed", "warning"].includes(check.status));
  fill("problems", ...found.problems.map((text) => make("p", "notice warning", text)),
    ...failed.map((check) => make("p", check.status === "failed" ? "notice warning" : "notice", `${check.name}: ${check.detail}. ${check.mend}`)));
  const budget = found.budget;
  const spent = budget && [budget.spent === null ? "unbounded" : short(budget.spent), `of ${short(budget.epsilon)}, ${short(budget.left)} left, at δ ${budget.delta}`];
  const approved = found.approved === null ? "not told" : found.approved === "any" ? "any study" : String(found.approved.length);
  fill("status",
    ...Object.entries(found.processes).map(([name, word]) => page.card(name, state(word, MARK[word]))),
    spent ? page.card("ε spent", ...spent) : null,
    page.card("Approved studies", approved),
    found.last ? page.card("Last charge", `round ${found.last.round}`, `${found.last.purpose}, ${found.last.status}; ${page.ago(found.last.time)}`) : null);
  studies(found.studies);
}

const STUDY = ["Study", "Name", "Runs begun", "ε spent", "ε allowed", "ε left", "δ"];

function studies(found) {
  page.table("studies", "Studies that are approved or have been charged", STUDY, found.map((study) => [
    make("code", "", study.digest.slice(0, 16)), study.study || "", `${study.runs.begun} of ${study.runs.allowed}`,
    { content: study.epsilon.spent === null ? "unbounded" : short(study.epsilon.spent), style: "number" },
    { content: short(study.epsilon.allowed), style: "number" }, { content: short(study.epsilon.left), style: "number" },
    { content: short(study.epsilon.delta), style: "number" },
  ]), "No study is approved; see melfed-client approve.");
}

const ASKED = ["When", "What", "Answer", "Why", "Study", "Run", "Round", "Seconds"];

function asked(found) {
  page.table("asked", `The last ${page.counted(found.length, "request", "requests")}, the newest first`, ASKED, found.map((request) => [
    moment(request.time), request.kind, make("span", request.severity === "error" ? "error" : request.severity === "warning" ? "warn" : "", request.outcome),
    { content: request.reason, style: "reason" }, request.study || request.digest.slice(0, 16), request.run, request.round, { content: request.seconds, style: "number" },
  ]), "Nothing was asked of this clinic yet.");
}

const CHARGE = ["When", "For", "Round", "Study", "Run", "Noise σ", "Sampling rate", "Steps", "Status", "ε in all after it"];

function ledger(found) {
  if (found.problem) return fill("ledger", make("p", "notice warning", found.problem));
  const caption = found.all > found.charges.length ? `The last ${found.charges.length} of ${found.all} charges, the newest first` : `${page.counted(found.all, "charge", "charges")}, the newest first`;
  page.table("ledger", caption, CHARGE, found.charges.map((charge) => [
    moment(charge.time), charge.purpose, charge.round, charge.study.slice(0, 16), { content: charge.run, style: "reason" },
    { content: short(charge.noise_multiplier), style: "number" }, { content: short(charge.sampling_rate), style: "number" },
    { content: charge.steps, style: "number" }, charge.status,
    { content: charge.epsilon === null ? "unbounded" : short(charge.epsilon), style: "number" },
  ]), "No ledger yet: it begins with the first charge.");
  by("head").textContent = found.head ? `Hash of the last row, to be kept elsewhere: ${found.head}` : "";
}

function models(found) {
  if (found.problem) return fill("models", make("p", "notice warning", found.problem));
  page.table("models", "Models that the coordinator has sent", ["Model", "Study", "Network", "Received", "Told of it"], found.models.map((model) => [
    model.name, model.study, model.network, moment(model.received), { content: page.reasons(model.facts), style: "reason" },
  ]), "No model is here; the coordinator sends one at the end of a run (policy.models).");
}

const events = (found) => page.records("events", found, `The last ${page.counted(found.length, "record", "records")} of the audit logs, the newest first`);

page.listen({ status, asked, ledger, models, events }, "/events");

"""The report's style sheet: light and dark scheme, narrow and wide screens, paper.

Colours are from Okabe and Ito's palette, which people with a colour vision deficiency can tell apart, darkened or
lightened to keep a contrast of 3:1 (marks) and 4.5:1 (text) against the page; line dashes tell series apart as well.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #566172; --rule: #dde2e9; --grid: #e8ebf0;
  --accent: #005f9e; --auroc: #0067a8; --auprc: #00785a; --melanoma: #c04f00; --other: #5b7590; --chance: #6b7584;
  --warn: #fff3d6; --warn-rule: #d99a00; --warn-ink: #573c00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #11161d; --card: #1a212b; --ink: #e6eaf0; --soft: #a3aebd; --rule: #2f3947; --grid: #29323f;
    --accent: #6cbcf0; --auroc: #56b4e9; --auprc: #2fc09a; --melanoma: #f0883e; --other: #93aac4; --chance: #97a2b1;
    --warn: #3a2d0c; --warn-rule: #d99a00; --warn-ink: #ffe2a3;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink); border-top: 4px solid var(--accent);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2rem); }
header { padding-top: 2rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.4rem); margin: .1rem 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; letter-spacing: -.01em; }
h3 { font-size: 1.02rem; margin: 0 0 .5rem; }
p { margin: .4rem 0 .9rem; max-width: 75ch; }
code, pre {
  font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .86em;
}
bdi, code { overflow-wrap: anywhere; }
.kind {
  color: var(--accent); font-weight: 600; font-size: .86rem; letter-spacing: .06em;
  text-transform: uppercase; margin: 0;
}
.lead { font-size: 1.06rem; color: var(--soft); margin: 0 0 1rem; }
.soft, figcaption, caption { color: var(--soft); }
nav ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; margin: 1rem 0 0;
  font-size: .92rem;
}
a { color: var(--accent); text-underline-offset: .2em; }
.notice {
  margin: .8rem 0; padding: .65rem 1rem; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); max-width: none;
}
.warning {
  background: var(--warn); border: 1px solid var(--warn-rule); border-left-width: 6px;
  color: var(--warn-ink); font-weight: 600;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 245px), 1fr)); gap: 1rem; }
.card, figure, .panel {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.05rem 1.15rem;
  margin: 0; min-width: 0;
}
.card h3 { color: var(--soft); font-size: .92rem; font-weight: 600; margin: 0 0 .2rem; }
.card .big {
  font-size: 2.3rem; line-height: 1.1; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; margin: 0;
}
.card p { font-size: .9rem; margin: .3rem 0 0; }
.card .limits { font-variant-numeric: tabular-nums; }
.gauge { display: block; width: 100%; height: auto; margin: .6rem 0 .5rem; overflow: visible; }
.gauge .track { fill: var(--grid); } .gauge .reach { fill: var(--auroc); opacity: .5; }
.gauge .value { fill: var(--ink); }
.scroll {
  overflow-x: auto; border: 1px solid var(--rule); border-radius: 10px; background: var(--card);
  margin: 0 0 1rem;
}
.scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .8rem 1rem .4rem; font-size: .9rem; }
caption span { display: inline-block; position: sticky; left: 1rem; max-width: min(75ch, calc(100vw - 5rem)); }
th, td {
  padding: .5rem .7rem; text-align: right; vertical-align: top; border-top: 1px solid var(--rule);
  white-space: nowrap;
}
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; border-top: 0; }
thead td { border: 0; }
thead th[scope=colgroup] {
  text-align: center; border-bottom: 1px solid var(--rule); padding-bottom: .25rem; font-weight: 500;
}
th:first-child, .words { text-align: left; }
tbody th { font-weight: 600; white-space: normal; max-width: 18rem; }
tbody th, thead :is(td, th):first-child { position: sticky; left: 0; background: var(--card); }
th bdi, th code { display: inline-block; width: max-content; max-width: min(16rem, 32vw); }
td.words { white-space: normal; min-width: 12rem; }
table.words { font-variant-numeric: normal; }
table.words tbody th { font-weight: 500; min-width: 10rem; max-width: 26rem; }
table.words td.words { min-width: 6rem; }
tr.total th, tr.total td { border-top: 2px solid var(--ink); font-weight: 650; }
td small { display: block; font-size: .9em; font-weight: 400; color: var(--soft); }
td small.hint { white-space: normal; min-width: 8rem; }
.undefined { color: var(--soft); font-style: italic; }
.card .undefined { font-size: 1.7rem; line-height: 1.5; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
figure.wide { margin: 1rem 0 0; }
figure.wide .chart { max-width: 600px; }
figcaption { font-size: .88rem; margin-top: .5rem; max-width: 75ch; }
.chart { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto; overflow: visible; }
.chart text { fill: var(--soft); font-size: 13px; font-family: inherit; font-variant-numeric: tabular-nums; }
.chart text.label, .chart text.name, .chart text.value { fill: var(--ink); }
.chart text.name, .chart text.value, .chart text.note { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.chart text.name { font-weight: 600; } .chart text.note { font-size: 12px; }
.grid { stroke: var(--grid); stroke-width: 1; } .axis { stroke: var(--chance); stroke-width: 1; }
.chance { stroke: var(--chance); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .thin { stroke-width: 1; }
.line.chance { stroke-width: 1.5; }
.line.auroc { stroke: var(--auroc); } .line.auprc { stroke: var(--auprc); }
.line.dashed { stroke-dasharray: 8 3; }
.line.melanoma { stroke: var(--melanoma); } .line.other { stroke: var(--other); }
.line.pooled { stroke: var(--ink); stroke-width: 3; } .line.second { stroke: var(--auprc); }
.band { stroke: none; opacity: .17; }
.band.auroc { fill: var(--auroc); } .band.auprc { fill: var(--auprc); }
.band.melanoma { fill: var(--melanoma); opacity: .28; } .band.other { fill: var(--other); opacity: .28; }
.dot { stroke: var(--card); stroke-width: 1.2; } .dot.auroc { fill: var(--auroc); } .dot.auprc { fill: var(--auprc); }
.dot.pooled { fill: var(--ink); } .dot.second { fill: var(--auprc); }
.bar.other { fill: var(--other); }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: 0 0 .4rem;
  font-size: .88rem;
}
.key {
  display: inline-block; width: 1.7em; height: 0; border-top: 3px solid; margin-right: .45em;
  vertical-align: middle;
}
.key.auroc { border-color: var(--auroc); } .key.auprc { border-color: var(--auprc); }
.key.dashed { border-top-style: dashed; }
.key.melanoma { border-color: var(--melanoma); } .key.other { border-color: var(--other); }
dl.facts {
  display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.4rem; margin: 0;
}
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
dl.meaning {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1.1rem 2.2rem;
  margin: 0;
}
dl.meaning dt { font-weight: 650; } dl.meaning dd { margin: .15rem 0 0; font-size: .94rem; }
.below { margin-top: 1rem; }
details {
  border: 1px solid var(--rule); border-radius: 10px; background: var(--card); padding: .6rem 1rem;
  margin: 1rem 0;
}
summary { cursor: pointer; font-weight: 600; }
pre { margin: .8rem 0 .3rem; overflow-x: auto; line-height: 1.45; }
footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 2.5rem; color: var(--soft); font-size: .88rem; }
@media (max-width: 640px) {
  table.words thead { display: none; }
  table.words :is(tbody, tr, th, td) { display: block; }
  table.words tr { padding: .55rem 0; border-top: 1px solid var(--rule); }
  table.words tbody :is(th, td) { position: static; border: 0; padding: .1rem 1rem; max-width: none; }
  table.words tbody th { font-weight: 650; } table.words td:last-child { color: var(--soft); }
  table.words, table.words caption { display: block; }
}
@media (max-width: 520px) {
  dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: .5rem; }
  .card, figure, .panel { padding: .9rem .85rem; }
  th, td { padding: .45rem .6rem; }
  .chart text { font-size: 15px; } .chart text.note { font-size: 14px; }
}
@media print {
  @page { margin: 14mm 12mm; }
  html { font-size: 10pt; }
  :root { --page: #fff; }
  body { font-size: 1rem; border: 0; }
  main, header, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  nav { display: none; }
  .cards { grid-template-columns: repeat(4, 1fr); gap: .5rem; } .card .big { font-size: 1.7rem; }
  .figures { grid-template-columns: 1fr 1fr; } dl.meaning { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; } caption span, tbody th, thead :is(td, th):first-child { position: static; }
  table { font-size: 8pt; } th, td { padding: .3rem .4rem; }
  thead { display: table-header-group; }
  .card, figure, tr, .scroll, dl.meaning > div { break-inside: avoid; }
  h2, h3, caption, section > p { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""

"""The style sheet of the report page: one column, light or dark as the reader's system is, plain black when printed."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #1b1f27; --soft: #5b6472; --line: #e2e5ea; --zebra: #fafbfc;
  --accent: #2f5bd8; --accent-soft: #e8eefc; --good: #16805a; --fair: #b26a00; --poor: #c62f3b;
  --good-soft: #e3f4ec; --fair-soft: #fdf1dc; --poor-soft: #fdeaeb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1b1f27; --ink: #e8eaee; --soft: #9aa3b2; --line: #2d333e; --zebra: #1f242d;
    --accent: #86a6ff; --accent-soft: #232d47; --good: #4cc793; --fair: #e8a84a; --poor: #f2767f;
    --good-soft: #17332a; --fair-soft: #37290f; --poor-soft: #3a1d21;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 14px; margin: 20px 0 6px; }
p { margin: 0 0 12px; }
.soft { color: var(--soft); }
p.note { margin: 8px 0 0; }
.lead { color: var(--soft); margin: 6px 0 20px; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.88em; }
td code, td.reason, .tile span, .warnings li { overflow-wrap: anywhere; }
td:has(code) { min-width: 120px; }
td.fixed { white-space: nowrap; }
section, .tile, .warnings {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
section { padding: 20px 22px; margin-top: 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile { flex: 1 1 140px; padding: 14px 16px; border-top: 3px solid var(--line); }
.tile b { display: block; font-size: 23px; line-height: 1.25; font-weight: 650; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13px; color: var(--soft); line-height: 1.4; }
.tile.good { border-top-color: var(--good); } .tile.good b { color: var(--good); }
.tile.fair { border-top-color: var(--fair); } .tile.fair b { color: var(--fair); }
.tile.poor { border-top-color: var(--poor); } .tile.poor b { color: var(--poor); }
.warnings { background: var(--fair-soft); border-color: var(--fair); padding: 12px 18px; margin: 0 0 16px; }
.warnings ul { margin: 4px 0 0; padding-left: 20px; }
.scroll {
  overflow-x: auto; margin: 0 -4px; padding: 0 4px;
  background:
    linear-gradient(to right, var(--card) 40%, transparent) 0 0 / 32px 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) 100% 0 / 32px 100% no-repeat local,
    linear-gradient(to right, var(--line), transparent) 0 0 / 12px 100% no-repeat scroll,
    linear-gradient(to left, var(--line), transparent) 100% 0 / 12px 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th {
  text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; border-bottom: 1px solid var(--line);
  padding: 6px 14px 6px 0; white-space: nowrap;
}
td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.reason { min-width: 220px; }
td.fill { width: 45%; min-width: 140px; vertical-align: middle; }
.bar { height: 8px; border-radius: 4px; background: var(--accent); min-width: 2px; }
.pill { border-radius: 999px; padding: 1px 9px; font-size: 12.5px; font-weight: 600; white-space: nowrap; }
.pill.good { background: var(--good-soft); color: var(--good); }
.pill.fair { background: var(--fair-soft); color: var(--fair); }
.pill.poor { background: var(--poor-soft); color: var(--poor); }
.pill.plain { background: var(--accent-soft); color: var(--accent); }
details { margin-top: 12px; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
td details { margin: 0; } td summary { font-weight: 400; font-size: inherit; }
td ul { margin: 0; padding-left: 16px; } td details ul { margin-top: 4px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px 20px; margin: 10px 0 0; }
dl div { border-bottom: 1px solid var(--line); padding-bottom: 6px; min-width: 0; }
dt { color: var(--soft); font-size: 12.5px; } dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; min-width: 620px; margin-top: 8px; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .name { font: 11.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; fill: var(--ink); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); stroke-opacity: 0.5; }
svg .good { fill: var(--good); } svg .fair { fill: var(--fair); } svg .poor { fill: var(--poor); }
svg .link { stroke: var(--soft); stroke-opacity: 0.45; stroke-width: 2; }
svg .before { fill: var(--card); stroke: var(--fair); stroke-width: 2; }
svg .after { fill: var(--accent); stroke: var(--accent); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); margin-top: 6px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.legend i.dot { border-radius: 50%; }
.legend .good { background: var(--good); } .legend .fair { background: var(--fair); }
.legend .poor { background: var(--poor); } .legend .after { background: var(--accent); }
.legend .before { border: 2px solid var(--fair); }
footer { color: var(--soft); font-size: 13px; margin-top: 24px; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 20px 12px 32px; } section { padding: 16px 14px; } h1 { font-size: 21px; }
  .tiles { gap: 8px; } .tile { padding: 10px 12px; flex-basis: 40%; } .tile b { font-size: 20px; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --zebra: #fff; --accent: #2f5bd8;
    --accent-soft: #fff; --good: #16805a; --fair: #b26a00; --poor: #c62f3b;
    --good-soft: #fff; --fair-soft: #fff; --poor-soft: #fff;
  }
  body { font-size: 11px; } main { max-width: none; padding: 0; } svg { min-width: 0; }
  section { border: 0; padding: 8px 0; } tr, svg, .tile, dl div { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; } table { font-size: 10px; }
  .bar, svg * , .legend i { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""

"""The style sheet of the report page. Colours come in a light and a dark set; states also differ by hatching."""

from __future__ import annotations

_LIGHT = """
--paper: #fcfcfa; --card: #ffffff; --soft: #f3f3ef; --ink: #1d2126; --muted: #5b636d; --rule: #dcdcd5;
--bad: #a8201a; --bad-soft: #fdecea; --good: #17683a; --good-soft: #e6f4ea; --warn: #7a4f00; --warn-soft: #fff4d6;
--kept: #6a35a8; --dirty: #ffd98a; --dirty-ink: #9a6200; --pending: #bcd6f7; --pending-ink: #23598f;
--durable: #bfe3c8; --mark: #1d2126; --fence: #6b7480; --link: #1f5fa8;
"""
_DARK = """
--paper: #101317; --card: #171b21; --soft: #1f242c; --ink: #e8eaee; --muted: #a2abb8; --rule: #313944;
--bad: #ff9289; --bad-soft: #3a1a1b; --good: #74d99a; --good-soft: #14301f; --warn: #f0c35a; --warn-soft: #352a10;
--kept: #c9a3ff; --dirty: #6b4a0c; --dirty-ink: #e6b450; --pending: #1f4470; --pending-ink: #7fb2ee;
--durable: #1d4d30; --mark: #f3f5f8; --fence: #8b95a3; --link: #8ab8f5;
"""

STYLE = (
    ":root {color-scheme: light dark;"
    + _LIGHT
    + "}\n@media (prefers-color-scheme: dark) {:root {"
    + _DARK
    + """}}
* {box-sizing: border-box}
body {margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif}
main {max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem}
h1 {font-size: 1.1rem; font-weight: 600; margin: 0 0 1rem; color: var(--muted); overflow-wrap: anywhere}
h1 b {color: var(--ink)}
h2 {font-size: 1.35rem; margin: 2.75rem 0 .75rem; letter-spacing: -.01em}
h3 {font-size: 1.15rem; margin: 0 0 .5rem}
h4 {font-size: .8rem; margin: 1.25rem 0 .4rem; color: var(--muted); text-transform: uppercase; letter-spacing: .06em}
p {margin: .5rem 0; max-width: 52rem}
a {color: var(--link)}
code, pre, .mono, td.number {font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; font-size: .86em}
pre {margin: 0; white-space: pre-wrap; overflow-wrap: anywhere}
small, .muted {color: var(--muted)}
:focus-visible {outline: 3px solid var(--link); outline-offset: 2px; border-radius: 4px}
.verdict {display: flex; gap: 1.1rem; align-items: center; border-radius: 14px; padding: 1.2rem 1.4rem;
  border: 1px solid var(--rule)}
.verdict svg {flex: none}
.verdict strong {display: block; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.02em}
.verdict p {margin: .25rem 0 0}
.verdict.failed {background: var(--bad-soft); border-color: var(--bad)} .verdict.failed strong {color: var(--bad)}
.verdict.ok {background: var(--good-soft); border-color: var(--good)} .verdict.ok strong {color: var(--good)}
.verdict.open {background: var(--warn-soft); border-color: var(--warn)} .verdict.open strong {color: var(--warn)}
.failed .icon {stroke: var(--bad)} .ok .icon {stroke: var(--good)} .open .icon {stroke: var(--warn)}
.icon {fill: none; stroke-width: 3.4; stroke-linecap: round; stroke-linejoin: round}
.tiles {display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; margin: 1rem 0;
  padding: 0}
.tiles div {background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: .8rem 1rem}
.tiles dt {font-size: .8rem; color: var(--muted)}
.tiles dd {margin: 0} .tiles dd b {font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere}
.tiles small {display: block; line-height: 1.35; font-size: .82rem}
.card {background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 1.2rem 1.4rem;
  margin: 1rem 0}
.cause {border-left: 6px solid var(--bad)}
.chip {display: inline-block; border-radius: 99px; padding: .05rem .6rem; font-size: .8rem; font-weight: 600;
  border: 1px solid currentColor; white-space: nowrap}
.chip.failed {color: var(--bad); background: var(--bad-soft)} .chip.ok {color: var(--good);
  background: var(--good-soft)}
.chip.open {color: var(--warn); background: var(--warn-soft)} .chip.plain {color: var(--muted)}
.story {font-size: 1.04rem}
.said {border-left: 4px solid var(--bad); background: var(--bad-soft); padding: .5rem .9rem;
  border-radius: 0 8px 8px 0}
.fix {border-left: 4px solid var(--good); background: var(--good-soft); padding: .5rem .9rem;
  border-radius: 0 8px 8px 0;
  max-width: none}
.pair {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem}
.pair > * {min-width: 0}
.store {border: 1px solid var(--rule); border-radius: 10px; overflow: hidden}
.store > div {padding: .5rem .8rem; background: var(--soft)} .store .lost {color: var(--bad)}
  .store .kept {color: var(--kept)}
.facts {margin: 0; padding: .5rem .8rem; display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem;
  font-size: .9rem}
.facts dt {color: var(--muted)} .facts dd {margin: 0; overflow-wrap: anywhere}
.source {overflow-x: auto; border-top: 1px solid var(--rule); padding: .4rem 0; background: var(--card)}
.source ol {list-style: none; margin: 0; padding: 0; min-width: max-content}
.source li {white-space: pre; padding: 0 .8rem; line-height: 1.5}
.source li span {display: inline-block; width: 3em; color: var(--muted); user-select: none}
.source li.here {background: var(--warn-soft); font-weight: 600; box-shadow: inset 4px 0 var(--warn)}
.wide, .panel {overflow-x: auto; margin: .6rem 0; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--card)}
.panel {padding: .4rem; display: grid; margin-left: 0; margin-right: 0}
.panel > svg {grid-area: 1 / 1}
.panel > svg.labels {position: sticky; left: -.4rem; justify-self: start; pointer-events: none}
.paper {fill: var(--card)}
.wide th:first-child, .wide td:first-child {position: sticky; left: 0; background: var(--card)}
nav {margin: 1rem 0; font-size: .92rem} nav ol {margin: .2rem 0; padding-left: 1.4rem; columns: 18rem}
nav p {margin: .2rem 0} :target {scroll-margin-top: 1rem}
article:target, figure:target {outline: 2px solid var(--link)}
@media (max-width: 50rem) {.wide table {min-width: 44rem}}
table {border-collapse: collapse; width: 100%; font-size: .9rem}
th, td {text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--rule); vertical-align: top}
th {font-size: .78rem; color: var(--muted); font-weight: 600; white-space: nowrap}
tr:last-child td {border-bottom: 0} tr.fails td:last-child {color: var(--bad); font-weight: 600}
tr.asked td {background: var(--soft); font-weight: 600} tr.asked td:first-child {box-shadow: inset 4px 0 var(--link)}
td {overflow-wrap: anywhere} .bytes {white-space: nowrap; overflow-wrap: normal}
.bytes i {font-style: normal; color: var(--muted)} .bytes b.gone {color: var(--bad); background: var(--bad-soft)}
.bytes b.want {color: var(--good); background: var(--good-soft)}
.hex i, .hex b {padding: 0 .22em} .hex b {border-radius: 3px}
details {margin: .5rem 0} summary {cursor: pointer; color: var(--link)}
.legend {list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; padding: 0; margin: .6rem 0;
  font-size: .86rem}
.legend li {display: flex; gap: .45rem; align-items: center}
svg {display: block} svg.defs {position: absolute}
svg text {font: 11px ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; fill: var(--muted)}
svg .name {text-anchor: end; font-size: 12px; fill: var(--ink)} svg .axis {text-anchor: middle}
svg .role {text-anchor: middle; font: 600 10.5px system-ui, "Noto Sans", "DejaVu Sans", sans-serif;
  paint-order: stroke; stroke: var(--card); stroke-width: 3px}
.stripe {fill: var(--soft); opacity: .55}
.band.dirty {fill: var(--dirty)} .band.pending {fill: var(--pending)} .band.durable {fill: var(--durable)}
.over.dirty {fill: url(#hatch)} .over.pending {fill: url(#dots)}
.hatching {stroke: var(--dirty-ink); stroke-width: 1; opacity: .55; fill: none} .dotting {fill: var(--pending-ink);
  opacity: .8}
.mark {fill: var(--mark); stroke: var(--card); stroke-width: 1.5} .mark.hollow {fill: var(--card);
  stroke: var(--mark)}
.fence {stroke: var(--fence); stroke-width: 3} .fence.failed {stroke-dasharray: 2 3} .fence.told {stroke: var(--link)}
.point {stroke: var(--fence); stroke-width: 1; stroke-dasharray: 2 4; opacity: .8} .dot {fill: var(--fence)}
.cut {stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 3} .bolt {fill: var(--bad)}
.ring {fill: none; stroke-width: 2.2} .ring.lost {stroke: var(--bad); stroke-dasharray: 4 2}
  .ring.kept {stroke: var(--kept)}
svg .role.lost {fill: var(--bad)} svg .role.kept {fill: var(--kept)} .hover {fill: transparent}
@media print {
  :root {"""
    + _LIGHT
    + """}
  body {font-size: 11px; background: #fff} main {max-width: none; padding: 0}
  .panel svg {max-width: 100%; height: auto} .panel > svg.labels, nav {display: none}
  .wide, .panel, .source {overflow: visible}
  /* Printers get a pattern as a picture for each place where it is: megabytes. Outlines tell the states apart too. */
  .over {display: none} .band.dirty {stroke: var(--dirty-ink); stroke-width: 1.5}
  .band.pending {stroke: var(--pending-ink); stroke-width: 1.5; stroke-dasharray: 3 2}
  .card, figure, tr {break-inside: avoid} .band, .over, .verdict, .stripe {print-color-adjust: exact}
}
"""
)

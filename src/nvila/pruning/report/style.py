"""The page's style sheet: one column of sections, a serif for headings, figures of equal width, light and dark."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#faf9f6;--card:#fff;--ink:#1d2126;--soft:#636b74;--line:#e2dfd8;
--helpful:#11846f;--easy:#8fa3b5;--distracting:#cf4a46;--undecided:#c9a13b;--plain:#4a6fa5;--shade:#4a6fa5}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2126;--ink:#e8e6e1;--soft:#9aa3ad;--line:#31363d;
--helpful:#3fbf9f;--easy:#71869a;--distracting:#f07167;--undecided:#dcb650;--plain:#7fa6dd;--shade:#7fa6dd}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
font-variant-numeric:tabular-nums}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:48px}
h1,h2{font-family:"Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif;font-weight:600;line-height:1.2;
text-wrap:balance}
h1{font-size:2.3rem;margin:0 0 .3em}
h2{font-size:1.55rem;margin:2.4em 0 .3em;padding-top:.9em;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6em 0 .5em}
p{max-width:70ch;margin:.4em 0 1em}
.soft,small,figcaption{color:var(--soft)}
code{font:0.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 16px;overflow-x:auto}
.data{unicode-bidi:isolate;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0}
.tile{background:var(--card);border:1px solid var(--line);border-top:4px solid var(--plain);border-radius:8px;
padding:12px 16px}
.tile b{display:block;font-size:1.7rem;font-weight:650;line-height:1.25}
.tile small{display:block;line-height:1.35;font-size:.84rem}
.key-helpful{border-top-color:var(--helpful)}.key-easy{border-top-color:var(--easy)}
.key-distracting{border-top-color:var(--distracting)}.key-undecided{border-top-color:var(--undecided)}
.fill-helpful{fill:var(--helpful)}.fill-easy{fill:var(--easy)}.fill-distracting{fill:var(--distracting)}
.fill-undecided{fill:var(--undecided)}.fill-plain{fill:var(--plain)}
.ink-helpful{color:var(--helpful)}.ink-distracting{color:var(--distracting)}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin:0 .35em 0 1em}
.swatch:first-child{margin-left:0}
.bg-helpful{background:var(--helpful)}.bg-easy{background:var(--easy)}
.bg-distracting{background:var(--distracting)}.bg-undecided{background:var(--undecided)}
.multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
figure h3{margin:0 0 .4em;font-size:.92rem;overflow-wrap:anywhere}
figcaption{font-size:.8rem;display:flex;justify-content:space-between;gap:8px}
svg{display:block;width:100%}
.histogram{height:84px;border-bottom:1px solid var(--soft)}
.bar{height:14px;border-radius:3px;background:var(--line)}
line{vector-effect:non-scaling-stroke}
.zero{stroke:var(--soft);stroke-width:1}
.cutoff{stroke:var(--ink);stroke-width:1.4;stroke-dasharray:4 3}
.plane{display:grid;grid-template-columns:minmax(260px,420px) 1fr;gap:28px;align-items:center}
@media (max-width:760px){.plane{grid-template-columns:1fr}}
.map{border-left:1px solid var(--soft);border-bottom:1px solid var(--soft)}
.map .cells{fill:var(--ink)}.side-helpful{fill:var(--helpful);opacity:.13}
.side-distracting{fill:var(--distracting);opacity:.13}
.corner{fill:none;stroke:var(--easy);stroke-width:2;vector-effect:non-scaling-stroke}
.axis{font-size:.8rem;color:var(--soft);text-align:right}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{text-align:left;min-width:9em;max-width:20em}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}
td small{display:block;font-size:.76rem;white-space:nowrap}
td .bar{min-width:76px;margin-bottom:3px}
td.shade{position:relative}
td.shade::before{content:"";position:absolute;inset:2px;border-radius:4px;background:var(--shade);
opacity:calc(var(--depth)*.45);z-index:0}
td.shade span{position:relative}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:16px}
article{background:var(--card);border:1px solid var(--line);border-top:4px solid var(--plain);border-radius:8px;
padding:14px 16px;display:flex;flex-direction:column;gap:8px}
article .pictures{display:flex;flex-wrap:wrap;gap:6px}
article img{max-width:100%;max-height:240px;width:auto;height:auto;border-radius:4px;background:var(--line)}
article p{margin:0;white-space:pre-wrap;font-size:.93rem}
article .assistant{font-weight:650}
article .assistant::before{content:"→ ";color:var(--soft)}
article .problem{color:var(--distracting);font-size:.85rem}
article dl{display:grid;grid-template-columns:repeat(3,auto);gap:0 14px;margin:auto 0 0;padding-top:8px;
border-top:1px solid var(--line);font-size:.84rem}
article dt{color:var(--soft);grid-row:1}article dd{margin:0;font-weight:650;grid-row:2}
footer{padding-top:32px;padding-bottom:56px;font-size:.85rem;color:var(--soft)}
@media print{body{background:#fff}figure,article,.tile{break-inside:avoid}}
"""

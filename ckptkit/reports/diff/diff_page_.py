"""The page of `diff --format html`: markup and style; the script is `_diff_script`.

One file, nothing fetched: a content security policy forbids every request.  Colours are variables,
given twice: for light and for dark, which follows the system until a person chooses.
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>@STYLE@</style>
</head>
<body>
<header>
 <div class="bar">
  <h1><span class="mark" aria-hidden="true"></span>ckptkit diff</h1>
  <button id="theme" type="button" aria-label="switch between light and dark">◐</button>
 </div>
 <div class="files" id="files"></div>
 <div class="verdict" id="verdict" role="status"></div>
 <ul class="notes" id="notes"></ul>
</header>
<main>
 <section id="strip-section" aria-label="relative change per layer">
  <div class="head"><h2>Layers</h2><span class="legend" id="legend"></span></div>
  <div class="strip" id="strip"></div>
  <div class="tip" id="tip" aria-live="polite"></div>
 </section>
 <section id="histogram-section" aria-label="distribution of the largest changes">
  <div class="head"><h2>Largest changes</h2>
   <span class="dim">how NEW − OLD is distributed; heights are logarithmic</span></div>
  <div class="grid" id="histograms"></div>
 </section>
 <section aria-label="tensors">
  <div class="head sticky">
   <h2>Tensors</h2>
   <input id="search" type="search" placeholder="filter by name, dtype, shape …"
    aria-label="filter" spellcheck="false" autocomplete="off">
   <div class="chips" id="chips" role="group" aria-label="status"></div>
   <select id="role" aria-label="role"></select>
   <span class="dim" id="shown"></span>
   <button id="clear" type="button" hidden>clear filters</button>
  </div>
  <div class="scroll">
   <table id="table"><thead><tr id="columns"></tr></thead><tbody id="rows"></tbody></table>
  </div>
  <button id="more" type="button" hidden></button>
 </section>
</main>
<footer id="footer"></footer>
<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>
</body>
</html>
"""

STYLE = """
:root{color-scheme:light;--bg:#f7f7f5;--card:#fff;--ink:#1c1f24;--dim:#69707c;--line:#e3e4e1;
--soft:#f0f0ed;--accent:#3355d1;--good:#1a7f4b;--good-bg:#e4f4ea;--bad:#b3261e;--bad-bg:#fcebe9;
--changed:#b25a00;--changed-bg:#fdf0e0;--added:#1a7f4b;--added-bg:#e4f4ea;--removed:#b3261e;
--removed-bg:#fcebe9;--renamed:#5b3fb8;--renamed-bg:#efeafb;--within:#35698f;--within-bg:#e6f0f7;
--equal:#69707c;--equal-bg:#ececea;--c0:#dcdedb;--c1:#fde3c0;--c2:#fbc488;--c3:#f59a54;
--c4:#e56a33;--c5:#c43c25;--c6:#8e1b24;--shadow:0 1px 2px #0000000d,0 4px 16px #0000000a}
:root[data-theme=dark]{color-scheme:dark;--bg:#12141a;--card:#1a1d25;--ink:#e6e8ec;--dim:#969eac;
--line:#2b2f3a;--soft:#222631;--accent:#8aa4ff;--good:#62d394;--good-bg:#15301f;--bad:#ff8a80;
--bad-bg:#3a1a1a;--changed:#ffb865;--changed-bg:#3a2810;--added:#62d394;--added-bg:#15301f;
--removed:#ff8a80;--removed-bg:#3a1a1a;--renamed:#b9a4ff;--renamed-bg:#271f45;--within:#8cc4ea;
--within-bg:#142a3a;--equal:#969eac;--equal-bg:#262a34;--c0:#2c303a;--c1:#4a2f1d;--c2:#71401f;
--c3:#a05626;--c4:#d07430;--c5:#f39a4a;--c6:#ffd18c;--shadow:0 1px 2px #0006,0 4px 16px #0004}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:1440px;margin:0 auto;padding:0 28px}
header{padding-top:24px}
h1{font-size:17px;font-weight:650;letter-spacing:.01em;margin:0;display:flex;align-items:center;
gap:10px}
h2{font-size:15px;font-weight:650;margin:0}
.mark{width:18px;height:18px;border-radius:5px;background:linear-gradient(135deg,var(--c3) 50%,
var(--accent) 50%)}
.bar{display:flex;justify-content:space-between;align-items:center}
button,select,input{font:inherit;color:inherit}
button{cursor:pointer;background:none;border:1px solid var(--line);border-radius:8px;
padding:4px 12px}
button:hover{background:var(--soft)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
#theme{width:36px;height:36px;padding:0;border-radius:50%;font-size:17px}
.files{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:14px;
margin:18px 0 14px}
.file{background:var(--card);border-radius:12px;box-shadow:var(--shadow);padding:14px 18px;
border-left:4px solid var(--removed);min-width:0}
.file.new{border-left-color:var(--added)}
.file b{font:600 14px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
overflow-wrap:anywhere}
.file .side{font-size:11px;font-weight:700;letter-spacing:.08em;color:var(--dim)}
.file p{margin:2px 0 0;font-size:13px;color:var(--dim)}
.verdict{border-radius:12px;padding:14px 18px;font-weight:600;overflow-wrap:anywhere}
.verdict span{display:block;font-weight:400;font-size:13px;margin-top:2px;opacity:.85}
.verdict.same{background:var(--good-bg);color:var(--good)}
.verdict.different{background:var(--bad-bg);color:var(--bad)}
.notes{margin:10px 0 0;padding:0 0 0 18px;color:var(--changed);font-size:13px}
.notes:empty{display:none}
section{background:var(--card);border-radius:14px;box-shadow:var(--shadow);margin:18px 0;
padding:18px}
.head{display:flex;flex-wrap:wrap;align-items:center;gap:10px 16px;margin-bottom:12px}
.dim{color:var(--dim);font-size:13px}
.legend{display:flex;align-items:center;gap:3px;font-size:12px;color:var(--dim);margin-left:auto}
.legend i{width:20px;height:10px;border-radius:2px;display:inline-block}
.strip{display:flex;gap:2px;height:70px;padding-bottom:6px;align-items:flex-end;overflow-x:auto}
.strip.many{gap:1px}
.strip button{flex:1 1 0;min-width:2px;max-width:72px;padding:0;border:0;border-radius:3px;
height:100%;
position:relative;background:var(--soft);overflow:hidden;transition:transform .12s}
.strip button::after{content:"";position:absolute;inset:auto 0 0 0;height:var(--h,100%);
background:var(--fill);border-radius:3px}
.strip button:hover{transform:scaleY(1.06)}
.strip button[aria-pressed=true]{outline:2px solid var(--accent);outline-offset:1px}
.tip{min-height:22px;margin-top:8px;font-size:13px;color:var(--dim);
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:14px}
.histogram{border:1px solid var(--line);border-radius:10px;padding:12px 14px;min-width:0;
text-align:left;display:flex;flex-direction:column;justify-content:flex-start;width:100%}
.histogram b{font:600 13px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.histogram svg{display:block;width:100%;height:84px;margin:8px 0 2px}
.histogram .axis{align-self:stretch;display:flex;justify-content:space-between;font-size:11px;
color:var(--dim);
font-variant-numeric:tabular-nums}
.histogram p{margin:6px 0 0;font-size:12px;color:var(--dim)}
svg .bin{fill:var(--c4)}
svg .zero{stroke:var(--dim);stroke-dasharray:2 2}
.sticky{position:sticky;top:0;background:var(--card);z-index:3;padding:6px 0;margin-bottom:6px}
input[type=search]{flex:1 1 220px;max-width:380px;padding:6px 12px;border:1px solid var(--line);
border-radius:8px;background:var(--bg)}
select{padding:5px 8px;border:1px solid var(--line);border-radius:8px;background:var(--bg)}
.chips{display:flex;flex-wrap:wrap;gap:6px}
.chip{border-radius:99px;padding:2px 12px;font-size:13px;border-color:transparent;
background:var(--bg-of);color:var(--of)}
.chip[aria-pressed=false]{background:none;border-color:var(--line);color:var(--dim);
text-decoration:line-through}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px}
th{text-align:left;padding:0;border-bottom:1px solid var(--line);white-space:nowrap}
th button{border:0;border-radius:6px;padding:6px 8px;font-weight:600;color:var(--dim);width:100%;
text-align:inherit}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}
th[aria-sort] button{color:var(--ink)}
th[aria-sort=ascending] button::after{content:" ↑"}
th[aria-sort=descending] button::after{content:" ↓"}
td{padding:5px 8px;border-bottom:1px solid var(--line);vertical-align:top}
td.name,td.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}
td.name{overflow-wrap:anywhere;min-width:220px}
td.mono{white-space:nowrap}
tbody tr.row{cursor:pointer}
tbody tr.row:hover{background:var(--soft)}
tr.more td{background:var(--soft);padding:12px 16px}
.status{display:inline-block;border-radius:99px;padding:0 9px;font-size:12px;
background:var(--bg-of);color:var(--of)}
.hint{display:block;color:var(--renamed);font-family:system-ui,sans-serif;font-size:12.5px}
.meter{display:inline-block;width:76px;height:8px;border-radius:4px;background:var(--soft);
margin-left:8px;vertical-align:middle;overflow:hidden}
.meter i{display:block;height:100%;border-radius:4px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:8px 20px;margin:0}
dt{font-size:11px;color:var(--dim)}
dd{margin:0;font:12.5px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
overflow-wrap:anywhere}
dl .wide{grid-column:1/-1}
#more{margin:14px auto 0;display:block}
#more[hidden],#clear[hidden]{display:none}
footer{padding:6px 28px 40px;font-size:12px;color:var(--dim)}
@media(max-width:640px){header,main,footer{padding-left:14px;padding-right:14px}}
@media(prefers-reduced-motion:reduce){*{transition:none!important}}
@media print{body{background:#fff}section,.file{box-shadow:none;border:1px solid var(--line)}
#theme,#search,#chips,#role{display:none}}
"""

"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const STATS = { mean: "mean", p95: "95th percentile", p99: "99th percentile" };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const digits = (x) => (x === null || x === undefined ? "–" : x >= 100 ? x.toFixed(0) : x.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ""));
  const money = (x) => (x === null ? "price not known" : "$" + (x >= 1000 ? x.toFixed(0) : x >= 1 ? x.toFixed(2) : x.toPrecision(3)));

  // The SLO slider is logarithmic, over all latencies there are and a little beyond.
  const all = D.plans.flatMap((p) => p.latency_s.flatMap((w) => Object.values(w).flat())).filter((x) => x !== null);
  const low = Math.log(Math.min(...all, 1) * 0.8), high = Math.log(Math.max(...all, 1) * 1.25);
  const limitAt = (step) => Number(Math.exp(low + ((high - low) * step) / 100).toPrecision(3));
  const stepOf = (limit) => Math.min(100, Math.max(0, Math.round((100 * (Math.log(limit) - low)) / (high - low))));

  const state = { type: D.types[0].name, gpus: D.types[0].counts.at(-1), rate: 0, limit: limitAt(60), stat: "mean" };

  const typeOf = (name) => D.types.find((t) => t.name === name);
  const planAt = (type, gpus, rate) => { const n = D.chosen[type][String(gpus)][rate]; return n === null || n === undefined ? null : D.plans[n]; };
  const rates = (factor) => D.workflows.map((w) => `${w.name} ${digits(w.rate_per_s * factor)}/s`).join(", ");
  const perSecond = (factor) => D.workflows.reduce((sum, w) => sum + w.rate_per_s * factor, 0);
  const worst = (plan, rate, stat) => {
    const values = plan.latency_s.map((w) => w[stat][rate]);
    return values.some((x) => x === null) ? null : Math.max(...values);
  };
  const perHour = (type, plan) => { const t = typeOf(type); return t.usd_per_hour === null ? null : t.usd_per_hour * plan.gpus; };
  const meets = (plan, rate) => { const s = worst(plan, rate, state.stat); return s !== null && s <= state.limit; };

  function options(rate) {
    const rows = [];
    for (const t of D.types) for (const gpus of t.counts) {
      const plan = planAt(t.name, gpus, rate);
      if (plan) rows.push({ type: t.name, gpus, plan, s: worst(plan, rate, state.stat), usd: perHour(t.name, plan) });
    }
    return rows;
  }

  function show() {
    const { type, gpus, rate, stat, limit } = state, factor = D.factors[rate];
    const plan = planAt(type, gpus, rate);
    $("type").value = type; $("stat").value = stat;
    const counts = typeOf(type).counts;
    $("gpus").max = counts.length - 1; $("gpus").value = counts.indexOf(gpus);
    $("rate").max = D.factors.length - 1; $("rate").value = rate; $("limit").value = stepOf(limit);
    $("gpus-out").textContent = `${gpus}`; $("rate-out").textContent = rates(factor); $("limit-out").textContent = `${digits(limit)} s`;
    const verdict = $("verdict");
    if (!plan) {
      verdict.className = "bad";
      verdict.textContent = `${gpus} ${type} cannot carry ${rates(factor)}.`;
      $("facts").textContent = "";
    } else {
      const s = worst(plan, rate, stat), good = meets(plan, rate);
      verdict.className = good ? "good" : "bad";
      verdict.textContent = good
        ? `Keeps the SLO: ${STATS[stat]} ${digits(s)} s, within ${digits(limit)} s.`
        : `Misses the SLO: ${STATS[stat]} ${digits(s)} s, ${digits(s / limit)} times ${digits(limit)} s.`;
      const usd = perHour(type, plan), runs = perSecond(factor) * 3.6, t = typeOf(type);
      const facts = [
        ["GPUs touched", `${plan.gpus} of ${gpus}`],
        ["per hour", money(usd)],
        ["per 1,000 runs", money(usd === null ? null : usd / runs)],
        ["GPU-hours per 1,000 runs", digits(plan.gpus / runs)],
        ["power, at most (published TDP)", t.tdp_w === null ? "–" : `${digits((t.tdp_w * plan.gpus) / 1000)} kW`],
        ...D.workflows.map((w, i) => [w.name, `mean ${digits(plan.latency_s[i].mean[rate])} s, p95 ${digits(plan.latency_s[i].p95[rate])} s`]),
      ];
      $("facts").replaceChildren(...facts.map(([name, value]) => { const e = document.createElement("span"), b = document.createElement("b"); b.textContent = value; e.append(`${name}: `, b); return e; }));
    }
    showCheapest(rate); showMap(plan, gpus); showAllocation(plan); drawByRate(plan); drawByCost(rate);
    history.replaceState(null, "", `#type=${encodeURIComponent(type)}&gpus=${gpus}&rate=${rate}&limit=${limit}&stat=${stat}`);
  }

  function showCheapest(rate) {
    const good = options(rate).filter((o) => o.usd !== null && o.s !== null && o.s <= state.limit).sort((a, b) => a.usd - b.usd || a.s - b.s);
    const place = $("cheapest");
    if (!good.length) { place.textContent = "Nothing on this page keeps the SLO at this rate: give it more time, a lower rate or more GPUs."; return; }
    const best = good[0], button = document.createElement("button");
    button.type = "button"; button.textContent = "Show it";
    button.onclick = () => { state.type = best.type; state.gpus = best.gpus; show(); };
    place.replaceChildren(`Cheapest that keeps the SLO at this rate: ${best.plan.gpus} ${best.type}, ${money(best.usd)} per hour (${digits(best.s)} s). `, button);
  }

  function showMap(plan, gpus) {
    const cells = [];
    for (let g = 0; g < gpus; g++) {
      const cell = document.createElement("div"), box = document.createElement("div"), name = document.createElement("div");
      box.className = "gpu"; name.className = "name"; name.textContent = `n${Math.floor(g / 8)} GPU ${g % 8}`;
      for (const [at, llm, share, instance, tp] of plan ? plan.boxes : []) if (at === g) {
        const part = document.createElement("i");
        part.style.height = `${share}%`; part.style.background = D.palette[llm % D.palette.length];
        part.textContent = share >= 12 ? `#${instance}${tp > 1 ? ` TP${tp}` : ""} ${share}%` : "";
        part.title = `${D.llms[llm]} #${instance}: ${share} % of this GPU${tp > 1 ? `, TP ${tp}` : ""}`;
        box.append(part);
      }
      cell.append(box, name); cells.push(cell);
    }
    $("map").replaceChildren(...cells);
    $("legend").replaceChildren(...D.llms.map((llm, i) => { const e = document.createElement("span"), dot = document.createElement("i"); dot.style.background = D.palette[i % D.palette.length]; e.append(dot, llm); return e; }));
  }

  function showAllocation(plan) {
    const head = "<tr><th>LLM</th><th>TP</th><th>share %</th><th>replicas</th><th>GPUs</th></tr>";
    $("allocation").innerHTML = head;
    for (const [llm, tp, share, replicas] of plan ? plan.allocations : []) {
      const row = $("allocation").insertRow();
      [D.llms[llm], tp, share, replicas, digits((tp * share * replicas) / 100)].forEach((value, i) => { const cell = row.insertCell(); cell.textContent = value; if (i) cell.className = "n"; });
    }
  }

  const charts = {};
  function draw(id, data, series, x, y) {
    if (charts[id]) charts[id].destroy();
    const place = $(id), axis = { stroke: css("--ink"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--line"), width: 1 } };
    const numbers = (u, splits) => splits.map((v) => (v === null ? "" : digits(v)));
    const shown = data.slice(1).flat().filter((v) => v !== null && v > 0);
    const range = shown.length ? [Math.min(...shown) / 1.3, Math.max(...shown) * 1.3] : [0.1, 10];
    const ticks = () => {
      for (const steps of [[1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
        const found = [];
        for (let n = Math.floor(Math.log10(range[0])) - 1; n <= Math.ceil(Math.log10(range[1])); n++) for (const m of steps) { const v = Number((m * 10 ** n).toPrecision(3)); if (v >= range[0] && v <= range[1]) found.push(v); }
        if (found.length >= 3) return found;
      }
      return range.map((v) => Number(v.toPrecision(2)));
    };
    charts[id] = new uPlot({
      width: Math.max(260, place.clientWidth), height: 280, cursor: { y: false },
      scales: { x: { time: false, range: (u, a, b) => [0, b * 1.06 || 1] }, y: { distr: 3, range: () => range } },
      axes: [{ ...axis, label: x, values: numbers }, { ...axis, label: y, values: numbers, splits: ticks, size: 56 }],
      series: [{ label: x, value: (u, v) => digits(v) }, ...series],
    }, data, place);
  }
  const line = (label, stroke, more = {}) => ({ label, stroke, width: 2, points: { show: true, size: 7 }, value: (u, v) => (v === null ? "–" : digits(v) + " s"), ...more });

  function drawByRate(plan) {
    const xs = D.factors.map(perSecond), data = [xs], series = [];
    D.workflows.forEach((w, i) => {
      const colour = D.palette[i % D.palette.length], name = D.workflows.length > 1 ? `${w.name} ` : "";
      data.push(plan ? plan.latency_s[i].mean : xs.map(() => null)); series.push(line(`${name}mean`, colour));
      data.push(plan ? plan.latency_s[i].p95 : xs.map(() => null)); series.push(line(`${name}p95`, colour, { dash: [6, 4] }));
    });
    data.push(xs.map(() => state.limit)); series.push(line("SLO", css("--bad"), { points: { show: false }, width: 1.5, dash: [2, 3] }));
    data.push(xs.map((_, n) => (n === state.rate && plan ? worst(plan, n, state.stat) : null))); series.push(line("here", css("--ink"), { width: 0, points: { show: true, size: 12 } }));
    draw("by-rate", data, series, D.workflows.length > 1 ? "runs/s of all workflows" : "runs/s", "latency (s)");
  }

  function drawByCost(rate) {
    const rows = options(rate).filter((o) => o.s !== null && o.usd !== null), xs = [...new Set(rows.map((o) => o.usd))].sort((a, b) => a - b);
    const data = [xs], series = [];
    D.types.forEach((t, i) => {
      const best = new Map();
      for (const o of rows) if (o.type === t.name) best.set(o.usd, Math.min(o.s, best.get(o.usd) ?? Infinity));
      data.push(xs.map((x) => best.get(x) ?? null)); series.push(line(t.name, D.palette[i % D.palette.length], { spanGaps: true }));
    });
    data.push(xs.map(() => state.limit)); series.push(line("SLO", css("--bad"), { points: { show: false }, width: 1.5, dash: [2, 3] }));
    const here = rows.find((o) => o.type === state.type && o.gpus === state.gpus);
    data.push(xs.map((x) => (here && x === here.usd ? here.s : null))); series.push(line("here", css("--ink"), { width: 0, points: { show: true, size: 12 } }));
    draw("by-cost", data, series, "US dollars per hour of the GPUs touched", `${STATS[state.stat]} (s)`);
  }

  $("type").replaceChildren(...D.types.map((t) => new Option(`${t.name}${t.usd_per_hour === null ? "" : ` (${money(t.usd_per_hour)}/h)`}`, t.name)));
  $("type").onchange = (e) => { state.type = e.target.value; const counts = typeOf(state.type).counts; if (!counts.includes(state.gpus)) state.gpus = counts.at(-1); show(); };
  $("gpus").oninput = (e) => { state.gpus = typeOf(state.type).counts[e.target.value]; show(); };
  $("rate").oninput = (e) => { state.rate = Number(e.target.value); show(); };
  $("limit").oninput = (e) => { state.limit = limitAt(Number(e.target.value)); show(); };
  $("stat").onchange = (e) => { state.stat = e.target.value; show(); };
  $("controls").onsubmit = (e) => e.preventDefault();

  Object.assign(state, D.start);
  const asked = new URLSearchParams(location.hash.slice(1));
  if (typeOf(asked.get("type"))) state.type = asked.get("type");
  if (typeOf(state.type).counts.includes(Number(asked.get("gpus")))) state.gpus = Number(asked.get("gpus"));
  if (asked.get("rate") !== null && D.factors[Number(asked.get("rate"))] !== undefined) state.rate = Number(asked.get("rate"));
  if (Number(asked.get("limit")) > 0) state.limit = Number(asked.get("limit"));
  if (STATS[asked.get("stat")]) state.stat = asked.get("stat");
  if (!typeOf(state.type).counts.includes(state.gpus)) state.gpus = typeOf(state.type).counts.at(-1);
  show();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; show(); } });
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", show);
})();

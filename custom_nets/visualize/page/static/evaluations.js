// An evaluation: for a measure and a competitor, each case's win or loss, and a heat map of the gains.
"use strict";
(function () {
  const { rows, columns, group, lower_is_better } = page.data;
  const column = Object.fromEntries(columns.map((name, k) => [name, k]));
  const get = (row, name) => row[column[name]];
  const unique = (name, chosen = rows) => [...new Set(chosen.map((row) => get(row, name)))];
  const number = (v) => (typeof v === "string" ? parseFloat(v) : v === null ? NaN : v);
  const holder = document.getElementById("cases"), heat = document.getElementById("heat"), summary = document.getElementById("summary");
  if (!rows.length) { holder.textContent = "Nothing was compared."; page.isReady(); return; }
  const measures = [...new Set(rows.map((row) => `${get(row, "region")} ${get(row, "metric")}`))];
  const preferred = measures.find((m) => /(brain|active) psnr$/.test(m)) || measures[0];
  const baselines = unique("baseline");
  const state = { measure: preferred, baseline: baselines.includes("bspline") ? "bspline" : baselines[baselines.length - 1] };

  function table(heads, body, kind, caption) {
    const head = page.element("tr", {}, ...heads.map((h) => page.element("th", { scope: "col" }, h)));
    return page.element("table", { class: kind }, page.element("caption", { class: "soft" }, caption), page.element("thead", {}, head), page.element("tbody", {}, ...body));
  }
  const show = (v, signed) => {
    if (!Number.isFinite(v)) return "–";
    const size = Math.abs(v), digits = size >= 100 ? 1 : size >= 0.1 || v === 0 ? 2 : 4;
    return (signed && v > 0 ? "+" : "") + v.toFixed(digits);
  };

  function draw() {
    const chosen = rows.filter((row) => `${get(row, "region")} ${get(row, "metric")}` === state.measure && get(row, "baseline") === state.baseline);
    const metric = state.measure.split(" ").pop(), better = lower_is_better.includes(metric) ? -1 : 1;
    const wins = chosen.filter((row) => get(row, "win")).length;
    const ties = chosen.filter((row) => number(get(row, "difference")) === 0).length;
    const finite = chosen.map((row) => number(get(row, "difference"))).filter(Number.isFinite);
    const mean = finite.reduce((a, b) => a + b, 0) / finite.length;
    summary.textContent = `ours minus ${state.baseline}, ${state.measure}${better < 0 ? " (lower is better)" : ""}: mean ${show(mean, true)} over ${finite.length}; ${wins} wins, ${ties} ties, ${chosen.length - wins - ties} losses; worst ${show(better > 0 ? Math.min(...finite) : Math.max(...finite), true)}`;

    // a matrix: groups called PROFILE/SCALE, or a column "profile"; otherwise groups by cases
    const named = unique(group, chosen).map(String), split = named.length > 1 && named.every((n) => n.split("/").length === 2);
    const down = (row) => (split ? String(get(row, group)).split("/")[0] : "profile" in column ? get(row, "profile") : String(get(row, group)));
    const across = (row) => (split ? String(get(row, group)).split("/")[1] : "profile" in column ? String(get(row, group)) : get(row, "case"));
    const lines = [...new Set(chosen.map(down))], places = [...new Set(chosen.map(across))];
    const cells = (line, place) => chosen.filter((row) => (line === null || down(row) === line) && (place === null || across(row) === place)).map((row) => number(get(row, "difference"))).filter(Number.isFinite);
    const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    // below a thousandth of the values themselves nothing is coloured
    const size = average(chosen.map((row) => Math.abs(number(get(row, "ours")))).filter(Number.isFinite));
    const most = Math.max(1e-12, size / 1000 || 0, ...lines.flatMap((l) => places.map((p) => Math.abs(average(cells(l, p)) || 0))));
    const cell = (values) => {
      const v = average(values), share = Math.min(1, Math.abs(v) / most) || 0, gain = v * better > 0;
      const light = 100 - 40 * share; // dark text stays readable on it
      const element = page.element("td", { style: values.length ? `background:hsl(${gain ? 150 : 15} 70% ${light}%)` : "" }, show(v, true));
      if (values.length > 1) element.title = `mean of ${values.length}, ${show(Math.min(...values), true)} to ${show(Math.max(...values), true)}`;
      return element;
    };
    const body = [...lines, ...(lines.length > 1 ? [null] : [])].map((l) => page.element("tr", {}, page.element("th", { scope: "row" }, l === null ? "mean" : String(l)), ...[...places, ...(places.length > 1 ? [null] : [])].map((p) => cell(cells(l, p)))));
    heat.replaceChildren(places.length > 60 ? "" : table([split || "profile" in column ? "profile" : group, ...places.map(String), ...(places.length > 1 ? ["mean"] : [])], body, "heat", `Ours minus ${state.baseline}: green and ${better > 0 ? "+" : "-"} where ours is better, red where it is worse`));

    const list = chosen.map((row) => {
      const difference = number(get(row, "difference")), word = get(row, "win") ? "win" : difference === 0 ? "tie" : "loss";
      return page.element("tr", {}, page.element("td", {}, String(get(row, "case"))), page.element("td", {}, String(get(row, group))), ...["ours", "other"].map((n) => page.element("td", {}, show(number(get(row, n))))), page.element("td", {}, show(difference, true)), page.element("td", { class: word }, word));
    });
    const made = table(["case", group, "ours", state.baseline, "ours minus it", ""], list, "sortable", `Each case, ${state.measure}`);
    holder.replaceChildren(made);
    page.makeSortable(made);
  }
  const controls = document.getElementById("controls");
  const measure = page.choice(controls, "Measure", measures.map((m) => [m, m]), (m) => { state.measure = m; draw(); });
  measure.value = state.measure;
  const baseline = page.choice(controls, "Against", baselines.map((b) => [b, b]), (b) => { state.baseline = b; draw(); });
  baseline.value = state.baseline;
  draw();
  page.isReady();
})();

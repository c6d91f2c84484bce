// A run with made frames: a player, a swipe against the linear blend, time-density curves.
"use strict";
(async function () {
  const data = page.data, frames = await page.unpack("frames");
  const [count, rows, columns] = frames.shape, size = rows * columns, { step, offset } = frames;
  const box = document.getElementById("player"), canvas = document.getElementById("picture"), timeline = document.getElementById("timeline");
  const { times, made, masks, ground } = data, unit = data.has_times ? "s" : "frames";
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const kind = (t) => (masks.includes(t) ? "mask" : made[t] ? "made" : "measured");
  // the measured neighbours of a made frame, and how far it is from the first to the second
  function ends(t) {
    let a = t, b = t;
    while (made[a]) a--;
    while (made[b]) b++;
    return [a, b, a === b ? 0 : (times[t] - times[a]) / (times[b] - times[a])];
  }
  const state = { frame: 0, swipe: 0.5, show: "both", window: [...data.window], zoom: 1, centre: [(columns - 1) / 2, (rows - 1) / 2], place: null, radius: 2, speed: 1, playing: false, only: "all" };
  state.frame = made.indexOf(true) >= 0 ? made.indexOf(true) : 0;

  const buffer = document.createElement("canvas");
  buffer.width = columns; buffer.height = rows;
  const picture = new ImageData(columns, rows), pixels = new Uint32Array(picture.data.buffer), greys = new Uint32Array(65536);
  let painted = "";
  function paint() {
    const [low, high] = state.window, t = state.frame, [a, b, share] = ends(t);
    const tile = geometry(), split = state.show === "made" ? -1 : state.show === "blend" ? columns : Math.round((tile.line - tile.left) / tile.scale);
    const key = [t, low, high, split].join();
    if (key === painted) return;
    painted = key;
    for (let q = 0; q < 65536; q++) {
      const grey = clamp(Math.round((255 * (offset + step * q - low)) / (high - low || 1)), 0, 255);
      greys[q] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    const own = frames.q.subarray(t * size, (t + 1) * size), first = frames.q.subarray(a * size, (a + 1) * size), second = frames.q.subarray(b * size, (b + 1) * size);
    for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) {
      pixels[i] = greys[c >= split ? own[i] : (first[i] + share * (second[i] - first[i]) + 0.5) | 0];
    }
    buffer.getContext("2d").putImageData(picture, 0, 0);
  }
  // scale: CSS pixels of a pixel; left, top: of the picture's corner; line: of the swipe
  function geometry() {
    const width = box.clientWidth, height = box.clientHeight, fit = Math.min(width / columns, height / rows), scale = fit * state.zoom;
    const c = [page.middle(state.centre[0], columns, width / scale), page.middle(state.centre[1], rows, height / scale)];
    const left = width / 2 - (c[0] + 0.5) * scale, top = height / 2 - (c[1] + 0.5) * scale;
    const from = Math.max(0, left), to = Math.min(width, left + columns * scale);
    return { width, height, scale, left, top, from, to, line: from + state.swipe * (to - from) };
  }
  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawNow(); });
  }
  function drawNow() {
    const g = geometry(), ratio = window.devicePixelRatio || 1, t = state.frame, is = kind(t);
    canvas.width = Math.round(g.width * ratio); canvas.height = Math.round(g.height * ratio);
    paint();
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = g.scale < 1;
    context.drawImage(buffer, g.left, g.top, columns * g.scale, rows * g.scale);
    context.font = "14px system-ui, DejaVu Sans, sans-serif";
    const label = (text, x, background, ink) => {
      const width = context.measureText(text).width + 12;
      context.fillStyle = background; context.fillRect(x < g.width / 2 ? x : x - width, 6, width, 22);
      context.fillStyle = ink; context.fillText(text, (x < g.width / 2 ? x : x - width) + 6, 22);
    };
    const word = { made: "\u25A0 made", measured: "\u25CF measured", mask: "\u25CF mask, measured" }[is];
    label(word, g.to - 6, is === "made" ? "#b34700" : "#000", "#fff");
    if (state.show !== "made" && is === "made") label("linear blend", g.from + 6, "#0b5fa5", "#fff");
    context.lineWidth = 4;
    context.strokeStyle = is === "made" ? "#ff8a3c" : "#ffffff";
    context.strokeRect(g.from + 2, Math.max(0, g.top) + 2, g.to - g.from - 4, Math.min(g.height, g.top + rows * g.scale) - Math.max(0, g.top) - 4);
    context.lineWidth = 2;
    if (state.show === "both") { context.strokeStyle = "#ffd34d"; context.beginPath(); context.moveTo(g.line, 0); context.lineTo(g.line, g.height); context.stroke(); }
    if (state.place) {
      const [c, r] = state.place, half = (state.radius + 0.5) * g.scale;
      context.strokeStyle = "#3fd0ff";
      context.strokeRect(g.left + (c + 0.5) * g.scale - half, g.top + (r + 0.5) * g.scale - half, 2 * half, 2 * half);
    }
    canvas.setAttribute("aria-label", `Frame ${t + 1} of ${count}, ${is}, at ${page.number(times[t], 0.001)} ${unit}`);
    drawTimeline(); say();
  }
  const x0 = 8;
  const along = (time) => x0 + ((time - times[0]) / (times[count - 1] - times[0])) * (timeline.clientWidth - 2 * x0);
  function drawTimeline() {
    const ratio = window.devicePixelRatio || 1, width = timeline.clientWidth, height = timeline.clientHeight;
    timeline.width = Math.round(width * ratio); timeline.height = Math.round(height * ratio);
    const context = timeline.getContext("2d");
    context.scale(ratio, ratio);
    for (let t = 0; t < count; t++) {
      const is = kind(t), x = along(times[t]);
      context.fillStyle = is === "made" ? "#b34700" : is === "mask" ? "#767676" : "#1a1a1a";
      if (is === "made") context.fillRect(x - 2, height / 2 - 4, 4, 8); else context.fillRect(x - 1, 3, 2, height - 6);
    }
    context.strokeStyle = "#0b5fa5"; context.lineWidth = 3;
    context.strokeRect(along(times[state.frame]) - 5, 2, 10, height - 4);
    timeline.setAttribute("aria-valuemax", String(count));
    timeline.setAttribute("aria-valuenow", String(state.frame + 1));
    timeline.setAttribute("aria-valuetext", canvas.getAttribute("aria-label"));
  }
  const readout = document.getElementById("readout");
  const turn = (name, plus, minus, angles) => (angles ? `   ·   ${name} ${page.number(Math.abs(angles[state.frame]), 0.1)}° ${angles[state.frame] < 0 ? minus : plus}` : "");
  function say(under = "") {
    const t = state.frame;
    readout.textContent = `frame ${t + 1} of ${count}   ·   ${page.number(times[t], 0.001)} ${unit}   ·   ${kind(t)}` + turn("arm", "LAO", "RAO", data.primary) + turn("", "cranial", "caudal", data.secondary) + under;
  }

  // ---- time-density curve: ground minus the mean over a square ----
  function curve(place = state.place, radius = state.radius) {
    const [c0, r0] = place, found = [];
    for (let t = 0; t < count; t++) {
      let sum = 0, n = 0;
      for (let r = Math.max(0, r0 - radius); r <= Math.min(rows - 1, r0 + radius); r++) for (let c = Math.max(0, c0 - radius); c <= Math.min(columns - 1, c0 + radius); c++, n++) sum += frames.q[t * size + r * columns + c];
      found.push(ground - (offset + (step * sum) / n));
    }
    return found;
  }
  const svg = (tag, properties, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  function drawCurve() {
    if (!state.place) return;
    const values = curve(), shown = values.map((_, t) => t).filter((t) => kind(t) !== "mask");
    const low = Math.min(0, ...shown.map((t) => values[t])), high = Math.max(0.05, ...shown.map((t) => values[t]));
    const [first, last] = [times[shown[0]], times[shown[shown.length - 1]]];
    const x = (time) => 60 + ((time - first) / (last - first || 1)) * 820, y = (v) => 230 - ((v - low) / (high - low)) * 210;
    const text = (left, top, words, anchor = "middle") => svg("text", { x: left, y: top, "text-anchor": anchor, "font-size": 13, fill: "#1a1a1a" }, words);
    const drawing = svg("svg", { viewBox: "0 0 900 275", class: "curve", role: "img", "aria-label": `Opacity over time at column ${state.place[0] + 1}, row ${state.place[1] + 1}; the numbers are in the table below` });
    for (let k = 0; k <= 4; k++) {
      const v = low + (k / 4) * (high - low), time = first + (k / 4) * (last - first);
      drawing.append(svg("line", { x1: 60, x2: 880, y1: y(v), y2: y(v), stroke: "#d0d0d0" }), text(54, y(v) + 4, page.number(v, 0.01), "end"), text(x(time), 250, page.number(time, 0.01)));
    }
    drawing.append(text(470, 270, `time (${unit})`), svg("line", { x1: x(times[state.frame]), x2: x(times[state.frame]), y1: 20, y2: 230, stroke: "#0b5fa5", "stroke-dasharray": "4 3" }));
    const points = (chosen) => chosen.map((t) => `${x(times[t])},${y(values[t])}`).join(" ");
    drawing.append(svg("polyline", { points: points(shown.filter((t) => !made[t])), fill: "none", stroke: "#767676", "stroke-dasharray": "5 4" }), svg("polyline", { points: points(shown), fill: "none", stroke: "#b34700" }));
    for (const t of shown) {
      const [cx, cy] = [x(times[t]), y(values[t])], title = svg("title", {}, `${page.number(times[t], 0.001)} ${unit}, ${kind(t)}: ${page.number(values[t], 0.001)}`);
      drawing.append(made[t] ? svg("rect", { x: cx - 4, y: cy - 4, width: 8, height: 8, fill: "#b34700" }, title) : svg("circle", { cx, cy, r: 5, fill: "#1a1a1a" }, title));
    }
    const body = page.element("tbody");
    for (const t of shown) body.append(page.element("tr", {}, ...[t + 1, page.number(times[t], 0.001), kind(t), page.number(values[t], 0.0001)].map((v) => page.element("td", {}, String(v)))));
    const table = page.element("table", {}, page.element("thead", {}, page.element("tr", {}, ...["frame", `time (${unit})`, "", "opacity"].map((v) => page.element("th", { scope: "col" }, v)))), body);
    const factor = 2 ** data.halved, side = (2 * state.radius + 1) * factor;
    const where = `Column ${state.place[0] * factor + 1}, row ${state.place[1] * factor + 1}, mean of ${side} x ${side} pixels. Opacity: ${page.number(ground, 0.01)} minus the value that the network sees; 0 is the ground. Dashed: straight lines between measured points, which is what the linear blend gives.`;
    const open = document.querySelector("#curve details")?.open || false;
    document.getElementById("curve").replaceChildren(drawing, page.element("p", { class: "soft" }, where), page.element("details", { open }, page.element("summary", {}, "The numbers"), table));
  }

  // ---- controls ----
  const controls = document.getElementById("controls");
  const play = page.button(controls, "Play", () => playing(!state.playing));
  page.choice(controls, "Speed", [["1", "true time"], ["0.5", "half"], ["0.25", "a quarter"], ["0.1", "a tenth"], ["2", "double"]], (v) => { state.speed = Number(v); restart(); });
  page.choice(controls, "Play", [["all", "all frames"], ["measured", "measured frames only"]], (v) => { state.only = v; });
  page.choice(controls, "Show", [["both", "swipe: blend | made"], ["made", "made"], ["blend", "linear blend"]], (v) => { state.show = v; draw(); });
  const swipe = page.slider(controls, "Swipe", 0, 1, 0.5, (v) => `${Math.round(100 * v)} %`, (v) => { state.swipe = v; draw(); });
  const zoom = page.slider(controls, "Zoom", 1, 8, 1, (v) => `${page.number(v, 0.1)} x`, (v) => zoomTo(v));
  const [lowest, highest] = data.range;
  const low = page.slider(controls, "Darkest", lowest, highest, state.window[0], (v) => page.number(v, 0.01), (v) => windowTo(v, Math.max(v + step, state.window[1])));
  const high = page.slider(controls, "Brightest", lowest, highest, state.window[1], (v) => page.number(v, 0.01), (v) => windowTo(Math.min(state.window[0], v - step), v));
  page.choice(controls, "Curve of", [["2", "5 x 5 pixels"], ["0", "1 pixel"], ["4", "9 x 9 pixels"]], (v) => { state.radius = Number(v); draw(); drawCurve(); });
  const swipeTo = (v) => { state.swipe = clamp(v, 0, 1); swipe.set(state.swipe); draw(); };
  const windowTo = (a, b) => { state.window = [a, b]; low.set(a); high.set(b); draw(); };
  function zoomTo(v) { state.zoom = clamp(v, 1, 8); if (state.place) state.centre = [...state.place]; zoom.set(state.zoom); draw(); }
  function go(t) { state.frame = clamp(t, 0, count - 1); draw(); drawCurve(); }

  // ---- playing: what is shown follows the clock, so that uneven times play true ----
  let began = 0, from = 0;
  const seconds = (t) => (data.has_times ? times[t] - times[0] : 0.25 * t);
  const whole = () => seconds(count - 1) + Math.max(0.1, seconds(count - 1) / Math.max(1, count - 1));
  function restart() { began = performance.now(); from = seconds(state.frame); }
  function playing(on) {
    state.playing = on;
    play.textContent = on ? "Stop" : "Play";
    play.setAttribute("aria-pressed", String(on));
    if (on) { if (state.frame === count - 1) state.frame = 0; restart(); requestAnimationFrame(tick); }
  }
  function tick() {
    if (!state.playing) return;
    const now = (from + ((performance.now() - began) / 1000) * state.speed) % whole();
    let t = 0;
    for (let k = 0; k < count; k++) if (seconds(k) <= now + 1e-6 && !(state.only === "measured" && made[k])) t = k;
    if (t !== state.frame) go(t);
    requestAnimationFrame(tick);
  }

  // ---- mouse and keys ----
  let drag = "";
  const where = (event, element) => { const r = element.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
  function at(event) {
    const g = geometry(), [x, y] = where(event, box), c = Math.floor((x - g.left) / g.scale), r = Math.floor((y - g.top) / g.scale);
    return c >= 0 && c < columns && r >= 0 && r < rows ? [c, r] : null;
  }
  function choose(place) { state.place = place; draw(); drawCurve(); }
  box.addEventListener("pointerdown", (event) => {
    box.focus({ preventScroll: true });
    box.setPointerCapture(event.pointerId);
    const near = state.show === "both" && Math.abs(where(event, box)[0] - geometry().line) < 7;
    drag = near ? "swipe" : "place";
    if (!near && at(event)) choose(at(event));
    event.preventDefault();
  });
  box.addEventListener("pointermove", (event) => {
    const place = at(event), g = geometry();
    if (drag === "swipe") swipeTo((where(event, box)[0] - g.from) / (g.to - g.from));
    else if (drag === "place" && place) choose(place);
    else if (place && !state.playing) say(`   ·   opacity here ${page.number(ground - (offset + step * frames.q[state.frame * size + place[1] * columns + place[0]]), 0.001)}`);
  });
  for (const name of ["pointerup", "pointercancel"]) box.addEventListener(name, () => { drag = ""; });
  box.addEventListener("wheel", (event) => { event.preventDefault(); if (event.ctrlKey) zoomTo(state.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)); else { playing(false); go(state.frame + (event.deltaY < 0 ? -1 : 1)); } }, { passive: false });
  const toTime = (event) => {
    const x = where(event, timeline)[0];
    playing(false);
    go(times.reduce((best, time, t) => (Math.abs(along(time) - x) < Math.abs(along(times[best]) - x) ? t : best), 0));
  };
  timeline.addEventListener("pointerdown", (event) => { timeline.setPointerCapture(event.pointerId); toTime(event); });
  timeline.addEventListener("pointermove", (event) => { if (event.buttons) toTime(event); });
  function key(event) {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    const next = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 5, PageDown: -5 }[event.key];
    if (next) { playing(false); go(state.frame + next); }
    else if (event.key === "Home") { playing(false); go(0); }
    else if (event.key === "End") { playing(false); go(count - 1); }
    else if (event.key === "m" || event.key === "M") { playing(false); let t = state.frame + 1; while (t < count && made[t]) t++; go(t >= count ? 0 : t); }
    else if (event.key === " ") playing(!state.playing);
    else if (event.key === "[") swipeTo(state.swipe - 0.05);
    else if (event.key === "]") swipeTo(state.swipe + 0.05);
    else if (event.key === "+" || event.key === "=") zoomTo(state.zoom * 1.25);
    else if (event.key === "-") zoomTo(state.zoom / 1.25);
    else if (event.key === "Enter") choose([columns >> 1, rows >> 1]);
    else return;
    event.preventDefault();
  }
  box.addEventListener("keydown", key);
  timeline.addEventListener("keydown", key);
  window.addEventListener("resize", draw);

  drawNow();
  page.state = state;
  page.curve = curve;
  page.choose = choose;
  page.isReady();
})().catch((error) => {
  document.getElementById("player").replaceChildren(page.element("p", { role: "alert", style: "color:#fff;padding:1rem" }, `The run cannot be shown: ${error.message || error}`));
  console.error(error);
});

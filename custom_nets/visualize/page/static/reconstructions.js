// A reconstructed scan: maxima along the line of sight, turning, at one time, at their peak, or coloured by arrival.
"use strict";
(async function () {
  const data = page.data, [times, peak, arrival] = await Promise.all(["times", "peak", "arrival"].map(page.unpack));
  const [half, count, rows, columns] = times.shape, size = rows * columns, around = 2 * half;
  const box = document.getElementById("player"), canvas = document.getElementById("picture"), readout = document.getElementById("readout");
  const state = { side: 0, time: Math.floor(count / 2), show: "arrival", gain: 1, playing: false };
  const buffer = page.element("canvas");
  buffer.width = columns; buffer.height = rows;
  const picture = new ImageData(columns, rows), pixels = new Uint32Array(picture.data.buffer);

  // from dark blue by green to dark red, as in the preview
  const stops = [[48, 18, 59], [70, 107, 227], [40, 187, 236], [49, 242, 153], [162, 252, 60], [237, 208, 58], [251, 128, 34], [210, 49, 5], [122, 4, 3]];
  function colour(share) {
    const x = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1), k = Math.floor(x);
    return stops[k].map((c, i) => c + (x - k) * (stops[k + 1][i] - c));
  }
  function paint() {
    const plane = state.side % half, mirrored = state.side >= half; // from behind: the mirror image
    const values = state.show === "time" ? times : peak, start = (state.show === "time" ? plane * count + state.time : plane) * size;
    const [first, last] = data.scan_s;
    for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) {
      const from = r * columns + (mirrored ? columns - 1 - c : c);
      const bright = Math.min(1, (state.gain * values.at(start + from)) / data.top);
      const tint = state.show === "arrival" ? colour((arrival.at(plane * size + from) - first) / (last - first || 1)) : [255, 255, 255];
      const strength = state.show === "arrival" ? Math.sqrt(bright) : bright;
      pixels[i] = 0xff000000 | ((tint[2] * strength) << 16) | ((tint[1] * strength) << 8) | (tint[0] * strength);
    }
    buffer.getContext("2d").putImageData(picture, 0, 0);
  }
  // what lies to the right and to the left, in letters
  function letters() {
    const angle = (state.side / around) * 2 * Math.PI, [x, y] = [Math.cos(angle), Math.sin(angle)], much = 0.38;
    const name = (a, b) => (a > much ? "L" : a < -much ? "R" : "") + (b > much ? "P" : b < -much ? "A" : "");
    return [name(-x, -y), name(x, y)];
  }
  function draw() {
    const width = box.clientWidth, height = box.clientHeight, ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    paint();
    const context = canvas.getContext("2d"), scale = Math.min(width / columns, height / rows);
    const left = (width - columns * scale) / 2, top = (height - rows * scale) / 2;
    context.scale(ratio, ratio);
    context.drawImage(buffer, left, top, columns * scale, rows * scale);
    context.font = "14px system-ui, DejaVu Sans, sans-serif"; context.fillStyle = "#ffd34d"; context.textBaseline = "middle";
    const [l, r] = letters();
    context.fillText(l, left + 6, height / 2); context.fillText("S", width / 2, top + 12); context.fillText("I", width / 2, top + rows * scale - 12);
    context.textAlign = "right"; context.fillText(r, left + columns * scale - 6, height / 2);
    if (state.show === "arrival") {
      const [first, last] = data.scan_s, tall = Math.min(200, height - 60), x = left + columns * scale - 22;
      for (let k = 0; k < tall; k++) { context.fillStyle = `rgb(${colour(1 - k / tall).map(Math.round).join()})`; context.fillRect(x, 24 + k, 12, 1); }
      context.fillStyle = "#fff"; context.fillText(page.number(last, 0.01) + " s", x - 4, 28); context.fillText(page.number(first, 0.01) + " s", x - 4, 20 + tall);
    }
    const degrees = Math.round((360 * state.side) / around);
    const what = { time: `at ${page.number(data.times_s[state.time], 0.01)} s`, peak: "maximum over all times", arrival: "colour: when half of its maximum is reached" }[state.show];
    readout.textContent = `turned by ${degrees}° from the front to the left   ·   ${what}   ·   white is ${page.number(data.top / state.gain, 0.0001)} ${data.unit}`;
    canvas.setAttribute("aria-label", `Vessels, turned by ${degrees} degrees, ${what}`);
  }

  const controls = document.getElementById("controls"), wrapped = (side) => ((side % around) + around) % around;
  const turn = page.slider(controls, "turn", 0, 360, 0, (v) => Math.round(v) + "°", (v) => set({ side: Math.round((v / 360) * around) }));
  const when = page.slider(controls, "time", 0, count - 1, state.time, (v) => page.number(data.times_s[Math.round(v)], 0.01) + " s", (v) => set({ time: Math.round(v), show: "time" }));
  const show = page.choice(controls, "show", [["arrival", "arrival in colour"], ["peak", "maximum over time"], ["time", "one time"]], (value) => set({ show: value }));
  page.slider(controls, "brightness", 0.5, 4, 1, (v) => page.number(v, 0.1), (v) => set({ gain: v }));
  const play = page.button(controls, "turn by itself", () => set({ playing: !state.playing }));
  function set(change) {
    Object.assign(state, change);
    state.side = wrapped(state.side);
    turn.set((360 * state.side) / around); when.set(state.time); show.value = state.show;
    play.setAttribute("aria-pressed", String(state.playing));
    draw();
  }
  setInterval(() => { if (state.playing) set({ side: state.side + 1 }); }, 120);

  let held = null;
  box.addEventListener("pointerdown", (event) => { held = [event.clientX, state.side]; box.setPointerCapture(event.pointerId); });
  box.addEventListener("pointermove", (event) => { if (held) set({ side: held[1] - Math.round((event.clientX - held[0]) / 12), playing: false }); });
  for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => { held = null; });
  box.addEventListener("keydown", (event) => {
    const step = (by) => ({ time: Math.min(count - 1, Math.max(0, state.time + by)), show: "time" });
    const change = {
      ArrowLeft: () => ({ side: state.side - 1 }), ArrowRight: () => ({ side: state.side + 1 }), ArrowUp: () => step(1), ArrowDown: () => step(-1),
      " ": () => ({ playing: !state.playing }), a: () => ({ show: "arrival" }), p: () => ({ show: "peak" }), t: () => ({ show: "time" }),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!change || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(change());
  });
  new ResizeObserver(draw).observe(box);
  set({});
  page.state = state;
  page.isReady();
})();

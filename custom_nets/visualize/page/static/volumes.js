// A volume before and after. Two ways to draw the same state: planes on a 2D canvas, at once and anywhere; NiiVue where
// the browser has a graphics card.
"use strict";
(async function () {
  const data = page.data, box = document.getElementById("planes");
  const after = await page.unpack("after"), input = await page.unpack("before");
  const [nz, ny, nx] = after.shape, size = [nx, ny, nz], stride = [1, nx, nx * ny], { step, offset } = after;
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const apply = (m, p) => [0, 1, 2].map((r) => m[r][0] * p[0] + m[r][1] * p[1] + m[r][2] * p[2] + m[r][3]);

  // The input between its voxels, trilinear, edges repeated, at a voxel of the result; in the result's steps.
  const [sz, sy, sx] = input.shape, source = input.q, ratio = input.step / step, shift = (input.offset - offset) / step;
  const [[m00, m01, m02, m03], [m10, m11, m12, m13], [m20, m21, m22, m23]] = data.to_input;
  function interpolated(i, j, k) {
    const x = m00 * i + m01 * j + m02 * k + m03, y = m10 * i + m11 * j + m12 * k + m13, z = m20 * i + m21 * j + m22 * k + m23;
    const a = x < 0 ? 0 : x > sx - 1 ? sx - 1 : x, b = y < 0 ? 0 : y > sy - 1 ? sy - 1 : y, c = z < 0 ? 0 : z > sz - 1 ? sz - 1 : z;
    const i0 = a | 0, j0 = b | 0, k0 = c | 0, u = a - i0, v = b - j0, w = c - k0, o = i0 + sx * (j0 + sy * k0);
    const di = i0 < sx - 1 ? 1 : 0, dj = j0 < sy - 1 ? sx : 0, dk = k0 < sz - 1 ? sx * sy : 0;
    const p00 = source[o] + u * (source[o + di] - source[o]), p10 = source[o + dj] + u * (source[o + dj + di] - source[o + dj]);
    const p01 = source[o + dk] + u * (source[o + dk + di] - source[o + dk]), p11 = source[o + dk + dj] + u * (source[o + dk + dj + di] - source[o + dk + dj]);
    const p0 = p00 + v * (p10 - p00);
    return ratio * (p0 + w * (p01 + v * (p11 - p01) - p0)) + shift;
  }
  // All of it, for what needs a whole volume; planes are interpolated as they are looked at.
  let whole = null;
  function before() {
    if (whole) return whole;
    whole = new Uint16Array(nx * ny * nz);
    for (let n = 0, k = 0; k < nz; k++) for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++, n++) whole[n] = clamp(Math.round(interpolated(i, j, k)), 0, 65535);
    return whole;
  }

  // What an overlay says at a voxel of the page, in the input's unit; made when it is first asked for.
  const overlays = {};
  async function overlay(name) {
    if (name === "none") return null;
    if (!overlays[name]) {
      const { signed } = data.overlays.find((o) => o.name === name);
      const values = new Float32Array(after.q.length);
      if (name === "added") {
        for (let n = 0, k = 0; k < nz; k++) for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++, n++) values[n] = step * (after.q[n] - interpolated(i, j, k));
      } else {
        const found = await page.unpack(name);
        if (found.q.length === values.length) for (let i = 0; i < values.length; i++) values[i] = found.at(i);
        else { // on the input's grid: its voxels as they are
          const [sz, sy, sx] = found.shape;
          for (let n = 0, k = 0; k < nz; k++) for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++, n++) {
            const p = apply(data.to_input, [i, j, k]).map((v, a) => clamp(Math.round(v), 0, [sx, sy, sz][a] - 1));
            values[n] = found.at(p[0] + sx * (p[1] + sy * p[2]));
          }
        }
      }
      const sample = [];
      for (let i = 0; i < values.length; i += Math.max(1, Math.floor(values.length / 200000))) sample.push(Math.abs(values[i]));
      sample.sort((a, b) => a - b);
      const most = sample[Math.floor(0.995 * (sample.length - 1))] || sample[sample.length - 1] || 1;
      overlays[name] = { name, values, signed, most };
    }
    return overlays[name];
  }

  const middle = size.map((n) => Math.floor((n - 1) / 2));
  const start = () => ({ at: [...middle], centre: [...middle], zoom: 1, swipe: 0.5, window: [...data.window], alone: "", plane: 0, overlay: null, strength: 0.7 });
  const state = start();
  // across, horizontal, vertical axis; letters left, right, bottom, top
  const PLANES = [["axial", 2, 0, 1, "LRPA"], ["coronal", 1, 0, 2, "LRIS"], ["sagittal", 0, 1, 2, "PAIS"]];

  // Red where something was added, blue where taken away; orange for a size without sign.
  const MORE = [255, 60, 30], LESS = [40, 130, 255], SIZE = [255, 140, 0];
  function colour(value, { signed, most }) {
    const share = clamp(Math.abs(value) / most, 0, 1);
    return [...(!signed ? SIZE : value > 0 ? MORE : LESS), share * share];
  }

  class FlatView {
    constructor() {
      this.tiles = PLANES.map(([name, across, h, v, letters]) => {
        const canvas = page.element("canvas", { role: "img" });
        const tile = page.element("div", { class: "tile" }, canvas);
        box.append(tile);
        return { name, across, h, v, canvas, tile, buffer: document.createElement("canvas") };
      });
    }
    // Where voxels lie in a tile, CSS pixels: scale of a mm, and the tile's middle.
    geometry(t) {
      const width = t.tile.clientWidth, height = t.tile.clientHeight, mm = data.spacing;
      const fit = Math.min(width / (size[t.h] * mm[t.h]), height / (size[t.v] * mm[t.v]));
      const s = fit * state.zoom;
      const sx = s * mm[t.h], sy = s * mm[t.v];
      return { width, height, sx, sy, cx: page.middle(state.centre[t.h], size[t.h], width / sx), cy: page.middle(state.centre[t.v], size[t.v], height / sy) };
    }
    draw() {
      for (const t of this.tiles) {
        const g = this.geometry(t), ratio = window.devicePixelRatio || 1;
        t.canvas.width = Math.max(1, Math.round(g.width * ratio));
        t.canvas.height = Math.max(1, Math.round(g.height * ratio));
        this.paint(t);
        const context = t.canvas.getContext("2d");
        context.scale(ratio, ratio);
        context.imageSmoothingEnabled = false;
        const left = g.width / 2 - (g.cx + 0.5) * g.sx, top = g.height / 2 - (size[t.v] - 1 - g.cy + 0.5) * g.sy;
        context.drawImage(t.buffer, left, top, size[t.h] * g.sx, size[t.v] * g.sy);
        const x = g.width / 2 + (state.at[t.h] - g.cx) * g.sx, y = g.height / 2 - (state.at[t.v] - g.cy) * g.sy;
        context.strokeStyle = "#3fd0ffcc";
        context.beginPath();
        for (const [a, b, c, d] of [[0, y, x - 8, y], [x + 8, y, g.width, y], [x, 0, x, y - 8], [x, y + 8, x, g.height]]) {
          context.moveTo(a, b); context.lineTo(c, d);
        }
        context.stroke();
        t.canvas.setAttribute("aria-label", `${t.name} plane, before on the left and after on the right of the swipe`);
      }
    }
    paint(t) {
      const w = size[t.h], h = size[t.v];
      t.buffer.width = w; t.buffer.height = h;
      const picture = new ImageData(w, h), pixels = picture.data;
      const [low, high] = state.window, gain = (255 * step) / (high - low || 1), base = (255 * (offset - low)) / (high - low || 1);
      const g = this.geometry(t);
      // the swipe is a place in the tile, whatever the zoom
      const split = g.cx + (state.swipe - 0.5) * (g.width / g.sx);
      const index = [...state.at];
      for (let r = 0; r < h; r++) {
        const row = state.at[t.across] * stride[t.across] + (h - 1 - r) * stride[t.v];
        for (let c = 0; c < w; c++) {
          const i = row + c * stride[t.h];
          const isAfter = state.alone ? state.alone === "after" : c > split;
          index[t.h] = c; index[t.v] = h - 1 - r;
          const grey = (isAfter ? after.q[i] : interpolated(index[0], index[1], index[2])) * gain + base, p = 4 * (r * w + c);
          pixels[p] = pixels[p + 1] = pixels[p + 2] = grey; // clamps by itself
          pixels[p + 3] = 255;
          if (state.overlay && isAfter) {
            const [red, green, blue, share] = colour(state.overlay.values[i], state.overlay), a = share * state.strength;
            pixels[p] += a * (red - pixels[p]); pixels[p + 1] += a * (green - pixels[p + 1]); pixels[p + 2] += a * (blue - pixels[p + 2]);
          }
        }
      }
      t.buffer.getContext("2d").putImageData(picture, 0, 0);
    }
    // Tiles as rectangles of the box, CSS pixels, with the axes they show.
    rectangles() {
      return this.tiles.map((t) => ({ left: t.tile.offsetLeft, top: t.tile.offsetTop, width: t.tile.clientWidth, height: t.tile.clientHeight, ...t }));
    }
    pick(x, y) {
      const t = this.rectangles().find((r) => x >= r.left && x < r.left + r.width && y >= r.top && y < r.top + r.height);
      if (!t) return null;
      const g = this.geometry(t), at = [...state.at];
      at[t.h] = g.cx + (x - t.left - g.width / 2) / g.sx;
      at[t.v] = g.cy - (y - t.top - g.height / 2) / g.sy;
      return { at: at.map((v, a) => clamp(Math.round(v), 0, size[a] - 1)), plane: PLANES.findIndex((p) => p[1] === t.across) };
    }
    remove() { for (const t of this.tiles) t.tile.remove(); }
  }

  class NiivueView {
    // Gives null where there is no WebGL2.
    static async make() {
      if (!window.niivue) {
        const script = document.createElement("script");
        script.textContent = document.getElementById("niivue-source").textContent;
        document.head.append(script);
      }
      const view = new NiivueView();
      view.layers = [];
      for (const array of [before(), after.q]) {
        const canvas = page.element("canvas", { role: "img", "aria-label": "planes and surface drawn by NiiVue" });
        const layer = page.element("div", { class: "gl" }, canvas);
        box.append(layer);
        const nv = new niivue.Niivue({
          interactive: false, dragAndDropEnabled: false, logLevel: "error", backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.8, 1, 0.8],
          crosshairWidth: 1, isColorbar: false, isOrientationTextVisible: false, multiplanarShowRender: 1, isNearestInterpolation: true,
          multiplanarLayout: 0, show3Dcrosshair: true, loadingText: "", isAlphaClipDark: false,
        });
        // one colour each
        for (const [name, [r, g, b]] of [["page-more", MORE], ["page-less", LESS], ["page-size", SIZE]]) {
          nv.addColormap(name, { R: [r, r], G: [g, g], B: [b, b], A: [255, 255], I: [0, 255] });
        }
        view.layers.push({ nv, layer });
        await nv.attachToCanvas(canvas, false);
        nv.addVolume(await view.image(array, 512, "volume", step, offset, "gray", ...state.window));
        nv.setSliceType(nv.sliceTypeMultiplanar);
      }
      view.window = [...state.window];
      view.angles = [110, 10]; // azimuth and elevation of the surface, degrees
      return view;
    }
    async image(array, type, name, slope, intercept, colormap, low, high, negative = "") {
      const [dx, dy, dz] = data.spacing, [ox, oy, oz] = size.map((n, a) => (-(n - 1) / 2) * data.spacing[a]);
      const file = niivue.NVImage.createNiftiArray([nx, ny, nz], [dx, dy, dz], [dx, 0, 0, ox, 0, dy, 0, oy, 0, 0, dz, oz, 0, 0, 0, 1], type, array);
      const view = new DataView(file.buffer, file.byteOffset);
      view.setFloat32(112, slope, true); view.setFloat32(116, intercept, true);
      view.setFloat32(124, high, true); view.setFloat32(128, low, true); // cal_max, cal_min: nothing has to be found out
      return niivue.NVImage.new(file.buffer, name, colormap, 1, null, low, high, true, 0.02, false, false, negative, 0, undefined, NaN, NaN, false, null, 0, null);
    }
    async draw() {
      const [, top] = this.layers;
      for (const { nv } of this.layers) {
        if (!nv.volumes.length) return;
        if (this.window[0] !== state.window[0] || this.window[1] !== state.window[1]) {
          [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = state.window;
          nv.updateGLVolume();
        }
      }
      this.window = [...state.window];
      if (this.overlay !== state.overlay) {
        const shown = (this.overlay = state.overlay), { nv } = top;
        if (nv.volumes.length > 1) nv.removeVolumeByIndex(1);
        if (shown) {
          const least = 0.98 * shown.most; // below it NiiVue covers by the square of the value, as the planes do
          const image = await this.image(shown.values, 16, "overlay", 1, 0, shown.signed ? "page-more" : "page-size", least, shown.most, shown.signed ? "page-less" : "");
          if (shown.signed) [image.cal_minNeg, image.cal_maxNeg] = [-shown.most, -least];
          [image.colormapType, image.opacity] = [1, state.strength];
          nv.addVolume(image);
        }
      }
      const mm = state.centre.map((v, a) => (v - (size[a] - 1) / 2) * data.spacing[a]);
      for (const { nv } of this.layers) {
        for (let a = 0; a < 3; a++) nv.scene.crosshairPos[a] = (state.at[a] + 0.5) / size[a];
        nv.scene.pan2Dxyzmm = [...mm.map((v) => (state.zoom > 1 ? -v * (state.zoom - 1) : 0)), state.zoom];
        nv.scene.renderAzimuth = this.angles[0];
        nv.scene.renderElevation = this.angles[1];
        nv.drawScene();
      }
      // of the upper picture, the result, what lies right of the swipe in each plane, and the whole surface
      const split = state.alone === "after" ? 0 : state.alone === "before" ? 1 : state.swipe;
      const parts = this.rectangles().map((r) => {
        const left = r.left + (r.plane === 3 ? 0 : split * r.width);
        return `M${left} ${r.top}H${r.left + r.width}V${r.top + r.height}H${left}Z`;
      });
      top.layer.style.clipPath = `path("${parts.join("")}")`;
    }
    rectangles() {
      const { nv } = this.layers[1], ratio = nv.canvas.width / Math.max(1, nv.canvas.clientWidth);
      return nv.screenSlices.map(({ leftTopWidthHeight: [left, top, width, height], axCorSag }) => {
        const found = PLANES[axCorSag] || [];
        return { left: left / ratio, top: top / ratio, width: width / ratio, height: height / ratio, plane: axCorSag > 2 ? 3 : axCorSag, across: found[1], h: found[2], v: found[3] };
      });
    }
    pick(x, y) {
      const t = this.rectangles().find((r) => r.plane !== 3 && x >= r.left && x < r.left + r.width && y >= r.top && y < r.top + r.height);
      if (!t) return null;
      const { nv } = this.layers[1], ratio = nv.canvas.width / Math.max(1, nv.canvas.clientWidth);
      const frac = nv.canvasPos2frac([x * ratio, y * ratio]);
      if (!frac || frac[0] < 0) return null;
      return { at: [0, 1, 2].map((a) => clamp(Math.floor(frac[a] * size[a]), 0, size[a] - 1)), plane: t.plane };
    }
    remove() { for (const { nv, layer } of this.layers) { nv.gl?.getExtension("WEBGL_lose_context")?.loseContext(); layer.remove(); } }
  }

  let view = new FlatView(), marks = [], asked = false;
  const readout = document.getElementById("readout");
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(async () => { asked = false; await view.draw(); decorate(); say(); });
  }
  function decorate() {
    for (const mark of marks) mark.remove();
    marks = [];
    const put = (kind, text, left, top, style = "") => {
      const mark = page.element("span", { class: kind, "aria-hidden": "true", style: `left:${left}px;top:${top}px;${style}` }, text);
      box.append(mark); marks.push(mark);
    };
    for (const r of view.rectangles()) {
      if (r.plane === 3) continue;
      const plane = PLANES.find((p) => p[1] === r.across), [l, ri, b, t] = plane[4];
      put("letter", l, r.left + 4, r.top + r.height / 2); put("letter", ri, r.left + r.width - 14, r.top + r.height / 2);
      put("letter", t, r.left + r.width / 2, r.top + 24); put("letter", b, r.left + r.width / 2, r.top + r.height - 22);
      if (!state.alone) put("line", "", r.left + state.swipe * r.width, r.top, `height:${r.height}px;bottom:auto`);
      if (state.alone !== "after") put("side", "before", r.left + 4, r.top + 4);
      if (state.alone !== "before") put("side", "after", r.left + r.width - 46, r.top + 4);
    }
  }
  function values() {
    const i = state.at[0] + nx * (state.at[1] + ny * state.at[2]);
    const found = { before: offset + step * interpolated(...state.at), after: offset + step * after.q[i] };
    if (state.overlay) found[state.overlay.name] = state.overlay.values[i];
    return found;
  }
  function say() {
    const mm = apply(data.affine, state.at), file = apply(data.to_file, state.at).map(Math.round), v = values();
    const parts = [`${mm.map((x, a) => `${page.number(Math.abs(x), 0.1)} ${x < 0 ? "LPI"[a] : "RAS"[a]}`).join("  ")} mm`, `voxel ${file.join(", ")}`,
      `before ${page.number(v.before, step)}`, `after ${page.number(v.after, step)}`, `added ${page.number(v.after - v.before, step)}`];
    if (state.overlay && state.overlay.name !== "added") parts.push(`${state.overlay.name} ${page.number(v[state.overlay.name], step)}`);
    if (state.overlay) {
      const most = page.number(state.overlay.most, step);
      parts.push(state.overlay.signed ? `full red +${most}, full blue -${most}` : `full orange ${most}`);
    }
    readout.textContent = parts.join("   ·   ");
  }

  const controls = document.getElementById("controls");
  const swipe = page.slider(controls, "Swipe", 0, 1, 0.5, (v) => `${Math.round(100 * v)} %`, (v) => { state.swipe = v; draw(); });
  const zoom = page.slider(controls, "Zoom", 1, 8, 1, (v) => `${page.number(v, 0.1)} x`, (v) => zoomTo(v));
  const [lowest, highest] = data.range;
  const narrow = () => Math.max(step, (highest - lowest) / 1000);
  const low = page.slider(controls, "Darkest", lowest, highest, state.window[0], (v) => page.number(v, step), (v) => windowTo(v, Math.max(v + narrow(), state.window[1])));
  const high = page.slider(controls, "Brightest", lowest, highest, state.window[1], (v) => page.number(v, step), (v) => windowTo(Math.min(state.window[0], v - narrow()), v));
  const over = page.choice(controls, "Overlay", [["none", "none"], ...data.overlays.map((o) => [o.name, o.label])], async (name) => { state.overlay = await overlay(name); draw(); });
  const alone = page.choice(controls, "Show", [["", "both, swipe"], ["before", "before"], ["after", "after"]], (name) => { state.alone = name; draw(); });
  const drawn = page.choice(controls, "Drawn by", [["flat", "planes"], ["niivue", "NiiVue, with 3D"]], (name) => drawBy(name));
  function zoomTo(v) {
    state.zoom = clamp(v, 1, 8);
    state.centre = [...state.at];
    zoom.set(state.zoom);
    draw();
  }
  function windowTo(a, b) { state.window = [a, b]; low.set(a); high.set(b); draw(); }
  function swipeTo(v) { state.swipe = clamp(v, 0, 1); swipe.set(state.swipe); draw(); }
  function moveTo(at, plane = state.plane) {
    state.at = at.map((v, a) => clamp(Math.round(v), 0, size[a] - 1));
    state.plane = plane;
    draw();
  }
  async function drawBy(name) {
    if ((name === "niivue") === view instanceof NiivueView) return;
    let other = null;
    try {
      other = name === "niivue" ? await NiivueView.make() : null;
    } catch (error) {
      drawn.value = "flat";
      for (const left of box.querySelectorAll(".gl")) left.remove();
      readout.textContent = `NiiVue needs WebGL 2, which this browser does not give (${error.message || error}): planes are drawn without it.`;
      return;
    }
    view.remove();
    view = other || new FlatView();
    drawn.value = name;
    draw();
  }

  let drag = null;
  const where = (event) => { const r = box.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
  box.addEventListener("contextmenu", (event) => event.preventDefault());
  box.addEventListener("pointerdown", (event) => {
    const [x, y] = where(event);
    const tile = view.rectangles().find((r) => x >= r.left && x < r.left + r.width && y >= r.top && y < r.top + r.height);
    if (!tile) return;
    box.focus({ preventScroll: true });
    box.setPointerCapture(event.pointerId);
    if (tile.plane === 3) drag = { kind: "turn", x, y, angles: view.angles };
    else if (event.button === 2) drag = { kind: "window", x, y, window: [...state.window] };
    else if (!state.alone && Math.abs(x - tile.left - state.swipe * tile.width) < 7) drag = { kind: "swipe", tile };
    else { drag = { kind: "place" }; const p = view.pick(x, y); if (p) moveTo(p.at, p.plane); }
    event.preventDefault();
  });
  box.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = where(event);
    if (drag.kind === "swipe") swipeTo((x - drag.tile.left) / drag.tile.width);
    else if (drag.kind === "turn") { view.angles = [drag.angles[0] + (x - drag.x) / 2, clamp(drag.angles[1] + (y - drag.y) / 2, -90, 90)]; draw(); }
    else if (drag.kind === "window") {
      const [a, b] = drag.window, width = (b - a) * Math.exp((x - drag.x) / 200), level = (a + b) / 2 + ((y - drag.y) / 400) * (b - a);
      windowTo(level - width / 2, level + width / 2);
    } else { const p = view.pick(x, y); if (p) moveTo(p.at, p.plane); }
  });
  for (const name of ["pointerup", "pointercancel"]) box.addEventListener(name, () => { drag = null; });
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const forward = event.deltaY < 0 ? 1 : -1, p = view.pick(...where(event));
    if (event.ctrlKey) return zoomTo(state.zoom * (forward > 0 ? 1.15 : 1 / 1.15));
    const plane = p ? p.plane : state.plane, at = [...state.at];
    at[PLANES[plane][1]] += forward;
    moveTo(at, plane);
  }, { passive: false });
  box.addEventListener("keydown", async (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    const [, across, h, v] = PLANES[state.plane], at = [...state.at];
    const moves = { ArrowLeft: [h, -1], ArrowRight: [h, 1], ArrowUp: [v, 1], ArrowDown: [v, -1], PageUp: [across, 1], PageDown: [across, -1] };
    const key = event.key;
    if (moves[key]) { at[moves[key][0]] += moves[key][1]; moveTo(at); }
    else if (key === "+" || key === "=") zoomTo(state.zoom * 1.25);
    else if (key === "-") zoomTo(state.zoom / 1.25);
    else if (key === "[") swipeTo(state.swipe - 0.05);
    else if (key === "]") swipeTo(state.swipe + 0.05);
    else if (key === "b" || key === "B") { state.alone = { "": "before", before: "after", after: "" }[state.alone]; alone.value = state.alone; draw(); }
    else if (key === "o" || key === "O") {
      const names = ["none", ...data.overlays.map((o) => o.name)];
      over.value = names[(names.indexOf(over.value) + 1) % names.length];
      state.overlay = await overlay(over.value); draw();
    } else if (key === "r" || key === "R") {
      Object.assign(state, start()); over.value = "none"; alone.value = "";
      swipe.set(0.5); zoom.set(1); low.set(state.window[0]); high.set(state.window[1]); draw();
    } else return;
    event.preventDefault();
  });
  window.addEventListener("resize", draw);

  await view.draw(); decorate(); say();
  page.state = state;
  page.values = values;
  page.after = after;
  page.drawBy = drawBy;
  page.isReady();
  // NiiVue by itself where there is a graphics card; drawn by the processor it would be slower than the planes
  const probe = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  const card = probe?.getExtension("WEBGL_debug_renderer_info");
  const renderer = card ? probe.getParameter(card.UNMASKED_RENDERER_WEBGL) : "unknown";
  probe?.getExtension("WEBGL_lose_context")?.loseContext();
  if (probe && !/swiftshader|llvmpipe|software|basic render/i.test(renderer)) await drawBy("niivue");
})().catch((error) => {
  document.getElementById("planes").replaceChildren(page.element("p", { role: "alert", style: "color:#fff;padding:1rem" }, `The picture cannot be shown: ${error.message || error}`));
  console.error(error);
});

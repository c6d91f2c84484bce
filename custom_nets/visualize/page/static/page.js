// What all pages share: their data, arrays, numbers, sortable tables. No request is ever made.
"use strict";
const page = { data: JSON.parse(document.getElementById("page-data").textContent), ready: false, readyAfter: 0 };

// The page can be used from now on; the milliseconds since it began to open are kept for its tests.
page.isReady = function () { page.ready = true; page.readyAfter = performance.now(); };

// value = offset + step * q; see arrays.py. Gives {q: Uint16Array, shape, step, offset, at(index)}.
page.unpack = async function (name) {
  const element = document.getElementById("array-" + name);
  const text = element.textContent;
  const header = page.data.arrays[name];
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const letters = atob(text);
    bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  }
  element.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const folded = new Uint8Array(await new Response(stream).arrayBuffer());
  const [rows, columns] = header.shape.slice(-2);
  const size = rows * columns;
  const q = new Uint16Array(header.shape.reduce((a, b) => a * b, 1));
  for (let start = 0; start < q.length; start += size) {
    const low = 2 * start, high = low + size;
    for (let r = 0, i = 0; r < rows; r++) {
      let left = 0;
      for (let c = 0; c < columns; c++, i++) {
        const z = folded[low + i] | (folded[high + i] << 8), up = r ? q[start + i - columns] : 0;
        left = q[start + i] = ((c && r ? (left + up) >> 1 : left + up) + ((z >> 1) ^ -(z & 1))) & 65535;
      }
    }
  }
  return { ...header, q, at: (i) => header.offset + header.step * q[i] };
};

// With a point as decimal sign whatever the browser's language; as many digits as the step is worth.
page.number = function (value, step) {
  if (!Number.isFinite(value)) return "–";
  const digits = step ? Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9))) : 3;
  return (value.toFixed(digits) === "-" + (0).toFixed(digits) ? 0 : value).toFixed(digits);
};

// The middle of a view of n pixels through a window that holds so many of them: near the wanted one, never past an end.
page.middle = function (wanted, n, held) {
  return held >= n ? (n - 1) / 2 : Math.min(n - 0.5 - held / 2, Math.max(held / 2 - 0.5, wanted));
};

page.element = function (tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

// A labelled slider, set(value) and get() in the unit of low and high.
page.slider = function (parent, label, low, high, value, show, changed) {
  const input = page.element("input", { type: "range", min: "0", max: "1000", step: "1" });
  const output = page.element("output");
  const to = (v) => Math.round((1000 * (v - low)) / (high - low || 1));
  const get = () => low + ((high - low) * Number(input.value)) / 1000;
  const say = (v) => { output.textContent = show(v); input.setAttribute("aria-valuetext", show(v)); };
  const set = (v) => { input.value = String(to(v)); say(v); };
  input.addEventListener("input", () => { say(get()); changed(get()); });
  set(value);
  parent.append(page.element("label", {}, label, input, output));
  return { get, set, input };
};

page.choice = function (parent, label, options, changed) {
  const select = page.element("select");
  for (const [value, text] of options) select.append(page.element("option", { value }, text));
  select.addEventListener("change", () => changed(select.value));
  parent.append(page.element("label", {}, label, select));
  return select;
};

page.button = function (parent, label, pressed) {
  const button = page.element("button", { type: "button" }, label);
  button.addEventListener("click", () => pressed(button));
  parent.append(button);
  return button;
};

// The heading names the file as it is called now: a page that was renamed holds no other name.
if (page.data.kind !== "evaluation" && location.protocol === "file:") {
  const name = decodeURIComponent(location.pathname.split("/").pop()).replace(/\.html?$/, "");
  document.querySelector("h1").append(page.element("span", { class: "soft" }, " · " + name));
}

page.makeSortable = function (table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = page.element("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim();
      const sorted = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)], [m, n] = [parseFloat(x), parseFloat(y)];
        if (Number.isNaN(m) !== Number.isNaN(n)) return Number.isNaN(m) ? 1 : -1; // words and empty cells last
        const order = Number.isNaN(m) ? x.localeCompare(y, "en", { numeric: true }) : m - n;
        return down ? -order : order;
      });
      table.tBodies[0].append(...sorted);
    });
  });
};
document.querySelectorAll("table.sortable").forEach(page.makeSortable);

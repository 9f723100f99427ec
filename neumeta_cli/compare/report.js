"use strict";
// What the report's page does: the slider, the budget, copying, sorting, light and dark.
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const whole = (value) => Math.round(value).toLocaleString("en-US");
  const COSTS = {
    parameters: { show: whole, of: (text) => amount(text, { "": 1, k: 1e3, m: 1e6, g: 1e9 }) },
    macs: { show: whole, of: (text) => amount(text, { "": 1, k: 1e3, m: 1e6, g: 1e9 }) },
    bytes: { show: whole, of: (text) => amount(text, { "": 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9 }) },
    ms: { show: (value) => value.toPrecision(3), of: (text) => amount(text, { "": 1, ms: 1, s: 1e3 }) },
  };

  function amount(text, units) {
    const parts = /^\s*([0-9][0-9,]*\.?[0-9]*)\s*([a-z]*)\s*$/i.exec(text);
    const unit = parts && units[parts[2].toLowerCase()];
    return unit ? Number(parts[1].replaceAll(",", "")) * unit : NaN;
  }

  // Between measured points, sorted by width: a straight line, or the parabola of the nearest three.
  function between(points, width) {
    const at = points.findIndex((point) => point[0] >= width - 1e-9);
    if (at < 0 || (at === 0 && points[0][0] > width + 1e-9)) return NaN;
    if (at === 0) return points[0][1];
    const [[x0, y0], [x1, y1]] = [points[at - 1], points[at]];
    return y0 + ((y1 - y0) * (width - x0)) / (x1 - x0);
  }

  function curve(points, width) {
    if (points.length < 3) return between(points, width);
    const near = [...points].sort((a, b) => Math.abs(a[0] - width) - Math.abs(b[0] - width)).slice(0, 3);
    return near.reduce((sum, [x, y]) => {
      const others = near.filter((point) => point[0] !== x);
      return sum + others.reduce((share, point) => (share * (width - point[0])) / (x - point[0]), y);
    }, 0);
  }

  function cost(name, width) {
    return name === "ms" ? between(data.costs.ms, width) : curve(data.costs[name], width);
  }

  const shown = (value) => value.toFixed(2) + (data.metric.share ? "%" : "");
  const measured = (width) => data.widths.some((one) => Math.abs(one - width) < 1e-6);

  // The chart.
  const chart = find("chart");
  const box = { left: 72, right: 628, top: 12, bottom: 214 };
  const values = data.methods.flatMap((m) => m.points.map((p) => p[1])).concat(data.checkpoint);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const [narrow, wide] = [data.widths[0], data.widths[data.widths.length - 1]];
  const x = (width) => box.left + ((width - narrow) / (wide - narrow || 1)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - least) / (most - least || 1)) * (box.bottom - box.top);

  function draw(kind, attributes, text) {
    const element = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return chart.appendChild(element);
  }

  function drawChart() {
    for (const value of [least, (least + most) / 2, most]) {
      draw("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.15 });
      draw("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1));
    }
    for (const width of data.widths) {
      draw("text", { x: x(width), y: box.bottom + 24, "text-anchor": "middle" }, String(Number(width.toFixed(3))));
    }
    draw("text", { x: (box.left + box.right) / 2, y: box.bottom + 48, "text-anchor": "middle" }, "width");
    draw("line", { x1: box.left, x2: box.right, y1: y(data.checkpoint), y2: y(data.checkpoint), stroke: "currentColor", "stroke-dasharray": "2 4" });
    for (const method of data.methods) {
      const path = method.points.map(([w, v]) => `${x(w)},${y(v)}`).join(" ");
      const line = { points: path, fill: "none", stroke: method.colour, "stroke-width": method.ours ? 3 : 1.5 };
      draw("polyline", method.dashed ? { ...line, "stroke-dasharray": "6 4" } : line);
      for (const [w, v] of method.points) {
        const dot = draw("circle", { cx: x(w), cy: y(v), r: method.ours ? 4 : 3, fill: method.colour });
        dot.appendChild(document.createElementNS(SVG, "title")).textContent = `${method.label}, width ${w}: ${shown(v)}`;
      }
    }
  }

  // What is shown of the width that the slider is at.
  const slider = find("width");
  drawChart();
  const marker = draw("line", { id: "marker", y1: box.top, y2: box.bottom, stroke: "currentColor", "stroke-width": 1.5 });

  function show() {
    const width = Number(slider.value);
    find("chosen").textContent = `${width} (${Number((100 * width).toFixed(1))}% of the channels in scope)`;
    for (const name of Object.keys(data.costs)) {
      const value = cost(name, width);
      find(`cost-${name}`).textContent = (measured(width) ? "" : "about ") + COSTS[name].show(value);
      find(`left-${name}`).textContent = data.full[name] ? `${Math.round((100 * value) / data.full[name])}% of the checkpoint's` : "";
    }
    const ours = data.methods.find((method) => method.ours);
    const own = ours ? between(ours.points, width) : NaN;
    if (ours) {
      find("metric").textContent = (measured(width) ? "" : "about ") + shown(own);
      find("metric-lost").textContent = `checkpoint ${shown(data.checkpoint)}`;
    }
    const rows = data.methods.map((method) => {
      const value = between(method.points, width);
      const row = document.createElement("tr");
      row.dataset.method = method.name;
      row.className = method.ours ? "ours" : "";
      const difference = method.ours || Number.isNaN(value - own) ? "" : (value - own > 0 ? "+" : "") + (value - own).toFixed(2);
      for (const text of [method.label, Number.isNaN(value) ? "–" : shown(value), difference]) {
        row.appendChild(document.createElement("td")).textContent = text;
      }
      const chip = document.createElement("span");
      chip.className = "chip";
      chip.style.background = method.colour;
      row.firstChild.prepend(chip);
      return row;
    });
    find("rivals").replaceChildren(...rows);
    if (data.command) find("command").textContent = `${data.command} --width ${width} -o small.pt`;
    marker.setAttribute("x1", x(width));
    marker.setAttribute("x2", x(width));
  }

  function choose(width) {
    slider.value = Math.min(wide, Math.max(narrow, width)).toFixed(2);
    show();
  }

  slider.addEventListener("input", () => {
    find("budget-said").textContent = "";
    show();
  });
  chart.addEventListener("click", (event) => {
    const place = chart.getBoundingClientRect();
    const at = ((event.clientX - place.left) / place.width) * 640;
    choose(narrow + ((at - box.left) / (box.right - box.left)) * (wide - narrow));
  });

  // The budget: the widest width that costs no more.
  function hold() {
    const name = find("unit").value;
    const text = find("budget").value;
    const most = COSTS[name].of(text);
    const said = find("budget-said");
    if (text.trim() === "" || Number.isNaN(most)) {
      said.textContent = text.trim() === "" ? "" : "give an amount, such as 5, 20M or 400KB";
      return;
    }
    let place = Math.floor(wide * 100 + 1e-6);
    while (place / 100 >= narrow && !(cost(name, place / 100) <= most)) place -= 1;
    const width = place / 100;
    said.textContent = width < narrow - 1e-9 ? `narrower than ${narrow}, the narrowest that was measured` : `width ${width} holds it`;
    choose(width);
  }
  find("budget").addEventListener("input", hold);
  find("unit").addEventListener("change", hold);

  // Copying; a page from a file may have no clipboard of its own.
  async function copy() {
    const code = find("command");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    find("copy").textContent = "copied";
    setTimeout(() => { find("copy").textContent = "copy"; }, 2000);
  }
  if (data.command) find("copy").addEventListener("click", copy);

  // Tables are sorted by a click on a column's head, the other way round by the next one.
  function sort(table, column, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[column].textContent.trim();
    const number = (text) => parseFloat(text.replaceAll(",", "").replace("–", ""));
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [first, second] = [number(key(a)), number(key(b))];
      if (Number.isNaN(first) || Number.isNaN(second)) {
        if (Number.isNaN(first) !== Number.isNaN(second)) return Number.isNaN(first) ? 1 : -1;
        return (up ? 1 : -1) * key(a).localeCompare(key(b));
      }
      return (up ? 1 : -1) * (first - second);
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.textContent = head.textContent;
      button.type = "button";
      button.addEventListener("click", () => sort(table, column, head));
      head.replaceChildren(button);
    });
  }

  find("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  show();
})();

"use strict";
// Texts reach the page by textContent alone: nothing that a model or a row wrote is ever read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SHAPES = 8, COLOURS = 8, PAGE = 20, MANY_CLASSES = 24;
  const number = new Intl.NumberFormat("en");

  function make(name, values = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(values)) {
      if (key === "text") element.textContent = value;
      else if (key === "class") element.className = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  // -- marks: a shape and a colour for each class; each colour comes with another shape the second time round ---------

  const colourOf = (place) => (place < 0 ? 6 : place % COLOURS);
  const shapeOf = (place) => (place < 0 ? 0 : (place + Math.floor(place / COLOURS)) % SHAPES);

  function polygon(count, radius, turn, inner = radius) {
    let path = "";
    const corners = inner === radius ? count : 2 * count;
    for (let k = 0; k < corners; k += 1) {
      const angle = turn + (2 * Math.PI * k) / corners, r = k % 2 ? inner : radius;
      path += `${k ? "L" : "M"}${(r * Math.cos(angle)).toFixed(2)} ${(r * Math.sin(angle)).toFixed(2)}`;
    }
    return `${path}Z`;
  }

  function shapePath(shape, r) {
    const up = -Math.PI / 2, w = r * 0.36;
    switch (shape) {
      case 0: return `M${r * 0.9} 0A${r * 0.9} ${r * 0.9} 0 1 1 ${-r * 0.9} 0A${r * 0.9} ${r * 0.9} 0 1 1 ${r * 0.9} 0Z`;
      case 1: return polygon(4, r * 1.15, Math.PI / 4);
      case 2: return polygon(3, r * 1.2, up);
      case 3: return polygon(4, r * 1.15, 0);
      case 4: return `M${-w} ${-r}H${w}V${-w}H${r}V${w}H${w}V${r}H${-w}V${w}H${-r}V${-w}H${-w}Z`;
      case 5: return polygon(3, r * 1.2, -up);
      case 6: return polygon(5, r * 1.25, up, r * 0.55);
      default: return polygon(6, r * 1.05, 0);
    }
  }

  function picture(path, fill, stroke, width) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg"), drawn = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "-8 -8 16 16");
    svg.setAttribute("aria-hidden", "true");
    drawn.setAttribute("d", path);
    drawn.setAttribute("fill", fill);
    drawn.setAttribute("stroke", stroke);
    drawn.setAttribute("stroke-width", width);
    svg.append(drawn);
    return svg;
  }

  const swatch = (place) =>
    make("span", { class: "swatch" }, picture(shapePath(shapeOf(place), 6), `var(--c${colourOf(place)})`, "none", 0));

  // -- the theme ------------------------------------------------------------------------------------------------------

  const themes = ["system", "light", "dark"];
  const themeButton = byId("theme");
  let theme = 0;
  let redraw = () => {};

  function setTheme(place) {
    theme = place;
    if (place) document.documentElement.dataset.theme = themes[place];
    else delete document.documentElement.dataset.theme;
    themeButton.textContent = `Theme: ${themes[place]}`;
    redraw();
  }
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => setTheme((theme + 1) % themes.length));
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => redraw());
  }

  // -- copying --------------------------------------------------------------------------------------------------------

  const copyButton = byId("copy");
  copyButton.hidden = false;
  copyButton.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(byId("command").textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(byId("command"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    byId("copied").textContent = done ? "Copied." : "The command is selected: copy it with the keyboard.";
  });

  // -- the list of chosen texts -----------------------------------------------------------------------------------------

  const rows = data.rows;
  const joined = (parts) => parts.map(([name, text]) => (name ? `${name}: ${text}` : text)).join("\n");
  const haystacks = rows.map((row) => `${joined(data.texts[row.text])}\n${row.tags.join("\n")}\n${row.id}`.toLowerCase());
  const list = byId("rows"), more = byId("more"), count = byId("count");
  let found = [], shown = 0;

  const WORD = /[\p{L}\p{N}]+/gu;
  const wordsOf = (text) => Array.from(text.matchAll(WORD), (m) => [m[0].toLowerCase(), m.index, m.index + m[0].length]);

  function triples(parts, into = new Set()) {
    for (const [, text] of parts) {
      const words = wordsOf(text);
      for (let k = 0; k + 2 < words.length; k += 1) into.add(`${words[k][0]} ${words[k + 1][0]} ${words[k + 2][0]}`);
    }
    return into;
  }

  // The text with every run of three words or more that stands in the other one marked
  function marked(text, shared) {
    const words = wordsOf(text), hit = new Array(words.length).fill(false), nodes = [];
    for (let k = 0; k + 2 < words.length; k += 1) {
      if (shared.has(`${words[k][0]} ${words[k + 1][0]} ${words[k + 2][0]}`)) hit[k] = hit[k + 1] = hit[k + 2] = true;
    }
    let at = 0;
    for (let k = 0; k < words.length; k += 1) {
      if (!hit[k]) continue;
      let last = k;
      while (last + 1 < words.length && hit[last + 1]) last += 1;
      nodes.push(text.slice(at, words[k][1]), make("mark", { text: text.slice(words[k][1], words[last][2]) }));
      at = words[last][2];
      k = last;
    }
    nodes.push(text.slice(at));
    return nodes;
  }

  function textNodes(parts, shared = null) {
    return parts.flatMap(([name, text]) => [
      ...(name ? [make("span", { class: "part", text: name })] : []),
      make("p", { class: "text" }, ...(shared ? marked(text, shared) : [text])),
    ]);
  }

  const facts = (pairs) =>
    make("dl", { class: "facts" }, ...pairs.map(([name, value]) =>
      make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));

  function folded(title, fill, open = false) {
    const details = make("details", {}, make("summary", { text: title }));
    if (open) {
      details.append(fill());
      details.open = true;
    }
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(fill());
    });
    return details;
  }

  function sideBySide(row) {
    const parts = data.texts[row.text];
    const near = row.near.map(([place, cosine]) => [place < 0 ? null : data.texts[place], cosine]);
    const theirs = new Set(), ours = triples(parts);
    for (const [other] of near) if (other) triples(other, theirs);
    return make("div", { class: "side" },
      make("div", {}, make("h4", { text: "Chosen text" }), ...textNodes(parts, theirs)),
      make("div", {}, make("h4", { text: "Nearest real rows" }), make("ol", {}, ...near.map(([other, cosine], place) =>
        make("li", {}, make("span", { class: "part", text: `${place + 1}. cosine ${cosine.toFixed(3)}` }),
          ...(other ? textNodes(other, ours) : [make("p", { class: "small", text: "its text is not at hand" })]))))));
  }

  function origin(row) {
    const box = make("div", { class: "side-less" });
    box.append(facts([["round", row.round ?? "–"], ["request", row.from[0]], ["template", row.from[1]],
      ["generator", row.from[2]], ["id", row.id]]));
    const items = row.parents.map(([id, kind, place]) =>
      make("li", {}, make("p", { class: "small", text: `${kind} ${id}` }),
        ...(place < 0 ? [] : textNodes(data.texts[place]))));
    if (items.length) box.append(make("p", { class: "part", text: "The prompt showed:" }), make("ul", { class: "examples" }, ...items));
    return box;
  }

  function card(place) {
    const row = rows[place];
    const item = make("li", { id: `row-${place}`, tabindex: "-1" });
    item.append(make("p", { class: "head" },
      make("span", { class: "tag" }, swatch(row.class), make("span", { text: row.tags.join(", ") })),
      make("span", { class: "soft", text: `#${place + 1}` }),
      ...(row.round === null ? [] : [make("span", { class: "soft", text: `round ${row.round}` })])));
    item.append(make("div", { class: "own" }, ...textNodes(data.texts[row.text])));
    const scores = Object.entries(row.scores);
    if (scores.length) item.append(facts(scores.map(([name, value]) => [name.replaceAll("_", " "), String(value)])));
    const near = row.near.length ? [folded("Nearest real rows", () => sideBySide(row), byId("all-near").checked)] : [];
    for (const box of near) box.className = "near";
    item.append(make("div", { class: "folds" }, ...near, folded("Where it came from", () => origin(row))));
    return item;
  }

  function showMore(upTo = shown + PAGE) {
    const until = Math.min(upTo, found.length), part = document.createDocumentFragment();
    for (; shown < until; shown += 1) part.append(card(found[shown]));
    list.append(part);
    const left = found.length - shown;
    more.hidden = left <= 0;
    more.textContent = `Show ${number.format(Math.min(PAGE, left))} more`;
    const of = found.length === rows.length ? "" : ` (of ${number.format(rows.length)} in all)`;
    const what = found.length === 1 ? "text" : "texts";
    count.textContent = found.length === 0 ? `No text is found${of}.`
      : left > 0 ? `Showing ${number.format(shown)} of ${number.format(found.length)} ${what}${of}.`
        : `${number.format(found.length)} ${what}${of}.`;
  }

  function search() {
    const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const tag = byId("row-class").value, round = byId("row-round").value, sort = byId("row-sort").value;
    found = [];
    for (let place = 0; place < rows.length; place += 1) {
      const row = rows[place];
      if (tag !== "" && !row.tags.includes(tags[Number(tag)])) continue;
      if (round !== "" && String(row.round) !== round) continue;
      if (words.every((word) => haystacks[place].includes(word))) found.push(place);
    }
    if (sort !== "") {
      const score = scoreNames[Math.floor(Number(sort) / 2)], sign = Number(sort) % 2 ? 1 : -1;
      const value = (place) => rows[place].scores[score] ?? -sign * Infinity;
      found.sort((a, b) => sign * (value(a) - value(b)) || a - b);
    }
    list.replaceChildren();
    shown = 0;
    showMore();
  }

  const tags = [...new Set([...data.classes.filter((name) => rows.some((row) => row.tags.includes(name))),
    ...rows.flatMap((row) => row.tags)])];
  const rounds = [...new Set(rows.map((row) => row.round).filter((round) => round !== null))].sort((a, b) => a - b);
  const scoreNames = [...new Set(rows.flatMap((row) => Object.keys(row.scores)))];
  byId("row-class").append(...tags.map((tag, place) => make("option", { value: place, text: tag })));
  byId("row-round").append(...rounds.map((round) => make("option", { value: round, text: round })));
  byId("row-sort").append(...scoreNames.flatMap((name, place) => [
    make("option", { value: 2 * place, text: `${name.replaceAll("_", " ")}, highest first` }),
    make("option", { value: 2 * place + 1, text: `${name.replaceAll("_", " ")}, lowest first` })]));
  let waiting = 0;
  byId("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
  for (const id of ["row-class", "row-round", "row-sort", "all-near"]) byId(id).addEventListener("change", search);
  byId("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  more.addEventListener("click", () => {
    const next = shown;
    showMore();
    list.children[next]?.focus();
  });
  addEventListener("beforeprint", () => showMore(Math.max(shown, 500)));
  search();

  function openRow(place) {
    let at = found.indexOf(place);
    if (at < 0) {
      byId("search").reset();
      search();
      at = found.indexOf(place);
    }
    if (at >= shown) showMore(at + 1);
    const item = byId(`row-${place}`);
    item.scrollIntoView({ block: "start" });
    item.focus({ preventScroll: true });
  }

  // -- the map ----------------------------------------------------------------------------------------------------------

  if (!data.map) return;
  const map = data.map, total = map.x.length, CHOSEN = map.layers.length - 1;
  const canvas = byId("plane"), pen = canvas.getContext("2d"), readout = byId("readout");
  const probe = make("span", { hidden: "" });
  document.body.append(probe);
  const px = new Float32Array(total), py = new Float32Array(total);
  let visible = [], active = -1, width = 0, height = 0;

  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const used = [...new Set(map.class)].filter((place) => place >= 0).sort((a, b) => a - b);
  byId("map-class").append(...used.map((place) => make("option", { value: place, text: data.classes[place] })));
  const legend = byId("legend");
  legend.append(...used.map((place) => make("li", {}, swatch(place), make("span", { text: data.classes[place] }))));
  if (used.length > MANY_CLASSES) {
    const box = make("details", {}, make("summary", { text: `Marks of the ${used.length} classes` }));
    legend.replaceWith(box);
    box.append(legend);
  }
  const glyphs = {
    "real": picture(shapePath(0, 2), "var(--soft)", "none", 0),
    "turned away": picture("M-4 -4L4 4M-4 4L4 -4", "none", "var(--soft)", 1.5),
    "kept": picture(shapePath(0, 4.5), "none", "var(--soft)", 1.5),
    "chosen": picture(shapePath(0, 7), "var(--ink)", "none", 0),
  };
  for (const box of document.querySelectorAll(".glyph")) box.append(glyphs[box.dataset.layer]);

  function place() {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity], edge = 18;
    for (let k = 0; k < total; k += 1) {
      low[0] = Math.min(low[0], map.x[k]);
      high[0] = Math.max(high[0], map.x[k]);
      low[1] = Math.min(low[1], map.y[k]);
      high[1] = Math.max(high[1], map.y[k]);
    }
    const span = [high[0] - low[0] || 1, high[1] - low[1] || 1];
    const scale = Math.min((width - 2 * edge) / span[0], (height - 2 * edge) / span[1]);
    const left = (width - scale * span[0]) / 2, top = (height - scale * span[1]) / 2;
    for (let k = 0; k < total; k += 1) {
      px[k] = left + (map.x[k] - low[0]) * scale;
      py[k] = top + (high[1] - map.y[k]) * scale;
    }
  }

  function look() {
    const wanted = byId("map-class").value;
    const on = Array.from(document.querySelectorAll("#map-layers input"), (box) => box.checked);
    visible = [];
    for (let k = 0; k < total; k += 1) {
      // Rows without a class, real conversations, are background of every class
      if (on[map.layer[k]] && (wanted === "" || map.class[k] < 0 || String(map.class[k]) === wanted)) visible.push(k);
    }
    if (active >= 0 && !visible.includes(active)) choose(-1);
    draw();
  }

  const paths = new Map();
  function pathOf(place, radius) {
    const key = `${shapeOf(place)} ${radius}`;
    if (!paths.has(key)) paths.set(key, new Path2D(shapePath(shapeOf(place), radius)));
    return paths.get(key);
  }

  function draw() {
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    const inks = Array.from({ length: COLOURS }, (_, k) => colour(`--c${k}`));
    const paper = colour("--sheet"), ink = colour("--ink");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const many = total > 3000;
    for (const k of visible) {
      const layer = map.layers[map.layer[k]], own = inks[colourOf(map.class[k])];
      pen.save();
      pen.translate(px[k], py[k]);
      pen.fillStyle = pen.strokeStyle = own;
      if (layer === "real") {
        pen.globalAlpha = many ? 0.35 : 0.45;
        pen.fill(pathOf(-1, many ? 1.4 : 1.8));
      } else if (layer === "turned away") {
        pen.globalAlpha = 0.75;
        pen.lineWidth = 1.1;
        pen.beginPath();
        pen.moveTo(-2.6, -2.6); pen.lineTo(2.6, 2.6); pen.moveTo(-2.6, 2.6); pen.lineTo(2.6, -2.6);
        pen.stroke();
      } else if (layer === "kept") {
        pen.globalAlpha = many ? 0.55 : 0.85;
        pen.lineWidth = 1.1;
        pen.stroke(pathOf(map.class[k], many ? 2.4 : 3.2));
      } else {
        pen.lineWidth = 2.5;
        pen.strokeStyle = paper;
        pen.stroke(pathOf(map.class[k], 6));
        pen.fill(pathOf(map.class[k], 6));
      }
      pen.restore();
    }
    if (active >= 0) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(px[active], py[active], 11, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  function tell() {
    if (active < 0) {
      readout.replaceChildren();
      return;
    }
    const k = active, chosen = map.layer[k] === CHOSEN;
    const names = { "real": "real row", "turned away": "turned away", "kept": "in the pool", "chosen": "chosen" };
    const name = map.class[k] < 0 ? [] : [make("span", { class: "tag" }, swatch(map.class[k]), make("span", { text: ` ${data.classes[map.class[k]]}` }))];
    const words = chosen ? joined(data.texts[rows[map.text[k]].text]) : map.text[k] || "(its text is not at hand)";
    readout.replaceChildren(
      make("p", { class: "small" }, ...name, `${name.length ? ", " : ""}${names[map.layers[map.layer[k]]]}`),
      make("p", { class: "text", text: words.length > 400 ? `${words.slice(0, 400)} …` : words }),
      ...(map.note[k] ? [make("p", { class: "small", text: map.note[k] })] : []));
    if (chosen) {
      const button = make("button", { type: "button", text: "Open in the list" });
      button.addEventListener("click", () => openRow(map.text[k]));
      readout.append(button);
    }
  }

  function choose(k) {
    if (k === active) return;
    active = k;
    tell();
    draw();
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (const k of visible) {
      const far = (px[k] - x) ** 2 + (py[k] - y) ** 2 - (map.layer[k] === CHOSEN ? 16 : 0);
      if (far < least) { least = far; best = k; }
    }
    return best;
  }

  // The nearest mark within 45 degrees of the direction
  function towards(dx, dy) {
    if (active < 0) return visible.find((k) => map.layer[k] === CHOSEN) ?? visible[0] ?? -1;
    let best = active, least = Infinity;
    for (const k of visible) {
      const x = px[k] - px[active], y = py[k] - py[active];
      const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 0.01 && across <= along && along + 2 * across < least) { least = along + 2 * across; best = k; }
    }
    return best;
  }

  function step(by) {
    const chosen = visible.filter((k) => map.layer[k] === CHOSEN);
    if (!chosen.length) return active;
    const at = chosen.indexOf(active);
    return chosen[at < 0 ? (by > 0 ? 0 : chosen.length - 1) : (at + by + chosen.length) % chosen.length];
  }

  const inside = (event) => {
    const box = canvas.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top, event.pointerType === "touch" ? 22 : 12);
  };
  canvas.addEventListener("pointermove", (event) => {
    const k = inside(event);
    if (k >= 0) choose(k);
  });
  canvas.addEventListener("pointerdown", (event) => choose(inside(event)));
  canvas.addEventListener("dblclick", () => { if (active >= 0 && map.layer[active] === CHOSEN) openRow(map.text[active]); });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: () => towards(-1, 0), ArrowRight: () => towards(1, 0), ArrowUp: () => towards(0, -1),
      ArrowDown: () => towards(0, 1), Home: () => visible.find((k) => map.layer[k] === CHOSEN) ?? active, PageDown: () => step(1), PageUp: () => step(-1),
      Escape: () => -1 };
    if (event.key === "Enter" && active >= 0 && map.layer[active] === CHOSEN) {
      event.preventDefault();
      openRow(map.text[active]);
    } else if (Object.hasOwn(moves, event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      choose(moves[event.key]());
    }
  });
  byId("map-class").addEventListener("change", look);
  byId("map-layers").addEventListener("change", look);
  new ResizeObserver(() => {
    const ratio = devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    place();
    draw();
  }).observe(canvas);
  redraw = draw;
  look();
})();

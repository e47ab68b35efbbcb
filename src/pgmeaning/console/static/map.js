// Draws the points, shows the row below the pointer, and asks what the points within a drawn line have in common. All of
// it by keyboard, too: each colour in the list is a button that chooses its points.
import { ask, element, note, parts, say } from "./common.js";

const COLOURS = ["#3f6fbf", "#d98b2b", "#3d9970", "#b5567f", "#7d64c2", "#5aa5b5", "#a08040", "#8a8f98"];
const MARGIN = 16;
const canvas = element("points");
let chart = null; // x, y, of (each point's colour), labels
let chosen = new Set();
let line = [];
let turn = 0; // answers to what was asked before are late

const wanted = () => ({ collection: element("collection").value, method: element("method").value });

async function fetched(address, given) {
  const answer = await ask(address, { ...wanted(), ...given });
  if (!answer.ok) {
    element("wrong").replaceChildren(...parts(answer.html));
    throw new Error("refused");
  }
  return answer.html;
}

async function load(anew = false) {
  const mine = ++turn;
  chart = null;
  chosen = new Set();
  element("wrong").replaceChildren();
  draw();
  try {
    let answer = JSON.parse(await fetched("/map/points", { anew }));
    while (answer.step && mine === turn) {
      say(`${answer.step[0].toUpperCase()}${answer.step.slice(1)} …`);
      await new Promise((done) => setTimeout(done, 300));
      answer = JSON.parse(await fetched("/map/points", {}));
    }
    if (mine === turn) {
      show(answer);
    }
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  say("");
  if (error.message !== "refused") {
    element("wrong").replaceChildren(note("The page's own server does not answer. Is pgmeaning ui still running?"));
  }
}

function show(answer) {
  chart = { ...answer, of: answer.clusters, labels: answer.groups.map((group) => group.words.slice(0, 4).join(", ") || "…") };
  const options = ["", ...answer.columns].map((name) =>
    Object.assign(document.createElement("option"), { value: name, textContent: name || "cluster" }));
  element("colour").replaceChildren(...options);
  const shown = chart.x.length.toLocaleString();
  say(chart.x.length < answer.total ? `${shown} points, of ${answer.total.toLocaleString()} rows` : `${shown} points`);
  legend();
  draw();
}

function legend() {
  const buttons = chart.labels.map((label, place) => {
    const size = chart.of.filter((one) => one === place).length;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "group" });
    const dot = Object.assign(document.createElement("span"), { className: "dot" });
    dot.style.background = COLOURS[place % COLOURS.length];
    const text = Object.assign(document.createElement("span"), { textContent: label });
    const count = Object.assign(document.createElement("span"), { className: "note", textContent: size.toLocaleString() });
    button.append(dot, text, count);
    button.addEventListener("click", () => choose(chart.of.flatMap((one, point) => (one === place ? [point] : []))));
    const item = document.createElement("li");
    item.append(button);
    return size ? item : null;
  });
  element("groups").replaceChildren(...buttons.filter(Boolean));
}

async function recolour() {
  const column = element("colour").value;
  try {
    if (column) {
      const answer = JSON.parse(await fetched("/map/colours", { column }));
      [chart.of, chart.labels] = [answer.of, answer.labels];
    } else {
      [chart.of, chart.labels] = [chart.clusters, chart.groups.map((group) => group.words.slice(0, 4).join(", ") || "…")];
    }
    legend();
    draw();
  } catch (error) {
    fail(error);
  }
}

async function choose(points) {
  chosen = new Set(points);
  draw();
  if (points.length) {
    const html = await fetched("/map/common", { places: points }).catch(fail);
    element("common").replaceChildren(...parts(html ?? ""));
  }
}

// ---------------------------------------------------------------- Drawing

let [width, height] = [0, 0]; // asked for once a drawing: a hundred thousand times would cost a layout each
const at = (point) => [
  MARGIN + (chart.x[point] / 65535) * (width - 2 * MARGIN),
  MARGIN + (chart.y[point] / 65535) * (height - 2 * MARGIN),
];

function draw() {
  const scale = devicePixelRatio;
  [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  if (!chart) {
    return;
  }
  const size = Math.max(1, Math.min(6.5, 130 / Math.sqrt(chart.x.length)));
  for (let point = 0; point < chart.x.length; point += 1) {
    pen.globalAlpha = chosen.size && !chosen.has(point) ? 0.15 : 0.85;
    pen.fillStyle = COLOURS[chart.of[point] % COLOURS.length];
    const [x, y] = at(point);
    pen.beginPath();
    pen.arc(x, y, size, 0, 7);
    pen.fill();
  }
  if (line.length) {
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.beginPath();
    line.forEach(([x, y]) => pen.lineTo(x, y));
    pen.closePath();
    pen.stroke();
  }
}

function within([x, y]) {
  let inside = false;
  for (let a = 0, b = line.length - 1; a < line.length; b = a, a += 1) {
    const [[x1, y1], [x2, y2]] = [line[a], line[b]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) {
      inside = !inside;
    }
  }
  return inside;
}

function nearest(x, y) {
  let [best, least] = [null, 100];
  for (let point = 0; point < chart.x.length; point += 1) {
    const [px, py] = at(point);
    const away = (px - x) ** 2 + (py - y) ** 2;
    if (away < least) {
      [best, least] = [point, away];
    }
  }
  return best;
}

// ---------------------------------------------------------------- The pointer

let below = null;

async function hover(x, y) {
  const point = nearest(x, y);
  if (point === below) {
    return;
  }
  below = point;
  element("tip").hidden = true;
  if (point === null) {
    return;
  }
  const html = await fetched("/map/row", { place: point }).catch(fail);
  if (below === point && html) {
    element("tip").replaceChildren(...parts(html));
    const [px, py] = at(point);
    element("tip").style.left = `${Math.min(px + 14, width - 330)}px`;
    element("tip").style.top = `${py + 14}px`;
    element("tip").hidden = false;
  }
}

if (canvas) {
  let drawing = false;
  const place = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("pointerdown", (event) => {
    drawing = true;
    line = [place(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drawing) {
      line.push(place(event));
      requestAnimationFrame(draw);
    } else if (chart) {
      hover(...place(event));
    }
  });
  canvas.addEventListener("pointerup", () => {
    drawing = false;
    const points = line.length > 2 && chart ? [...chart.x.keys()].filter((point) => within(at(point))) : [];
    line = [];
    choose(points);
  });
  canvas.addEventListener("pointerleave", () => { below = null; element("tip").hidden = true; });
  element("choose").addEventListener("submit", (event) => { event.preventDefault(); load(true); });
  element("collection").addEventListener("change", () => load());
  element("method").addEventListener("change", () => load());
  element("colour").addEventListener("change", recolour);
  new ResizeObserver(draw).observe(canvas);
  load();
}

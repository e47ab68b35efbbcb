// A query goes to the four kinds of search at once; each column shows its answer when it has it, and then the columns
// are compared: how a row's rank moves, and lines from one column to the next.
import { ask, copied, element, note, parts, say } from "./common.js";

const form = element("ask");
const columns = form ? [...document.querySelectorAll(".column")] : [];
let running = new AbortController();
let image = null;

function given() {
  const told = Object.fromEntries(new FormData(form));
  return { ...told, image };
}

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const wanted = given();
  if (!wanted.query.trim() && !image) {
    return;
  }
  remember(wanted);
  asked = wanted;
  say("Searching");
  columns.forEach((column) => column.setAttribute("aria-busy", "true"));
  const all = columns.map((column) => answer(column, wanted, signal));
  await Promise.allSettled(all);
  if (!signal.aborted) {
    say(columns.map(summary).join(", "));
  }
}

async function answer(column, wanted, signal) {
  let shown;
  try {
    shown = parts((await ask("/column", { ...wanted, kind: column.dataset.kind }, signal)).html);
  } catch (error) {
    if (error.name === "AbortError") {
      return;
    }
    shown = [note("The page's own server does not answer. Is pgmeaning ui still running?")];
  }
  column.querySelector(".answer").replaceChildren(...shown);
  column.removeAttribute("aria-busy");
  compare();
}

function summary(column) {
  const title = column.querySelector("h2").textContent;
  const count = column.querySelectorAll(".hit").length;
  return column.querySelector(".problem") ? `${title}: failed` : `${title}: ${count} rows`;
}

// ---------------------------------------------------------------- What moved

function ranks(column) {
  return new Map([...column.querySelectorAll(".hit")].map((hit) => [hit.dataset.key, Number(hit.dataset.rank)]));
}

function compare() {
  const [first, ...others] = columns;
  const before = ranks(first);
  for (const hit of others.flatMap((column) => [...column.querySelectorAll(".hit")])) {
    const was = before.get(hit.dataset.key);
    show(hit.querySelector(".move"), before.size ? moved(was, Number(hit.dataset.rank)) : null);
  }
  draw();
}

function moved(was, now) {
  if (was === undefined) {
    return ["new", "new", "not among the vectors' rows"];
  }
  const by = was - now;
  if (by === 0) {
    return ["same", "=", "same rank as by vectors"];
  }
  return by > 0 ? ["up", `↑${by}`, `up ${by} from vectors`] : ["down", `↓${-by}`, `down ${-by} from vectors`];
}

function show(place, told) {
  place.replaceChildren();
  if (!told) {
    return;
  }
  const [kind, sign, words] = told;
  place.className = `move ${kind}`;
  place.title = words;
  const spoken = Object.assign(document.createElement("span"), { className: "unseen", textContent: words });
  const seen = Object.assign(document.createElement("span"), { textContent: sign });
  seen.setAttribute("aria-hidden", "true");
  place.append(seen, spoken);
}

// Between neighbouring columns, from a row to the same row.
function draw() {
  const lines = element("lines");
  const box = element("columns").getBoundingClientRect();
  lines.replaceChildren();
  lines.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  for (let place = 1; place < columns.length; place += 1) {
    const [left, right] = [columns[place - 1], columns[place]];
    if (left.getBoundingClientRect().right > right.getBoundingClientRect().left) {
      continue; // on a narrow screen they stand below each other
    }
    const there = new Map([...right.querySelectorAll(".hit")].map((hit) => [hit.dataset.key, hit]));
    for (const hit of left.querySelectorAll(".hit")) {
      if (there.has(hit.dataset.key)) {
        lines.append(line(hit, there.get(hit.dataset.key), box));
      }
    }
  }
}

function line(from, to, box) {
  const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
  const [x1, y1, x2, y2] = [a.right - box.left, a.top + 22 - box.top, b.left - box.left, b.top + 22 - box.top];
  const bend = (x2 - x1) / 2;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`);
  path.dataset.key = from.dataset.key;
  const by = Number(from.dataset.rank) - Number(to.dataset.rank);
  path.setAttribute("class", by > 0 ? "up" : by < 0 ? "down" : "same");
  return path;
}

function highlight(key) {
  for (const one of document.querySelectorAll(".hit, .lines path")) {
    one.classList.toggle("together", key !== undefined && one.dataset.key === key);
  }
}

// ---------------------------------------------------------------- A row in its document

async function open(hit) {
  const wanted = { collection: element("collection").value, key: hit.dataset.key,
    chunk: "chunk" in hit.dataset ? hit.querySelector(".text").textContent : "" };
  const body = element("document-body");
  try {
    body.replaceChildren(...parts((await ask("/document", wanted)).html));
  } catch {
    body.replaceChildren(note("The page's own server does not answer. Is pgmeaning ui still running?"));
  }
  element("document").showModal();
  body.querySelector("mark")?.scrollIntoView({ block: "center" });
}

// ---------------------------------------------------------------- Judgements

let asked = null; // what the rows that are shown are answers to

async function judge(button) {
  const hit = button.closest(".hit");
  const grade = button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.grade;
  const wanted = { collection: asked.collection, query: asked.query, key: hit.dataset.key, grade };
  try {
    const answer = await ask("/judge", wanted);
    element("judged").replaceChildren(...parts(answer.html));
    if (!answer.ok) {
      return;
    }
  } catch {
    element("judged").replaceChildren(note("The page's own server does not answer. Nothing was kept."));
    return;
  }
  for (const same of document.querySelectorAll(".hit")) { // the row may stand in each column
    if (same.dataset.key === hit.dataset.key) {
      for (const thumb of same.querySelectorAll(".thumb")) {
        thumb.setAttribute("aria-pressed", String(thumb.dataset.grade === grade));
      }
    }
  }
}

async function count() {
  const wanted = new URLSearchParams({ collection: element("collection").value });
  const answer = await ask(`/judged?${wanted}`).catch(() => ({ html: "" }));
  element("judged").replaceChildren(...parts(answer.html));
}

// ---------------------------------------------------------------- An image to search for

async function take(file) {
  if (!file?.type.startsWith("image/")) {
    say("That is no image");
    return;
  }
  image = await new Promise((done) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(reader.result));
    reader.readAsDataURL(file);
  });
  element("preview").src = image;
  element("preview").alt = `The image to search for: ${file.name}`;
  element("preview").hidden = element("no-image").hidden = false;
  search();
}

function forget() {
  image = null;
  element("image").value = "";
  element("preview").removeAttribute("src");
  element("preview").hidden = element("no-image").hidden = true;
  element("image").focus();
}

async function explain(picture) {
  const said = await ask(picture.src).then((answer) => answer.html, () => "");
  const why = parts(said).map((part) => part.textContent.trim()).join(" ").replace(/\s+/g, " ");
  picture.replaceWith(Object.assign(document.createElement("p"), { className: "note", textContent: `No picture: ${why}` }));
  draw();
}

// ---------------------------------------------------------------- The address says what is shown

function remember(wanted) {
  const told = new URLSearchParams();
  for (const name of ["collection", "query", "filter", "k", "rerank"]) {
    if (wanted[name] && String(wanted[name]) !== form.elements[name].defaultValue) {
      told.set(name, wanted[name]);
    }
  }
  const address = `${location.pathname}?${told}`;
  if (address !== location.pathname + location.search) {
    history.pushState(null, "", address);
  }
  sessionStorage.setItem(`filter ${form.elements.filter.value}`, "run");
}

function recall() {
  const told = new URLSearchParams(location.search);
  for (const name of ["query", "filter", "k", "rerank"]) {
    form.elements[name].value = told.get(name) ?? form.elements[name].defaultValue;
  }
  if (told.has("collection")) {
    form.elements.collection.value = told.get("collection");
  }
  chosen();
  // A filter is SQL: an address that somebody else made may fill it in, but a person has to run it once.
  const filter = form.elements.filter.value;
  if (!filter || sessionStorage.getItem(`filter ${filter}`)) {
    search();
  }
}

function chosen() {
  const option = element("collection").selectedOptions[0];
  element("columns-named").textContent = option?.dataset.columns || "–";
  element("drop").hidden = option?.dataset.images !== "yes";
  if (element("drop").hidden) {
    image = null;
  }
  count();
}

if (form) {
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  element("collection").addEventListener("change", () => { chosen(); search(); });
  element("image").addEventListener("change", (event) => take(event.target.files[0]));
  element("no-image").addEventListener("click", () => { forget(); search(); });
  addEventListener("popstate", recall);
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      if (kind === "drop" && !element("drop").hidden) {
        take(event.dataTransfer.files[0]);
      }
    });
  }
  const area = element("columns");
  area.addEventListener("click", (event) => {
    const hit = event.target.closest(".hit");
    if (event.target.closest(".open")) {
      open(hit);
    } else if (event.target.closest(".thumb")) {
      judge(event.target.closest(".thumb"));
    } else if (event.target.closest(".copy")) {
      copied(event.target, event.target.parentElement.querySelector("pre").textContent);
    } else if (event.target.closest(".text")) {
      event.target.closest(".text").classList.toggle("long");
      draw();
    }
  });
  for (const kind of ["mouseover", "focusin"]) {
    area.addEventListener(kind, (event) => highlight(event.target.closest(".hit")?.dataset.key));
  }
  area.addEventListener("mouseleave", () => highlight());
  area.addEventListener("error", (event) => event.target.matches(".thumbnail") && explain(event.target), true);
  area.addEventListener("load", draw, true);
  new ResizeObserver(draw).observe(area);
  element("close-document").addEventListener("click", () => element("document").close());
  recall();
}

// Asks every two seconds what is going on, and changes only what differs: focus, selection and scrolling stay.
import { ask, element, note, parts, say } from "./common.js";
import { morph } from "./morph.js";

const EVERY = 2000;
let awaySince = null;

async function look() {
  let answer;
  try {
    answer = await ask("/operations/now");
  } catch {
    answer = { ok: false, html: "", silent: true };
  }
  if (answer.ok) {
    recovered();
    const fresh = document.createElement("div");
    fresh.append(...parts(answer.html));
    morph(element("now"), fresh);
  } else {
    away(answer);
  }
  setTimeout(look, EVERY);
}

function away(answer) {
  awaySince ??= new Date().toLocaleTimeString();
  const what = answer.silent ? "The page's own server does not answer" : "The database does not answer";
  const told = `${what} since ${awaySince}. It is asked again every two seconds; below is what was last seen.`;
  if (element("away").dataset.told !== told) { // said once, not every two seconds
    element("away").dataset.told = told;
    element("away").replaceChildren(note(told), ...parts(answer.html));
  }
  element("now").classList.add("stale");
}

function recovered() {
  if (awaySince !== null) {
    awaySince = null;
    delete element("away").dataset.told;
    element("away").replaceChildren();
    element("now").classList.remove("stale");
    say("The database answers again");
  }
}

element("now").addEventListener("click", async (event) => {
  if (event.target.matches(".retry")) {
    const answer = await ask("/retry", { collection: event.target.dataset.collection });
    say(parts(answer.html).map((part) => part.textContent.trim()).join(" "));
  }
});
look();

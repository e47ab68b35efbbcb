// What all pages share: asking the server, and parts of a page as the server wrote them.

export const element = (id) => document.getElementById(id);

// The parts that an answer consists of. Scripts in it would not run: it is parsed apart, and the policy forbids them.
export function parts(html) {
  return [...new DOMParser().parseFromString(html, "text/html").body.childNodes];
}

export function say(text) {
  element("told").textContent = text;
}

// The answer as HTML; a failed connection is an answer, too.
export async function ask(address, given, signal) {
  const options = given === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
  };
  const answer = await fetch(address, { ...options, signal });
  return { ok: answer.ok, status: answer.status, html: await answer.text() };
}

export function note(text, kind = "problem") {
  const made = document.createElement("div");
  made.className = kind;
  made.setAttribute("role", "alert");
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  made.append(paragraph);
  return made;
}

export async function copied(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector("pre"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

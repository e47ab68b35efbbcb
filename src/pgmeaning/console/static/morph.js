// Makes a part of the page equal to a fresh one by the fewest changes: what is the same stays the same element.

export function morph(old, fresh) {
  const known = new Map([...old.children].filter(name).map((child) => [name(child), child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const named = wanted.nodeType === 1 && name(wanted) ? known.get(name(wanted)) : undefined;
    const match = named ?? (place && alike(place, wanted) ? place : null);
    if (!match) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (match === place) {
      place = place.nextSibling;
    } else {
      old.insertBefore(match, place);
    }
    update(match, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function name(node) {
  return node.id || node.dataset?.id;
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.nodeType !== 1 || (!name(a) && !name(b)));
}

function update(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.nodeValue !== fresh.nodeValue) {
      old.nodeValue = fresh.nodeValue;
    }
    return;
  }
  for (const { name: attribute } of [...old.attributes]) {
    if (!fresh.hasAttribute(attribute)) {
      old.removeAttribute(attribute);
    }
  }
  for (const { name: attribute, value } of fresh.attributes) {
    if (old.getAttribute(attribute) !== value) {
      old.setAttribute(attribute, value);
    }
  }
  morph(old, fresh);
}

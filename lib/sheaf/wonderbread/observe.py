"""What a page shows, read by a script inside it: its visible elements, and the element an action is about to hit."""

from typing import Any

__all__ = ["AT_ELEMENT", "FOCUSED", "LOOK", "normalise"]

# Shared by the scripts below. An xpath is absolute: tag[position among the siblings of that tag].
_LIBRARY = r"""
  const clean = (s) => (s || "").replace(/\s+/g, " ").trim();
  const xpath = (e) => {
    const parts = [];
    for (; e && e.nodeType === 1; e = e.parentNode) {
      let nth = 1;
      for (let s = e.previousElementSibling; s; s = s.previousElementSibling) if (s.tagName === e.tagName) nth++;
      parts.unshift(e.tagName.toLowerCase() + "[" + nth + "]");
    }
    return "/" + parts.join("/");
  };
  const label = (e) => clean(e.getAttribute("aria-label")) ||
    (e.labels && e.labels.length ? clean(e.labels[0].textContent) : "") || null;
  const value = (e) => {
    const tag = e.tagName.toLowerCase();
    if (tag === "select") return clean([...e.selectedOptions].map((o) => o.textContent).join(", "));
    if (tag === "textarea") return e.value;
    if (tag !== "input" || e.type === "password" || e.type === "file") return null;
    return e.type === "checkbox" || e.type === "radio" ? (e.checked ? "checked" : "") : e.value;
  };
  const text = (e) => {
    const tag = e.tagName.toLowerCase();
    if (["input", "select", "textarea"].includes(tag)) return value(e) || "";
    return tag === "img" ? clean(e.alt) : clean(e.innerText).slice(0, 300);
  };
  const shown = (r, e) => {
    if (r.width <= 3 || r.height <= 3) return false;
    if (r.bottom <= 0 || r.right <= 0 || r.top >= innerHeight || r.left >= innerWidth) return false;
    return e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const box = (r) => ({ x: Math.round(r.x), y: Math.round(r.y), width: Math.round(r.width), height: Math.round(r.height) });
  const brief = (e, r) => ({
    ...box(r), text: text(e), role: e.getAttribute("role"), type: e.getAttribute("type"),
    tag: e.tagName.toLowerCase(), label: label(e), xpath: xpath(e),
  });
  const full = (e) => e && e.nodeType === 1 && e !== document.body ? {
    ...brief(e, e.getBoundingClientRect()), placeholder: e.getAttribute("placeholder"), value: value(e),
  } : null;
"""

# A page as a state: its address, title, HTML when asked, and the visible elements:
# the seven tags, and text that stands outside them, larger than 3 x 3 pixels and in the viewport.
LOOK = (
    "(withHtml) => {"
    + _LIBRARY
    + r"""
  const tags = "input,textarea,button,select,label,a,img";
  const found = [];
  const walk = (node) => {
    for (const child of node.childNodes) {
      if (child.nodeType === 1) {
        const name = child.tagName.toLowerCase();
        if (["script", "style", "noscript", "template", "svg"].includes(name)) continue;
        const listed = child.matches(tags);
        const r = child.getBoundingClientRect();
        if (listed && shown(r, child)) found.push(brief(child, r));
        if (!["select", "textarea", "button", "a"].includes(name)) walk(child);
        else if (name === "a" && child.querySelector("img,input,button")) walk(child);
      } else if (child.nodeType === 3 && clean(child.data) && !node.closest(tags)) {
        const range = document.createRange();
        range.selectNodeContents(child);
        const r = range.getBoundingClientRect();
        if (shown(r, node)) found.push({
          ...box(r), text: clean(child.data).slice(0, 300), role: null, type: null, tag: "text", label: null,
          xpath: xpath(node) + "/text()",
        });
      }
    }
  };
  walk(document.body);
  return {
    url: location.href, tab: document.title, elements: found,
    html: withHtml ? document.documentElement.outerHTML : null,
  };
}"""
)

AT_ELEMENT = "(e) => {" + _LIBRARY + "return full(e); }"
FOCUSED = "() => {" + _LIBRARY + "return full(document.activeElement); }"


def normalise(value: Any, origin: str, public: str) -> Any:
    """Texts inside ``value`` with the address the application had here replaced by the one that goes on record."""
    if isinstance(value, str):
        return value.replace(origin, public)
    if isinstance(value, dict):
        return {key: normalise(part, origin, public) for key, part in value.items()}
    if isinstance(value, list):
        return [normalise(part, origin, public) for part in value]
    return value

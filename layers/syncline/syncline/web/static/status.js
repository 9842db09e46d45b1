// Says so when the page can no longer be updated. Everything else is done by htmx, from attributes of the page.
(() => {
  "use strict";
  const banner = () => document.getElementById("offline-banner");
  let since = null;
  const failed = () => {
    since ??= new Date();
    const time = since.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const element = banner();
    if (element) {
      element.textContent = `Not updated since ${time}: the console does not answer.`;
      element.hidden = false;
    }
  };
  document.addEventListener("htmx:sendError", failed);
  document.addEventListener("htmx:timeout", failed);
  document.addEventListener("htmx:responseError", failed);
  document.addEventListener("htmx:afterOnLoad", () => {
    since = null;
    const element = banner();
    if (element) element.hidden = true;
  });
})();
